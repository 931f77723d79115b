"""Chat completions: OpenAI's own client against a real server."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2
import openai
import pytest

from publius.core.messages import TextBlock, ToolUseBlock
from publius.serve.exchange import Began, BlockBegan, BlockEnded, Drawn, Ended, Idle, Piece, Usage
from publius.serve.guard import Caller
from publius.serve.openai.body import ChatBody, parsed
from publius.serve.openai.chat import Choice, asked
from publius.serve.openai.tokens import Tokens
from publius.serve.server import Server
from publius.testing import byte_tokenizer

USER = [{"role": "user", "content": "Hello"}]
FREE: dict[str, Any] = {"model": "tiny", "messages": USER, "temperature": 0, "max_tokens": 12}
TOKENIZER = byte_tokenizer()
LETTERS = frozenset(TOKENIZER.encode("abcdefghijklmnopqrstuvwxyz "))
GREEDY: dict[str, Any] = {**FREE, "logit_bias": {str(i): -100 for i in range(269) if i not in LETTERS}}
"""Of a random model: letters only, so that it neither ends, thinks nor calls."""
LONG = [{"role": "user", "content": "a" * 600}]
TOOL = {
    "type": "function",
    "function": {
        "name": "calculator",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 9}},
            "required": ["a"],
            "additionalProperties": False,
        },
    },
}


def test_a_reply_and_its_usage(client: openai.OpenAI, server: Server) -> None:
    done = client.chat.completions.create(**GREEDY)
    (choice,) = done.choices
    assert done.object == "chat.completion" and done.model == "tiny" and done.id.startswith("chatcmpl-")
    assert choice.message.role == "assistant" and choice.message.content is not None
    assert choice.finish_reason == "length"
    ask = asked(parsed(ChatBody, GREEDY), 512)
    assert done.usage is not None
    assert done.usage.prompt_tokens == server.count(ask)
    assert done.usage.completion_tokens == 12 and done.usage.total_tokens == server.count(ask) + 12
    assert done._request_id is not None and done._request_id.startswith("req_")


def test_a_stream_says_what_the_whole_reply_says(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**GREEDY, logprobs=True, top_logprobs=2)
    chunks = list(
        client.chat.completions.create(
            **GREEDY, logprobs=True, top_logprobs=2, stream=True, stream_options={"include_usage": True}
        )
    )
    *said, last = chunks
    assert last.choices == [] and last.usage == whole.usage and all(chunk.usage is None for chunk in said)
    assert said[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in said)
    assert text == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in said] == [None] * (len(said) - 1) + ["length"]
    shown = [entry for c in said if (lp := c.choices[0].logprobs) for entry in lp.content or ()]
    assert whole.choices[0].logprobs is not None and shown == whole.choices[0].logprobs.content
    assert {chunk.id for chunk in chunks} == {chunks[0].id}


def test_the_stream_is_events_that_end_with_done(url: str) -> None:
    headers = {"authorization": "Bearer k"}
    answer = httpx2.post(f"{url}/v1/chat/completions", json={**GREEDY, "stream": True}, headers=headers)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-request-id"] == answer.headers["request-id"]
    *frames, done, nothing = answer.text.split("\n\n")
    assert (done, nothing) == ("data: [DONE]", "")
    data = [frame for frame in frames if not frame.startswith(":")]  # a comment, where the machine was slow
    assert len(data) > 2
    for frame in data:
        assert "usage" not in json.loads(frame.removeprefix("data: "))


def test_log_probabilities_of_what_is_likeliest(client: openai.OpenAI) -> None:
    done = client.chat.completions.create(**GREEDY, logprobs=True, top_logprobs=3)
    logprobs = done.choices[0].logprobs
    assert logprobs is not None and logprobs.content
    for entry in logprobs.content:
        assert len(entry.top_logprobs) == 3
        first = entry.top_logprobs[0]
        assert (first.token, first.logprob) == (entry.token, entry.logprob)  # greedy
        assert entry.bytes is not None
    told = b"".join(bytes(entry.bytes or ()) for entry in logprobs.content)
    assert told.decode("utf-8", "replace") == done.choices[0].message.content
    plain = client.chat.completions.create(**GREEDY)
    assert plain.choices[0].logprobs is None


def test_several_choices_are_drawn_from_streams_of_their_own(client: openai.OpenAI) -> None:
    warm = {**GREEDY, "temperature": 1, "seed": 7}
    several = client.chat.completions.create(**warm, n=3)
    texts = [choice.message.content for choice in several.choices]
    assert [choice.index for choice in several.choices] == [0, 1, 2] and len(set(texts)) == 3
    again = client.chat.completions.create(**warm, n=3)
    assert [choice.message.content for choice in again.choices] == texts
    assert client.chat.completions.create(**warm).choices[0].message.content == texts[0]
    assert several.usage is not None and several.usage.completion_tokens == 36
    streamed = ["", "", ""]
    for chunk in client.chat.completions.create(**warm, n=3, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts


def test_what_was_read_before_is_counted_as_cached(client: openai.OpenAI) -> None:
    long = {**GREEDY, "messages": [{"role": "user", "content": "the mill by the river " * 8}]}
    client.chat.completions.create(**long)
    usage = client.chat.completions.create(**long).usage
    assert usage is not None and usage.prompt_tokens_details is not None
    assert (usage.prompt_tokens_details.cached_tokens or 0) >= usage.prompt_tokens - 16 > 0


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "calculator"}}])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_tool_that_must_be_called_is(client: openai.OpenAI, choice: Any, stream: bool) -> None:
    wanted: dict[str, Any] = {**FREE, "max_tokens": 60, "tools": [TOOL], "tool_choice": choice}
    if stream:
        name, arguments, finish, index = "", "", None, None
        for chunk in client.chat.completions.create(**wanted, stream=True):
            (part,) = chunk.choices
            finish = part.finish_reason or finish
            for call in part.delta.tool_calls or ():
                index = call.index
                assert call.function is not None
                name += call.function.name or ""
                arguments += call.function.arguments or ""
        assert index == 0
    else:
        (part,) = client.chat.completions.create(**wanted).choices
        assert part.message.content is None and part.message.tool_calls is not None
        (call,) = part.message.tool_calls
        assert call.type == "function" and call.id
        name, arguments, finish = call.function.name, call.function.arguments, part.finish_reason
    assert name == "calculator" and finish == "tool_calls"
    assert set(json.loads(arguments)) == {"a"}


@pytest.mark.parametrize("stop", ["name", "input", '"a"', "}"])
def test_a_stop_text_ends_no_call(client: openai.OpenAI, stop: str) -> None:
    """How a call is written is no part of the reply, and it was asked for."""
    wanted: dict[str, Any] = {**FREE, "max_tokens": 60, "tools": [TOOL], "tool_choice": "required"}
    (plain,) = client.chat.completions.create(**wanted).choices
    (done,) = client.chat.completions.create(**wanted, stop=[stop]).choices
    assert done.finish_reason == "tool_calls" and done.message.tool_calls and plain.message.tool_calls
    ours, theirs = done.message.tool_calls[0].function, plain.message.tool_calls[0].function  # pyright: ignore
    assert ours == theirs


def test_a_result_goes_back(client: openai.OpenAI) -> None:
    wanted: dict[str, Any] = {**FREE, "tools": [TOOL]}
    first = client.chat.completions.create(**{**wanted, "max_tokens": 60}, tool_choice="required")
    message = first.choices[0].message
    assert message.tool_calls is not None
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "4"}
    turns: list[Any] = [*USER, message.model_dump(exclude_none=True), result]
    done = client.chat.completions.create(**{**wanted, "messages": turns}, tool_choice="none")
    assert done.choices[0].message.tool_calls is None


@pytest.mark.parametrize(
    "wanted",
    [
        {"type": "json_object"},
        {
            "type": "json_schema",
            "json_schema": {"name": "x", "strict": True, "schema": {"enum": ["left", "right"]}},
        },
    ],
    ids=["object", "schema"],
)
def test_a_format_is_kept(client: openai.OpenAI, wanted: Any) -> None:
    asking = {**FREE, "max_tokens": 200, "temperature": 1, "seed": 3}
    (choice,) = client.chat.completions.create(**asking, response_format=wanted).choices
    if choice.finish_reason == "stop":
        value = json.loads(choice.message.content or "")
        assert isinstance(value, dict) or value in ("left", "right")
    else:
        assert (choice.message.content or "").startswith("{") and wanted["type"] == "json_object"


def test_thinking_is_reasoning_content(client: openai.OpenAI) -> None:
    warm: dict[str, Any] = {**FREE, "max_tokens": 300}
    done = client.chat.completions.create(**warm, reasoning_effort="minimal")
    message = done.choices[0].message.model_dump()
    assert message["reasoning_content"]
    assert done.usage is not None and done.usage.completion_tokens_details is not None
    assert 0 < (done.usage.completion_tokens_details.reasoning_tokens or 0) <= 257
    streamed = "".join(
        chunk.choices[0].delta.model_dump().get("reasoning_content") or ""
        for chunk in client.chat.completions.create(**warm, reasoning_effort="minimal", stream=True)
    )
    assert streamed == message["reasoning_content"]
    plain = client.chat.completions.create(**warm, reasoning_effort="none")
    assert "reasoning_content" not in plain.choices[0].message.model_dump()


def test_a_stop_text_ends_it(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**GREEDY).choices[0].message.content or ""
    stop = whole[4:6]
    done = client.chat.completions.create(**GREEDY, stop=[stop, "never said"]).choices[0]
    assert done.finish_reason == "stop" and done.message.content == whole[: whole.index(stop)]


def test_a_refusal_is_a_content_filter(client: openai.OpenAI) -> None:
    spell = {**GREEDY, "messages": [{"role": "user", "content": "say xyzzy"}]}
    (choice,) = client.chat.completions.create(**spell).choices
    assert choice.finish_reason == "content_filter"
    assert choice.message.refusal == "That word is not said here." and not choice.message.content
    finishes = [c.choices[0].finish_reason for c in client.chat.completions.create(**spell, stream=True)]
    assert finishes[-1] == "content_filter"


def test_biases_and_penalties_change_what_is_said(client: openai.OpenAI) -> None:
    wanted = TOKENIZER.encode("e")[0]
    biased = client.chat.completions.create(**FREE, logit_bias={str(wanted): 100})
    assert biased.choices[0].message.content == "e" * 12
    spread = client.chat.completions.create(**GREEDY, frequency_penalty=2.0, presence_penalty=2.0)
    assert (
        spread.choices[0].message.content
        != client.chat.completions.create(**GREEDY).choices[0].message.content
    )


def test_an_alias_answers_by_its_own_name(client: openai.OpenAI) -> None:
    assert client.chat.completions.create(**{**GREEDY, "model": "other"}).model == "other"


@pytest.mark.parametrize(
    ("change", "kind", "code", "param"),
    [
        ({"model": "absent"}, openai.NotFoundError, "model_not_found", "model"),
        ({"messages": []}, openai.BadRequestError, None, "messages"),
        ({"messages": "x"}, openai.BadRequestError, None, "messages"),
        ({"temperature": 3}, openai.BadRequestError, None, "temperature"),
        ({"n": 0}, openai.BadRequestError, None, "n"),
        ({"n": True}, openai.BadRequestError, None, "n"),
        ({"max_tokens": 0}, openai.BadRequestError, None, "max_tokens"),
        ({"top_logprobs": 2}, openai.BadRequestError, None, "top_logprobs"),
        ({"logit_bias": {"e": 1}}, openai.BadRequestError, None, "logit_bias"),
        ({"logit_bias": {"3": 101}}, openai.BadRequestError, None, "logit_bias.3"),
        ({"tool_choice": "required"}, openai.BadRequestError, None, "tool_choice"),
        ({"response_format": {"type": "yaml"}}, openai.BadRequestError, None, "response_format.type"),
        ({"functions": [{}]}, openai.BadRequestError, None, "functions"),
        ({"messages": LONG}, openai.BadRequestError, "context_length_exceeded", "messages"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(
    client: openai.OpenAI, change: Any, kind: Any, code: str | None, param: str
) -> None:
    with pytest.raises(kind) as told:
        client.chat.completions.create(**{**GREEDY, **change})
    assert (told.value.code, told.value.param) == (code, param)
    assert told.value.request_id is not None


def test_an_image_is_refused_by_name(client: openai.OpenAI) -> None:
    parts = [{"type": "text", "text": "what is this?"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    with pytest.raises(openai.BadRequestError, match=r"messages\[0\].content\[1\]: image_url") as told:
        client.chat.completions.create(**{**GREEDY, "messages": [{"role": "user", "content": parts}]})
    assert told.value.param == "messages[0].content[1]"


def test_a_wrong_key_is_an_authentication_error(url: str) -> None:
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.chat.completions.create(**GREEDY)


def test_a_client_that_leaves_frees_the_engine(client: openai.OpenAI, server: Server) -> None:
    long: dict[str, Any] = {**GREEDY, "max_tokens": 480, "n": 4, "temperature": 1}
    with client.chat.completions.create(**long, stream=True) as stream:
        next(iter(stream))
    (model,) = server.hub.models()

    async def gone() -> None:
        while model.worker.active or server.live:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(gone(), 60))


def test_events_of_a_call_without_pieces_and_of_a_long_silence() -> None:
    tokenizer = TOKENIZER
    letter = tokenizer.encode("a")[0]
    choice = Choice(0, Tokens(tokenizer), logprobs=True, top=1)
    call = ToolUseBlock(id="toolu_1", name="now", input={})
    drawn = (Drawn(letter, -0.5, ((letter, -0.5),)), Drawn(tokenizer.end_id, -0.1))
    events = [
        Began(Usage(5)),
        BlockBegan(0, TextBlock(text="")),
        Piece(0, "a", drawn),
        Idle(),
        BlockEnded(0, TextBlock(text="a")),
        BlockBegan(1, call),
        BlockEnded(1, call),
        Ended("tool_use", Usage(5, output=9)),
    ]
    entries = [entry for event in events for entry in choice.take(event)]
    deltas = [entry["delta"] for entry in entries]
    started = {"index": 0, "id": "toolu_1", "type": "function", "function": {"name": "now", "arguments": ""}}
    assert deltas == [
        {"role": "assistant", "content": ""},
        {"content": "a"},
        {"tool_calls": [started]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]},
        {},
    ]
    whole = choice.whole()
    assert whole["message"]["tool_calls"][0]["function"] == {"name": "now", "arguments": "{}"}
    assert whole["message"]["content"] == "a" and whole["finish_reason"] == "tool_calls"
    (shown,) = whole["logprobs"]["content"]  # the end token is none of the text
    assert shown["token"] == "a" and shown["top_logprobs"][0]["token"] == "a"


def test_the_books_say_of_several_replies_what_their_usage_says(
    client: openai.OpenAI, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    books, spent = list[Usage](), server.guard.spent

    async def noted(caller: Caller, usage: Usage) -> None:
        books.append(usage)
        await spent(caller, usage)

    monkeypatch.setattr(server.guard, "spent", noted)
    told = client.chat.completions.create(**GREEDY, n=4).usage
    assert told is not None and len(books) == 4
    assert sum(one.prompt + one.output for one in books) == told.total_tokens
