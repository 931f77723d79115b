"""Text through the `anthropic` package, any version of it: create, stream, system, turns, prefill, stops."""

from __future__ import annotations

import asyncio
from typing import Any

import anthropic
from setting import USAGE, Setting, ask, events, grammar, piece_of, raw, sane_message

GREEDY: dict[str, Any] = {"temperature": 0}
"""By `extra_body`: the newest signature has no temperature."""
VERSIONS = ("2023-06-01", "2026-10-21")


_CLIENTS: dict[str, anthropic.Anthropic] = {}


def client_of(setting: Setting, key: str | None = None) -> anthropic.Anthropic:
    """The client with this key, which does not try again."""
    key = setting.key if key is None else key
    if key not in _CLIENTS:
        _CLIENTS[key] = anthropic.Anthropic(base_url=setting.url, api_key=key, max_retries=0)
    return _CLIENTS[key]


def close_clients() -> None:
    """Close what `client_of` opened."""
    while _CLIENTS:
        _CLIENTS.popitem()[1].close()


def greedy(setting: Setting, tokens: int = 40, **more: Any) -> anthropic.types.Message:
    """The reply that does not depend on chance."""
    given = {"model": setting.model, "max_tokens": tokens, "messages": ask(), "extra_body": GREEDY, **more}
    return client_of(setting).messages.create(**given)


def text_of(message: Any) -> str:
    """Its visible text."""
    return "".join(block.text for block in message.content if block.type == "text")


def check_create(setting: Setting) -> None:
    response = client_of(setting).messages.with_raw_response.create(
        model=setting.model, max_tokens=20, messages=ask(), metadata={"user_id": "u"}
    )
    message = response.parse()
    assert message.stop_reason in ("end_turn", "max_tokens") and message.stop_sequence is None
    assert message.usage.output_tokens <= 20 and message.usage.input_tokens > 0
    assert message.content[0].type == "text"
    whole = response.http_response.json()
    sane_message(whole, model=setting.model)
    assert response.headers["request-id"].startswith("req_")
    assert message._request_id == response.headers["request-id"]


def check_request_ids_are_unique(setting: Setting) -> None:
    made = {greedy(setting, 1)._request_id for _ in range(3)}
    assert len(made) == 3


def check_raw_stream(setting: Setting) -> None:
    whole = greedy(setting)
    stream = client_of(setting).messages.create(
        model=setting.model, max_tokens=40, messages=ask(), stream=True, extra_body=GREEDY
    )
    found = [event.model_dump(mode="json") for event in stream]
    text = "".join(
        e["delta"]["text"] for e in found if e["type"] == "content_block_delta" and "text" in e["delta"]
    )
    assert text == text_of(whole)
    end = next(e for e in found if e["type"] == "message_delta")
    assert end["delta"]["stop_reason"] == whole.stop_reason
    assert end["usage"]["output_tokens"] == whole.usage.output_tokens
    assert end["usage"]["input_tokens"] == whole.usage.input_tokens


def check_stream_helper(setting: Setting) -> None:
    whole = greedy(setting)
    with client_of(setting).messages.stream(
        model=setting.model, max_tokens=40, messages=ask(), extra_body=GREEDY
    ) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
        assert stream.response.headers["request-id"].startswith("req_")
    assert text == text_of(whole) == text_of(final)
    assert final.stop_reason == whole.stop_reason
    assert final.usage.output_tokens == whole.usage.output_tokens
    assert final.usage.input_tokens == whole.usage.input_tokens


def check_frames(setting: Setting) -> None:
    for version in VERSIONS:
        body = {"model": setting.model, "max_tokens": 30, "messages": ask(), "stream": True}
        answer = raw(setting, "POST", "/v1/messages?beta=true", body, version=version)
        assert answer.status == 200 and answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["request-id"].startswith("req_")
        grammar(events(answer.text), model=setting.model)
        assert "ping" in {event["type"] for event in events(answer.text)}


def check_only_true_streams(setting: Setting) -> None:
    for given in ({}, {"stream": False}):
        body = {"model": setting.model, "max_tokens": 3, "messages": ask(), **given}
        answer = raw(setting, "POST", "/v1/messages", body)
        assert answer.status == 200
        sane_message(answer.json(), model=setting.model)


def check_system(setting: Setting) -> None:
    plain = greedy(setting)
    one = greedy(setting, system="Speak of owls.")
    same = greedy(setting, system=[{"type": "text", "text": "Speak of owls."}])
    assert text_of(one) == text_of(same) and one.usage.input_tokens == same.usage.input_tokens
    assert one.usage.input_tokens > plain.usage.input_tokens


def check_system_inside_messages(setting: Setting) -> None:
    body: dict[str, Any] = {"model": setting.model, "max_tokens": 5, "messages": ask()}
    plain = raw(setting, "POST", "/v1/messages", body).json()["usage"]["input_tokens"]
    body["messages"] = [*ask(), {"role": "system", "content": "Speak of owls now."}]
    answer = raw(setting, "POST", "/v1/messages", body)
    assert answer.status == 200, answer.text
    assert answer.json()["usage"]["input_tokens"] >= plain + len("Speak of owls now.")
    body["messages"] = [{"role": "system", "content": "Owls."}, *ask()]
    assert raw(setting, "POST", "/v1/messages", body).status == 200


def check_turns(setting: Setting) -> None:
    first = greedy(setting)
    turns = [
        *ask(),
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": "And then?"},
    ]
    second = greedy(setting, messages=turns)
    assert second.usage.input_tokens > first.usage.input_tokens
    pair = [{"role": "user", "content": "Who lives"}, {"role": "user", "content": "at the mill?"}]
    assert greedy(setting, messages=pair).usage.input_tokens > 0
    blocks = [{"role": "user", "content": [{"type": "text", "text": ask()[0]["content"]}]}]
    assert text_of(greedy(setting, messages=blocks)) == text_of(first)


def check_prefill(setting: Setting) -> None:
    whole = text_of(greedy(setting))
    cut = next(i for i in range(8, len(whole)) if not whole[i - 1].isspace())
    begun = [*ask(), {"role": "assistant", "content": whole[:cut]}]
    rest = greedy(setting, 40 - cut, messages=begun)
    assert text_of(rest) == whole[cut:]


def check_stop_sequences(setting: Setting) -> None:
    whole = text_of(greedy(setting))
    stop = piece_of(whole)
    cut = greedy(setting, stop_sequences=["never said", stop])
    assert cut.stop_reason == "stop_sequence" and cut.stop_sequence == stop
    assert text_of(cut) == whole[: whole.index(stop)]
    with client_of(setting).messages.stream(
        model=setting.model, max_tokens=40, messages=ask(), stop_sequences=[stop], extra_body=GREEDY
    ) as stream:
        said = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert said == text_of(cut) and (final.stop_reason, final.stop_sequence) == ("stop_sequence", stop)


def check_max_tokens(setting: Setting) -> None:
    assert greedy(setting, 3).stop_reason == "max_tokens" and greedy(setting, 3).usage.output_tokens == 3
    filler = "a" * (setting.context - 150)
    full = greedy(setting, 20000, messages=ask(filler))
    used = full.usage.input_tokens + full.usage.output_tokens
    assert used <= setting.context
    if full.stop_reason != "end_turn":
        assert full.stop_reason in ("model_context_window_exceeded", "max_tokens")
        assert used == setting.context


def check_max_tokens_0_reads_only(setting: Setting) -> None:
    message = greedy(setting, 0)
    assert message.usage.output_tokens == 0 and message.stop_reason == "max_tokens"


def check_claude_code(setting: Setting) -> None:
    """What Claude Code sends, in small: 24 tools, three system blocks, a system message at the end."""
    tools = [
        {
            "name": f"tool_{i}", "description": "does " * 20, "eager_input_streaming": True, "strict": False,
            "input_schema": {"type": "object", "properties": {"path": {"type": "string"}}},
        }
        for i in range(24)
    ]  # fmt: skip
    cached = {"type": "ephemeral"}
    body = {
        "model": setting.model, "max_tokens": 32000, "stream": True, "tools": tools,
        "system": [
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1; cch=ab12;"},
            {"type": "text", "text": "You help.", "cache_control": cached},
            {"type": "text", "text": "You write code.", "cache_control": cached},
        ],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Hello.", "cache_control": cached}]},
            {"role": "system", "content": "The date is unknown."},
        ],
        "thinking": {"type": "adaptive"}, "output_config": {"effort": "high"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "metadata": {"user_id": "user_x"}, "diagnostics": {}, "something_new": [1],
    }  # fmt: skip
    headers = {
        "x-api-key": setting.key, "anthropic-version": "2023-06-01", "x-stainless-retry-count": "0",
        "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14,not-known-2030-01-01",
        "x-claude-code-session-id": "s",
    }  # fmt: skip
    answer = raw(setting, "POST", "/v1/messages?beta=true", body, headers=headers)
    assert answer.status == 200, answer.text
    grammar(events(answer.text), model=setting.model)


def check_probe(setting: Setting) -> None:
    assert raw(setting, "HEAD", "/", headers={}).status < 500
    found = raw(setting, "GET", "/v1/models?limit=1000")
    assert found.status == 200 and found.json()["data"]


def check_alias_of_bedrock(setting: Setting) -> None:
    body = {"model": setting.model, "max_tokens": 3, "messages": ask()}
    answer = raw(setting, "POST", "/anthropic/v1/messages", body)
    assert answer.status == 200
    sane_message(answer.json(), model=setting.model)


def check_keys_in_both_headers_and_versions(setting: Setting) -> None:
    body = {"model": setting.model, "max_tokens": 3, "messages": ask()}
    for version in VERSIONS:
        for key in ({"x-api-key": setting.key}, {"authorization": f"Bearer {setting.key}"}):
            headers = {**key, "anthropic-version": version}
            for method, path, sent in (("POST", "/v1/messages", body), ("GET", "/v1/models", None)):
                assert raw(setting, method, path, sent, headers=headers).status == 200, (version, key)
    both = {"x-api-key": "wrong", "authorization": f"Bearer {setting.key}", "anthropic-version": VERSIONS[0]}
    assert raw(setting, "POST", "/v1/messages", body, headers=both).status == 401


def check_temperature_is_taken_or_named(setting: Setting) -> None:
    for version in VERSIONS:
        for name, value in (("temperature", 0.5), ("top_p", 0.9), ("top_k", 5)):
            body = {"model": setting.model, "max_tokens": 3, "messages": ask(), name: value}
            answer = raw(setting, "POST", "/v1/messages", body, version=version)
            assert answer.status == 200 or (answer.status == 400 and name in answer.text)
    assert raw(setting, "POST", "/v1/messages", {**body, "temperature": 0.5}).status == 200


def check_async(setting: Setting) -> None:
    async def all_of_them() -> list[str]:
        options = {"base_url": setting.url, "api_key": setting.key, "max_retries": 0}
        async with anthropic.AsyncAnthropic(**options) as client:

            async def one() -> str:
                async with client.messages.stream(
                    model=setting.model, max_tokens=40, messages=ask(), extra_body=GREEDY
                ) as stream:
                    return "".join([text async for text in stream.text_stream])

            return await asyncio.gather(*[one() for _ in range(8)])

    assert set(asyncio.run(all_of_them())) == {text_of(greedy(setting))}


def check_a_stream_can_be_left(setting: Setting) -> None:
    for _ in range(3):
        with client_of(setting).messages.stream(
            model=setting.model, max_tokens=2000, messages=ask()
        ) as stream:
            for _ in zip(range(4), stream, strict=False):
                pass
    assert greedy(setting).usage.output_tokens > 0


def check_usage_of_a_reply_is_whole(setting: Setting) -> None:
    usage = greedy(setting).usage.model_dump()
    assert all(type(usage[name]) is int for name in USAGE)
