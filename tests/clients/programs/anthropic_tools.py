"""Tools and structured output through the `anthropic` package, any version of it."""

from __future__ import annotations

import json
import re
from typing import Any

import anthropic
from anthropic_text import GREEDY, client_of, text_of
from setting import CLOCK, WEATHER, Setting, ask, events, grammar, raw, valid_weather

TOOLS = [WEATHER, CLOCK]


def called(setting: Setting, **more: Any) -> anthropic.types.Message:
    """A reply with the tools offered."""
    given = {"model": setting.model, "max_tokens": 120, "messages": ask(), "tools": TOOLS, **more}
    return client_of(setting).messages.create(**given)


def calls_of(message: Any) -> list[Any]:
    """Its tool calls."""
    return [block for block in message.content if block.type == "tool_use"]


def forced(setting: Setting) -> Any:
    """A call of the weather."""
    return calls_of(called(setting, tool_choice={"type": "tool", "name": "weather"}))[0]


def check_auto(setting: Setting) -> None:
    message = called(setting, tool_choice={"type": "auto"})
    assert (message.stop_reason == "tool_use") == bool(calls_of(message))


def check_any(setting: Setting) -> None:
    message = called(setting, tool_choice={"type": "any"})
    calls = calls_of(message)
    assert calls and message.stop_reason == "tool_use"
    for call in calls:
        assert re.fullmatch(r"toolu_[A-Za-z0-9_-]{1,58}", call.id) and call.name in ("weather", "clock")
        if call.name == "weather":
            valid_weather(call.input)
        else:
            assert call.input == {}


def check_the_named_one(setting: Setting) -> None:
    for _ in range(3):
        message = called(setting, tool_choice={"type": "tool", "name": "weather"})
        (call,) = calls_of(message)
        assert call.name == "weather" and message.stop_reason == "tool_use"
        valid_weather(call.input)


def check_none(setting: Setting) -> None:
    for _ in range(3):
        message = called(setting, tool_choice={"type": "none"})
        assert not calls_of(message) and message.stop_reason != "tool_use"


def check_one_at_most(setting: Setting) -> None:
    message = called(setting, tool_choice={"type": "any", "disable_parallel_tool_use": True})
    assert len(calls_of(message)) == 1


def check_a_forced_call_streams(setting: Setting) -> None:
    body = {
        "model": setting.model, "max_tokens": 120, "messages": ask(), "tools": TOOLS, "stream": True,
        "tool_choice": {"type": "tool", "name": "weather"},
    }  # fmt: skip
    found = events(raw(setting, "POST", "/v1/messages", body).text)
    blocks = grammar(found, model=setting.model)
    assert [block["type"] for block in blocks] == ["tool_use"]
    valid_weather(blocks[0]["input"])
    pieces = [e["delta"]["partial_json"] for e in found if e["type"] == "content_block_delta"]
    assert pieces, "its input comes before the end"
    with client_of(setting).messages.stream(
        model=setting.model, max_tokens=120, messages=ask(), tools=TOOLS,
        tool_choice={"type": "tool", "name": "weather"},
    ) as stream:  # fmt: skip
        for event in stream:
            if event.type == "input_json":
                assert isinstance(event.snapshot, dict)
        final = stream.get_final_message()
    valid_weather(calls_of(final)[0].input)


def check_a_tool_without_arguments(setting: Setting) -> None:
    choice = {"type": "tool", "name": "clock"}
    assert calls_of(called(setting, tool_choice=choice))[0].input == {}
    body = {"model": setting.model, "max_tokens": 60, "messages": ask(), "tools": TOOLS, "stream": True}
    answer = raw(setting, "POST", "/v1/messages", {**body, "tool_choice": choice})
    assert grammar(events(answer.text), model=setting.model)[0]["input"] == {}


def check_results_go_back(setting: Setting) -> None:
    call = forced(setting)
    result: dict[str, Any] = {"type": "tool_result", "tool_use_id": call.id}
    shapes: list[list[dict[str, Any]]] = [
        [{**result, "content": "rain"}],
        [result],
        [{**result, "content": [{"type": "text", "text": "rain"}]}],
        [{**result, "content": "no such place", "is_error": True}],
        [{**result, "content": "rain"}, {"type": "text", "text": "And the river?"}],
    ]
    for shape in shapes:
        turns = [*ask(), {"role": "assistant", "content": [call]}, {"role": "user", "content": shape}]
        message = called(setting, messages=turns)
        assert message.usage.input_tokens > 0


def check_calls_and_results_must_match(setting: Setting) -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": "clock", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "noon"}
    wrong: list[list[dict[str, Any]]] = [
        [*ask(), {"role": "assistant", "content": [call]}, *ask("And?")],
        [{"role": "user", "content": [result]}],
        [
            *ask(), {"role": "assistant", "content": [call]},
            {"role": "user", "content": [{**result, "tool_use_id": "toolu_2"}]},
        ],
    ]  # fmt: skip
    for messages in wrong:
        refused(setting, messages=messages)


def refused(setting: Setting, **more: Any) -> str:
    """The message of a 400."""
    try:
        called(setting, **more)
    except anthropic.BadRequestError as error:
        assert error.body["error"]["type"] == "invalid_request_error"
        return error.body["error"]["message"]
    raise AssertionError(f"taken: {more}")


def check_malformed_tools(setting: Setting) -> None:
    refused(setting, tools=[CLOCK, CLOCK])
    assert "none_such" in refused(setting, tool_choice={"type": "tool", "name": "none_such"})
    assert "input_schema" in refused(setting, tools=[{"name": "bare"}])


def check_no_tools_are_none(setting: Setting) -> None:
    assert not calls_of(called(setting, tools=[]))


def check_fields_of_tools_that_are_ignored(setting: Setting) -> None:
    tool = {
        **WEATHER, "type": "custom", "strict": True, "defer_loading": False, "eager_input_streaming": True,
        "input_examples": [{"place": "mill", "days": 1}], "cache_control": {"type": "ephemeral"},
    }  # fmt: skip
    valid_weather(calls_of(called(setting, tools=[tool], tool_choice={"type": "any"}))[0].input)


def check_structured_output(setting: Setting) -> None:
    schema = WEATHER["input_schema"]
    body = {**GREEDY, "output_config": {"format": {"type": "json_schema", "schema": schema}}}
    given = {"model": setting.model, "max_tokens": 120, "messages": ask(), "extra_body": body}
    message = client_of(setting).messages.create(**given)
    valid_weather(json.loads(text_of(message)))
    with client_of(setting).messages.stream(**given) as stream:
        said = "".join(stream.text_stream)
    assert said == text_of(message)


def check_a_cut_call_says_so(setting: Setting) -> None:
    message = called(setting, max_tokens=12, tool_choice={"type": "tool", "name": "weather"})
    assert message.stop_reason == "max_tokens"
    for call in calls_of(message):
        assert isinstance(call.input, dict)
