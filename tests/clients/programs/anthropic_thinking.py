"""Thinking, counting, caching, models and batches through the `anthropic` package, any version of it."""

from __future__ import annotations

import time
import uuid
from typing import Any

import anthropic
from anthropic_text import VERSIONS, client_of, greedy, text_of
from anthropic_tools import TOOLS, refused
from setting import CLOCK, WEATHER, Setting, ask, events, grammar, raw

BUDGET = 1024
THINKING: dict[str, Any] = {"type": "enabled", "budget_tokens": BUDGET}


def thought(setting: Setting, **more: Any) -> anthropic.types.Message:
    """A reply after thinking."""
    given = {
        "model": setting.model,
        "max_tokens": BUDGET + 60,
        "messages": ask(),
        "thinking": THINKING,
        **more,
    }
    return client_of(setting).messages.create(**given)


def check_thinking_has_a_budget_and_a_signature(setting: Setting) -> None:
    message = thought(setting)
    first = message.content[0]
    assert first.type == "thinking" and first.signature
    details = message.usage.model_dump()["output_tokens_details"]
    assert 0 < details["thinking_tokens"] <= BUDGET + 2
    assert details["thinking_tokens"] <= message.usage.output_tokens


def check_thinking_is_off_unless_asked_for(setting: Setting) -> None:
    for more in ({}, {"thinking": {"type": "disabled"}}):
        assert {block.type for block in greedy(setting, **more).content} == {"text"}


def check_thinking_streams(setting: Setting) -> None:
    body = {
        "model": setting.model, "max_tokens": BUDGET + 60, "messages": ask(), "thinking": THINKING,
        "stream": True,
    }  # fmt: skip
    found = events(raw(setting, "POST", "/v1/messages", body).text)
    blocks = grammar(found, model=setting.model)
    assert blocks[0]["type"] == "thinking" and blocks[0]["signature"]
    with client_of(setting).messages.stream(
        model=setting.model, max_tokens=BUDGET + 60, messages=ask(), thinking=THINKING
    ) as stream:
        final = stream.get_final_message()
    assert final.content[0].type == "thinking" and final.content[0].signature


def check_thinking_goes_back_and_is_verified(setting: Setting) -> None:
    message = thought(setting)
    turns = [*ask(), {"role": "assistant", "content": message.content}, *ask("And then?")]
    assert thought(setting, messages=turns).content
    blocks = [block.model_dump(mode="json", exclude_none=True) for block in message.content]
    for change in ({"signature": "A" + blocks[0]["signature"][1:-2] + "xx"}, {"thinking": "another"}):
        bad = [{**blocks[0], **change}, *blocks[1:]]
        said = refused(setting, messages=[*ask(), {"role": "assistant", "content": bad}, *ask("And then?")])
        assert "Invalid `signature` in `thinking` block" in said


def check_thinking_can_be_omitted(setting: Setting) -> None:
    body = {"thinking": {**THINKING, "display": "omitted"}}
    given = {"model": setting.model, "max_tokens": BUDGET + 60, "messages": ask(), "extra_body": body}
    message = client_of(setting).messages.create(**given)
    assert message.content[0].type == "thinking" and message.content[0].thinking == ""
    assert message.content[0].signature
    sent = {"model": setting.model, "max_tokens": BUDGET + 60, "messages": ask(), "stream": True, **body}
    found = events(raw(setting, "POST", "/v1/messages", sent).text)
    assert "thinking_delta" not in {e.get("delta", {}).get("type") for e in found}
    assert grammar(found, model=setting.model)[0]["signature"]


def check_impossible_thinking_is_refused(setting: Setting) -> None:
    assert "budget_tokens" in refused(setting, thinking={"type": "enabled", "budget_tokens": 100})
    refused(setting, max_tokens=BUDGET, thinking=THINKING)
    refused(setting, max_tokens=2000, thinking=THINKING, tool_choice={"type": "any"})
    begun = [*ask(), {"role": "assistant", "content": "It is"}]
    refused(setting, max_tokens=2000, thinking=THINKING, messages=begun)


def check_other_kinds_of_thinking(setting: Setting) -> None:
    for kind in ("adaptive", "between_tools"):
        body = {"model": setting.model, "max_tokens": 40, "messages": ask(), "thinking": {"type": kind}}
        answer = raw(setting, "POST", "/v1/messages", body)
        assert answer.status == 200, answer.text


def check_count_is_the_usage(setting: Setting) -> None:
    client = client_of(setting)
    call = {"type": "tool_use", "id": "toolu_1", "name": "clock", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "noon"}
    bodies: list[dict[str, Any]] = [
        {"messages": ask()},
        {"messages": ask("naïve ☂ owls"), "system": "Speak of owls."},
        {"messages": ask(), "tools": TOOLS},
        {"messages": ask(), "tools": TOOLS, "tool_choice": {"type": "any"}},
        {"messages": ask(), "tools": []},
        {"messages": ask(), "thinking": THINKING},
        {"messages": [*ask(), {"role": "assistant", "content": "It is"}]},
        {"messages": [*ask(), {"role": "assistant", "content": "Mara."}, *ask("And then?")]},
        {
            "messages": [
                *ask(), {"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}
            ],
            "tools": [CLOCK],
        },
    ]  # fmt: skip
    for body in bodies:
        counted = client.messages.count_tokens(model=setting.model, **body).input_tokens
        used = client.messages.create(model=setting.model, max_tokens=BUDGET + 1, **body).usage
        whole = used.input_tokens + used.cache_creation_input_tokens + used.cache_read_input_tokens
        assert counted == whole, body


def check_the_cache_is_counted(setting: Setting) -> None:
    system = [
        {
            "type": "text", "text": f"{uuid.uuid4()} " + "The mill grinds grain. " * 230,
            "cache_control": {"type": "ephemeral"},
        }
    ]  # fmt: skip
    counted = client_of(setting).messages.count_tokens(
        model=setting.model, messages=ask(), system=system
    ).input_tokens  # fmt: skip
    first = greedy(setting, 4, system=system).usage
    assert first.cache_creation_input_tokens > 0 and first.cache_read_input_tokens == 0
    again = greedy(setting, 4, system=system).usage
    assert again.cache_read_input_tokens > 0
    assert again.cache_read_input_tokens + again.cache_creation_input_tokens == (
        first.cache_creation_input_tokens
    )
    for usage in (first, again):
        whole = usage.input_tokens + usage.cache_creation_input_tokens + usage.cache_read_input_tokens
        assert whole == counted
    created = first.model_dump()["cache_creation"]
    assert sum(created.values()) == first.cache_creation_input_tokens
    plain = greedy(setting, 4).usage
    assert (plain.cache_creation_input_tokens, plain.cache_read_input_tokens) == (0, 0)


def check_at_most_four_breakpoints(setting: Setting) -> None:
    block = {"type": "text", "text": "Owls.", "cache_control": {"type": "ephemeral"}}
    refused(setting, system=[block] * 5)
    assert greedy(setting, 2, system=[{**block, "cache_control": {"type": "ephemeral", "ttl": "1h"}}]).content
    body = {"cache_control": {"type": "ephemeral"}}
    assert greedy(setting, 2, extra_body=body).content


def check_models(setting: Setting) -> None:
    client = client_of(setting)
    page = client.models.list(limit=1)
    assert page.data and page.data[0].type == "model"
    ids = [model.id for model in client.models.list()]
    assert setting.model in ids
    one = client.models.retrieve(setting.model)
    assert one.id == setting.model and one.display_name and one.created_at is not None
    whole = raw(setting, "GET", f"/v1/models/{setting.model}").json()
    assert whole["lifecycle"] == "active" and whole["max_input_tokens"] and whole["object"] == "model"
    listed = raw(setting, "GET", "/v1/models").json()
    assert {"data", "has_more", "first_id", "last_id", "object"} <= set(listed)
    try:
        client.models.retrieve("none-such")
    except anthropic.NotFoundError as error:
        assert "none-such" in str(error)
    else:
        raise AssertionError


def check_batches(setting: Setting) -> None:
    client = client_of(setting)
    good = {"model": setting.model, "max_tokens": 5, "messages": ask()}
    bad = {"model": setting.model, "max_tokens": 5, "messages": ask(), "tool_choice": {"type": "any"}}
    asked = [{"custom_id": f"c{i}", "params": good} for i in range(3)]
    made = client.messages.batches.create(requests=[*asked, {"custom_id": "bad", "params": bad}])
    assert made.id.startswith("msgbatch_") and made.processing_status == "in_progress"
    assert made.results_url is None and sum(made.request_counts.model_dump().values()) == 4
    deadline = time.monotonic() + 60
    while (found := client.messages.batches.retrieve(made.id)).processing_status != "ended":
        assert found.request_counts.processing == 4 and time.monotonic() < deadline
        time.sleep(0.1)
    assert found.request_counts.succeeded == 3 and found.request_counts.errored == 1
    assert found.results_url is not None and found.results_url.startswith(setting.url)
    results = {line.custom_id: line.result for line in client.messages.batches.results(made.id)}
    assert set(results) == {"c0", "c1", "c2", "bad"} and results["bad"].type == "errored"
    assert results["c0"].type == "succeeded" and results["c0"].message.usage.output_tokens <= 5
    assert made.id in [batch.id for batch in client.messages.batches.list(limit=5)]
    assert client.messages.batches.delete(made.id).type == "message_batch_deleted"
    try:
        client.messages.batches.retrieve(made.id)
    except anthropic.NotFoundError:
        pass
    else:
        raise AssertionError


def check_batches_are_checked_as_a_whole(setting: Setting) -> None:
    one = {"custom_id": "same", "params": {"model": setting.model, "max_tokens": 5, "messages": ask()}}
    try:
        client_of(setting).messages.batches.create(requests=[one, one])
    except anthropic.BadRequestError as error:
        assert "custom_id" in str(error)
    else:
        raise AssertionError


def check_a_batch_is_cancelled(setting: Setting) -> None:
    client = client_of(setting)
    params = {"model": setting.model, "max_tokens": 400, "messages": ask()}
    made = client.messages.batches.create(
        requests=[{"custom_id": f"c{i}", "params": params} for i in range(60)]
    )
    client.messages.batches.cancel(made.id)
    deadline = time.monotonic() + 60
    while client.messages.batches.retrieve(made.id).processing_status != "ended":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    counts = client.messages.batches.retrieve(made.id).request_counts
    assert counts.canceled > 0 and counts.canceled + counts.succeeded == 60


def check_the_weather_in_both_versions(setting: Setting) -> None:
    for version in VERSIONS:
        body = {
            "model": setting.model, "max_tokens": 100, "messages": ask(), "tools": [WEATHER],
            "tool_choice": {"type": "any"},
        }  # fmt: skip
        answer = raw(setting, "POST", "/v1/messages", body, version=version)
        assert answer.json()["content"][-1]["type"] == "tool_use"


def check_same_text_twice(setting: Setting) -> None:
    assert text_of(greedy(setting)) == text_of(greedy(setting))
