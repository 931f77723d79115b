"""The Messages API as a client sees it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2
import jsonschema
import pytest

from tests.serve.serving import Spoken, events_of, said

SUM = {
    "name": "sum",
    "description": "adds",
    "input_schema": {
        "type": "object",
        "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 9}, "how": {"enum": ["up", "down"]}},
        "required": ["a", "how"],
        "additionalProperties": False,
    },
}
ASK: dict[str, Any] = {
    "messages": [{"role": "user", "content": "hello there"}],
    "temperature": 0,
    "max_tokens": 24,
}


def refused(response: httpx2.Response, status: int, kind: str) -> str:
    """The message of an error in the words of the Messages API."""
    body = response.json()
    assert response.status_code == status, body
    assert body["type"] == "error" and body["error"]["type"] == kind
    assert body["request_id"] == response.headers["request-id"]
    return body["error"]["message"]


def test_a_reply_has_every_key_clients_read(spoken: Spoken):
    body = spoken.ask(**ASK).json()
    assert body["id"].startswith("msg_") and body["type"] == "message" and body["role"] == "assistant"
    assert body["model"] == "publius-haiku" and body["stop_reason"] in ("max_tokens", "end_turn")
    assert {"stop_sequence", "stop_details", "container"} <= body.keys()
    assert {
        "input_tokens",
        "cache_creation_input_tokens",
        "cache_read_input_tokens",
        "output_tokens",
    } <= body["usage"].keys()


def test_an_alias_is_echoed_as_it_was_asked(spoken: Spoken):
    assert spoken.ask(model="claude-test").json()["model"] == "claude-test"


def test_a_stream_says_the_same_as_a_whole_reply_by_the_grammar(spoken: Spoken):
    whole = spoken.ask(**ASK).json()
    streamed = spoken.ask(**ASK, stream=True)
    assert streamed.headers["content-type"].startswith("text/event-stream")
    events = events_of(streamed.text)
    names = [name for name, _ in events if name != "ping"]
    assert all(name == data["type"] for name, data in events)
    assert names[0] == "message_start" and names[-2:] == ["message_delta", "message_stop"]
    start = events[0][1]["message"]
    assert start["content"] == [] and start["stop_reason"] is None and start["usage"]["input_tokens"] > 0
    assert said(events) == whole["content"]
    delta = events[-2][1]
    assert delta["delta"]["stop_reason"] == whole["stop_reason"]
    assert delta["usage"] == whole["usage"]


def test_counted_tokens_are_those_the_usage_says(spoken: Spoken):
    body = {"model": "publius-haiku", "system": "Be kind.", "tools": [SUM], **{"messages": ASK["messages"]}}
    counted = spoken.send("POST", "/v1/messages/count_tokens", body).json()["input_tokens"]
    usage = spoken.ask(**body).json()["usage"]
    assert (
        counted
        == usage["input_tokens"] + usage["cache_creation_input_tokens"] + usage["cache_read_input_tokens"]
    )


def test_a_marked_prefix_is_written_then_read_and_the_sum_stays(spoken: Spoken):
    marked = [{"type": "text", "text": "y" * 200, "cache_control": {"type": "ephemeral"}}]
    first = spoken.ask(system=marked).json()["usage"]
    second = spoken.ask(system=marked).json()["usage"]
    assert first["cache_creation_input_tokens"] >= 192 and first["cache_read_input_tokens"] == 0
    assert second["cache_read_input_tokens"] == first["cache_creation_input_tokens"]
    assert second["cache_creation_input_tokens"] == 0
    assert second["input_tokens"] == first["input_tokens"]
    assert second["cache_creation"] == {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0}


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "sum"}])
@pytest.mark.parametrize("stream", [False, True])
def test_a_forced_call_keeps_to_its_schema(spoken: Spoken, choice: dict[str, Any], stream: bool):
    answer = spoken.ask(tools=[SUM], tool_choice=choice, max_tokens=200, stream=stream)
    if stream:
        events = events_of(answer.text)
        content, reason = said(events), events[-2][1]["delta"]["stop_reason"]
        deltas = [data for name, data in events if name == "content_block_delta"]
        assert deltas, "the input comes before the end"
    else:
        content, reason = answer.json()["content"], answer.json()["stop_reason"]
    assert [block["type"] for block in content] == ["tool_use"] and reason == "tool_use"
    assert content[0]["name"] == "sum" and content[0]["id"].startswith("toolu_")
    jsonschema.validate(content[0]["input"], SUM["input_schema"])


def test_a_call_cut_off_still_has_an_object_and_says_why(spoken: Spoken):
    body = spoken.ask(tools=[SUM], tool_choice={"type": "any"}, max_tokens=24).json()
    assert body["stop_reason"] == "max_tokens"
    assert all(isinstance(block["input"], dict) for block in body["content"] if block["type"] == "tool_use")


def test_structured_output_keeps_to_its_schema(spoken: Spoken):
    wanted = {"type": "json_schema", "schema": SUM["input_schema"]}
    body = spoken.ask(output_config={"format": wanted}, max_tokens=100).json()
    jsonschema.validate(json.loads(body["content"][0]["text"]), SUM["input_schema"])


def test_thinking_is_signed_bounded_and_known_again(spoken: Spoken):
    body = spoken.ask(max_tokens=1200, thinking={"type": "enabled", "budget_tokens": 1024}).json()
    block = body["content"][0]
    assert block["type"] == "thinking" and block["signature"]
    assert body["usage"]["output_tokens_details"]["thinking_tokens"] <= 1025
    again = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": [block, {"type": "text", "text": "x"}]},
        {"role": "user", "content": "go on"},
    ]
    assert spoken.ask(messages=again).status_code == 200
    again[1]["content"][0] = {**block, "thinking": block["thinking"] + "!"}  # pyright: ignore
    message = refused(spoken.ask(messages=again), 400, "invalid_request_error")
    assert message == "messages.1.content.0: Invalid `signature` in `thinking` block"


def test_thinking_left_out_comes_back_by_its_signature(spoken: Spoken):
    body = spoken.ask(
        max_tokens=1200,
        thinking={"type": "enabled", "budget_tokens": 1024, "display": "omitted"},
        stream=True,
    )
    block = said(events_of(body.text))[0]
    assert block["type"] == "thinking" and block["thinking"] == "" and block["signature"]
    again = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": [block]}]
    follow = [*again, {"role": "user", "content": "so?"}]
    assert spoken.ask(messages=follow).status_code == 200


def test_a_stop_text_is_named_and_cut_off(spoken: Spoken):
    text = spoken.ask(**ASK).json()["content"][0]["text"]
    stop = text[2:5]
    body = spoken.ask(**ASK, stop_sequences=[stop]).json()
    assert body["stop_reason"] == "stop_sequence" and body["stop_sequence"] == stop
    assert body["content"][0]["text"] == text.partition(stop)[0]


def test_the_tightest_nucleus_says_what_is_likeliest(spoken: Spoken):
    said = [spoken.ask(**{**ASK, **how}).json()["content"] for how in ({}, {"temperature": 1, "top_p": 0})]
    assert said[0] == said[1]


def test_max_tokens_beyond_the_context_is_cut_and_said(spoken: Spoken):
    body = spoken.ask(max_tokens=64000, temperature=0, stop_sequences=["no such text"]).json()
    assert body["stop_reason"] in ("model_context_window_exceeded", "end_turn")


def test_no_tokens_at_all_warm_the_cache(spoken: Spoken):
    body = spoken.ask(max_tokens=0, system="z" * 64).json()
    assert body["stop_reason"] == "max_tokens" and body["usage"]["output_tokens"] == 0
    assert body["content"] == [{"type": "text", "text": "", "citations": None}]


def test_a_prompt_too_long_is_told_in_the_words_agents_look_for(spoken: Spoken):
    message = refused(
        spoken.ask(messages=[{"role": "user", "content": "x" * 5000}]), 400, "invalid_request_error"
    )
    assert message == "prompt is too long: 5004 tokens > 4095 maximum"


@pytest.mark.parametrize(
    ("change", "status", "kind", "begins"),
    [
        ({"model": "nobody"}, 404, "not_found_error", "model: nobody"),
        ({"max_tokens": -1}, 400, "invalid_request_error", "max_tokens: "),
        ({"messages": []}, 400, "invalid_request_error", "messages: "),
        ({"temperature": 3}, 400, "invalid_request_error", "temperature: "),
        ({"thread": {"type": "create"}}, 400, "invalid_request_error", "thread: "),
        ({"stop_sequences": [" "]}, 400, "invalid_request_error", "stop_sequences.0: "),
    ],
)
def test_what_is_wrong_is_named_by_its_path(spoken: Spoken, change, status, kind, begins):
    assert refused(spoken.ask(**change), status, kind).startswith(begins)


def test_threads_are_refused_with_the_code_runners_fall_back_on(spoken: Spoken):
    body = spoken.ask(thread={"type": "create"}).json()
    assert body["error"]["details"] == {"error_code": "thread_unsupported_request"}


@pytest.mark.parametrize("version", ["", "2024-01-01"])
def test_an_unknown_version_names_the_header(spoken: Spoken, version: str):
    response = spoken.send("POST", "/v1/messages", {}, anthropic_version=version)
    assert refused(response, 400, "invalid_request_error").startswith("anthropic-version: ")


def test_both_headers_carry_a_key_and_the_first_wins(spoken: Spoken):
    assert (
        spoken.send("GET", "/v1/models", x_api_key="", authorization="Bearer sk-test-key").status_code == 200
    )
    both = spoken.send("GET", "/v1/models", x_api_key="wrong", authorization="Bearer sk-test-key")
    refused(both, 401, "authentication_error")
    refused(spoken.send("GET", "/v1/models", x_api_key=""), 401, "authentication_error")


def test_models_are_listed_for_the_clients_of_both_vendors(spoken: Spoken):
    page = spoken.send("GET", "/v1/models?limit=1").json()
    assert page["object"] == "list" and page["has_more"] and page["first_id"] == page["last_id"]
    after = spoken.send("GET", f"/v1/models?after_id={page['last_id']}").json()
    assert [one["id"] for one in after["data"]] == ["claude-test"] and not after["has_more"]
    one = spoken.send("GET", "/v1/models/claude-test").json()
    assert one["type"] == "model" and one["object"] == "model" and one["lifecycle"] == "active"
    refused(spoken.send("GET", "/v1/models/nobody"), 404, "not_found_error")


def test_a_model_tells_every_capability_its_clients_look_into(spoken: Spoken):
    """The vendor's client neither checks nor fills in what is missing: it is None, and looking in fails."""
    told = spoken.send("GET", "/v1/models/claude-test").json()["capabilities"]
    assert {name for name, each in told.items() if each["supported"]} == {
        "batch", "structured_outputs", "thinking",
    }  # fmt: skip
    assert set(told) >= {
        "citations", "code_execution", "context_management", "effort", "image_input", "pdf_input",
        "server_tools",
    }  # fmt: skip
    assert set(told["thinking"]["types"]) == {"adaptive", "between_tools", "disabled", "enabled"}
    assert all(each["supported"] for each in told["thinking"]["types"].values())
    assert {"low", "medium", "high", "xhigh", "max"} <= set(told["effort"])


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"null", b"{", b"\xff\xfe", b'{"model": NaN}', b'{"a":' * 500, b'{"model":"\\ud800"}',
     b'{"max_tokens":' + b"9" * 400 + b"}", b"[" * 100_000],
)  # fmt: skip
def test_hostile_bodies_are_the_client_s_fault(spoken: Spoken, body: bytes):
    refused(spoken.send("POST", "/v1/messages", body), 400, "invalid_request_error")


def test_a_body_too_large_is_refused_by_its_size(spoken: Spoken):
    refused(spoken.send("POST", "/v1/messages", b" " * ((32 << 20) + 1)), 413, "request_too_large")


def test_what_is_not_there_and_what_is_not_allowed_speak_the_protocol(spoken: Spoken):
    refused(spoken.send("GET", "/v1/nothing"), 404, "not_found_error")
    assert spoken.send("GET", "/v1/messages").status_code == 405


def test_a_client_that_leaves_frees_its_pages(spoken: Spoken):
    async def leave() -> None:
        body = {"model": "publius-haiku", "max_tokens": 3000, "messages": ASK["messages"], "stream": True}
        sent = asyncio.Event()

        async def receive() -> dict[str, Any]:
            if not sent.is_set():
                sent.set()
                return {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}
            await asyncio.sleep(0.2)
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            pass

        headers = [
            (b"x-api-key", b"sk-test-key"),
            (b"anthropic-version", b"2023-06-01"),
            (b"host", b"localhost"),
        ]
        scope = {
            "type": "http", "method": "POST", "path": "/v1/messages", "raw_path": b"/v1/messages",
            "query_string": b"", "headers": headers, "asgi": {"version": "3.0"}, "http_version": "1.1",
            "scheme": "http", "server": ("localhost", 80), "client": ("127.0.0.1", 1),
        }  # fmt: skip
        await spoken.app(scope, receive, send)
        for _ in range(500):
            if not spoken.server.live:
                return
            await asyncio.sleep(0.02)

    spoken.run(leave())
    assert spoken.pages() == 0 and spoken.server.live == 0
    assert spoken.ask().status_code == 200


def test_sampling_parameters_are_refused_by_name_where_the_newest_version_is_kept_strictly(
    checkpoint, tmp_path
):
    with Spoken(checkpoint, tmp_path, strict_versions=True) as strict:
        body = {
            "model": "publius-haiku",
            "max_tokens": 2,
            **{"messages": ASK["messages"]},
            "temperature": 1.0,
        }
        new = strict.send("POST", "/v1/messages", body, anthropic_version="2026-10-21")
        assert refused(new, 400, "invalid_request_error") == "temperature: Extra inputs are not permitted"
        assert strict.send("POST", "/v1/messages", body).status_code == 200
