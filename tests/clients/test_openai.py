"""The newest `openai` package against a real server: chat, completions with log-probs, tools, errors."""

from __future__ import annotations

import json
import math
from typing import Any

import openai
import pydantic
import pytest
from setting import WEATHER, Setting, ask, piece_of, raw, valid_weather

TOOL: Any = {
    "type": "function",
    "function": {
        "name": "weather", "description": "the weather at a place", "parameters": WEATHER["input_schema"]
    },
}  # fmt: skip


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.key, max_retries=0) as made:
        yield made


@pytest.fixture
def chat(client, server):
    def say(**more: Any) -> Any:
        given = {"max_tokens": 40, "temperature": 0, "messages": ask(), "model": server.model, **more}
        return client.chat.completions.create(**given)

    return say


@pytest.fixture
def where(setting):
    return Setting(*setting)


def test_create(chat, server):
    reply = chat()
    assert reply.id.startswith("chatcmpl-") and reply.object == "chat.completion"
    assert reply.model == server.model and reply.created > 1_700_000_000
    (choice,) = reply.choices
    assert choice.message.role == "assistant" and choice.finish_reason in ("stop", "length")
    usage = reply.usage
    assert usage.prompt_tokens > 0 and usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert reply._request_id


def test_streams_the_same(chat):
    whole = chat()
    pieces = list(chat(stream=True, stream_options={"include_usage": True}))
    assert "".join(p.choices[0].delta.content or "" for p in pieces if p.choices) == (
        whole.choices[0].message.content
    )
    assert all(piece.usage is None for piece in pieces[:-1])
    assert pieces[-1].choices == [] and pieces[-1].usage == whole.usage
    assert pieces[0].choices[0].delta.role == "assistant"
    assert [p.choices[0].finish_reason for p in pieces if p.choices][-1] == whole.choices[0].finish_reason


def test_stream_ends_with_done(where):
    body = {"model": where.model, "max_tokens": 5, "messages": ask(), "stream": True}
    answer = raw(
        where, "POST", "/v1/chat/completions", body, headers={"authorization": f"Bearer {where.key}"}
    )
    assert answer.status == 200 and answer.text.endswith("data: [DONE]\n\n")
    assert all(line.startswith("data: ") for line in answer.text.split("\n") if line)


def test_the_stream_helper(client, server, chat):
    with client.chat.completions.stream(
        model=server.model, messages=ask(), max_tokens=40, temperature=0
    ) as stream:
        said = "".join(event.delta for event in stream if event.type == "content.delta")
    assert said == chat().choices[0].message.content


def test_roles(chat, where):
    counts = set()
    for role in ("system", "developer"):
        turns = [
            {"role": role, "content": "Speak of owls."},
            {"role": "user", "content": [{"type": "text", "text": "Hi."}]},
            {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Go on."},
        ]  # fmt: skip
        counts.add(chat(messages=turns).usage.prompt_tokens)
    assert len(counts) == 1
    body = {
        "model": where.model, "max_tokens": 1, "system": "Speak of owls.",
        "messages": [
            {"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": "Go on."},
        ],
    }  # fmt: skip
    assert raw(where, "POST", "/v1/messages", body).json()["usage"]["input_tokens"] == counts.pop()


def test_the_two_names_of_max_tokens(chat):
    one = chat(max_tokens=7)
    other = chat(max_tokens=openai.omit, max_completion_tokens=7)
    assert one.choices[0].message.content == other.choices[0].message.content
    assert one.usage.completion_tokens == 7 and one.choices[0].finish_reason == "length"


def test_stop(chat):
    whole = chat().choices[0].message.content
    stop = piece_of(whole)
    for given in (stop, ["never said", stop]):
        cut = chat(stop=given).choices[0]
        assert cut.message.content == whole[: whole.index(stop)] and cut.finish_reason == "stop"


def test_several_choices_and_seeds(chat):
    first = chat(n=3, temperature=1, seed=5)
    assert [choice.index for choice in first.choices] == [0, 1, 2]
    said = [choice.message.content for choice in first.choices]
    assert len(set(said)) > 1
    again = chat(n=3, temperature=1, seed=5)
    assert said == [choice.message.content for choice in again.choices]
    assert first.usage.completion_tokens > 20
    streamed = ["", "", ""]
    for piece in chat(n=3, temperature=1, seed=5, stream=True):
        for choice in piece.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == said


def test_logprobs(chat):
    reply = chat(logprobs=True, top_logprobs=3)
    content = reply.choices[0].logprobs.content
    ended = reply.choices[0].finish_reason == "stop"
    assert reply.usage.completion_tokens - ended <= len(content) <= reply.usage.completion_tokens
    for one in content:
        assert one.logprob <= 0 and len(one.top_logprobs) == 3
        assert one.logprob == max(top.logprob for top in one.top_logprobs)  # greedy
    written = b"".join(bytes(one.bytes) for one in content).decode()
    assert written.startswith(reply.choices[0].message.content)
    pieces = list(chat(logprobs=True, top_logprobs=3, stream=True))
    streamed = [
        one.logprob
        for piece in pieces
        for choice in piece.choices
        if choice.logprobs
        for one in choice.logprobs.content or []
    ]
    assert streamed == pytest.approx([one.logprob for one in content], abs=1e-4)


def test_tools(chat):
    named = {"type": "function", "function": {"name": "weather"}}
    for choice in ("required", named):
        reply = chat(tools=[TOOL], tool_choice=choice, max_tokens=150)
        (call,) = reply.choices[0].message.tool_calls
        assert reply.choices[0].finish_reason == "tool_calls" or choice == named
        assert call.type == "function" and call.function.name == "weather" and call.id
        valid_weather(json.loads(call.function.arguments))
    turns = [
        *ask(), reply.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "rain"}
    ]  # fmt: skip
    assert chat(messages=turns, tools=[TOOL], tool_choice="none").choices[0].message.tool_calls is None
    assert chat(tools=[TOOL], tool_choice="auto").choices


def test_tools_stream(chat):
    pieces = chat(tools=[TOOL], tool_choice="required", max_tokens=150, stream=True)
    calls = [call for p in pieces for choice in p.choices for call in choice.delta.tool_calls or []]
    assert calls[0].id and calls[0].function.name == "weather" and {call.index for call in calls} == {0}
    valid_weather(json.loads("".join(call.function.arguments or "" for call in calls)))


class Weather(pydantic.BaseModel):
    place: str
    days: int


def test_structured_output(chat, client, server):
    wanted = {"name": "weather", "strict": True, "schema": WEATHER["input_schema"]}
    reply = chat(response_format={"type": "json_schema", "json_schema": wanted}, max_tokens=150)
    valid_weather(json.loads(reply.choices[0].message.content))
    asked = {"model": server.model, "messages": ask(), "temperature": 0, "max_tokens": 150}
    free = client.chat.completions.create(**asked, response_format={"type": "json_object"})
    if free.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(free.choices[0].message.content), dict)


def test_completions(client, server):
    asked = {"model": server.model, "prompt": "The mill", "max_tokens": 12, "temperature": 0}
    reply = client.completions.create(**asked)
    assert reply.object == "text_completion" and reply.id.startswith("cmpl-")
    assert "".join(
        p.choices[0].text for p in client.completions.create(**asked, stream=True) if p.choices
    ) == (reply.choices[0].text)
    both = client.completions.create(**{**asked, "prompt": ["The mill", "The owl"]})
    assert [choice.index for choice in both.choices] == [0, 1] and both.choices[0].text == reply.choices[
        0
    ].text


def test_echo_scores_the_prompt(client, server, where):
    tokens = raw(
        where, "POST", "/tokenize", {"prompt": "The mill", "add_special_tokens": False}, headers={}
    ).json()["tokens"]
    for extra in (1, 0):
        reply = client.completions.create(
            model=server.model, prompt=[tokens, tokens[:4]], echo=True, logprobs=1, max_tokens=extra,
            temperature=0, seed=1,
        )  # fmt: skip
        found = reply.choices[0].logprobs
        assert len(found.token_logprobs) == len(found.tokens) == len(tokens) + extra
        assert found.token_logprobs[0] is None and found.top_logprobs[0] is None
        assert all(-200 < one <= 0 and math.isfinite(one) for one in found.token_logprobs[1:])
        assert all(
            max(top.values()) >= one
            for one, top in zip(found.token_logprobs[1:], found.top_logprobs[1:], strict=True)
        )
        assert reply.choices[0].text.startswith("The mill")
        short = reply.choices[1].logprobs.token_logprobs
        assert short[1:4] == pytest.approx(found.token_logprobs[1:4], abs=1e-4)


def test_tokenizer_routes_are_open(where):
    info = raw(where, "GET", "/tokenizer_info", headers={}).json()
    assert {"eos_token", "bos_token", "pad_token", "chat_template"} <= set(info)
    text = "naïve owls ☂"
    made = raw(where, "POST", "/tokenize", {"prompt": text, "add_special_tokens": False}, headers={}).json()
    back = raw(where, "POST", "/detokenize", {"tokens": made["tokens"]}, headers={}).json()
    assert back["prompt"] == text


def test_models(client, server):
    assert server.model in [model.id for model in client.models.list()]
    assert client.models.retrieve(server.model).object == "model"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("none-such")
    assert caught.value.code == "model_not_found"


def test_errors(client, chat, server):
    with pytest.raises(openai.NotFoundError) as caught:
        chat(model="none-such")
    assert caught.value.code == "model_not_found" and "none-such" in caught.value.message
    with pytest.raises(openai.BadRequestError) as wrong:
        chat(messages=[])
    assert set(wrong.value.body) >= {"message", "type", "param", "code"}
    with (
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0) as other,
        pytest.raises(openai.AuthenticationError),
    ):
        other.models.list()
    image = {"type": "image_url", "image_url": {"url": "https://example.org/owl.png"}}
    with pytest.raises(openai.BadRequestError, match="image"):
        chat(messages=[{"role": "user", "content": [image]}])


def test_bodies_that_are_none(where):
    headers = {"authorization": f"Bearer {where.key}"}
    for path in ("/v1/chat/completions", "/v1/completions"):
        for body in (b"", b"[]", b"{", b"\xff", b"{}", b'{"n": 1e999}'):
            answer = raw(where, "POST", path, body, headers=headers)
            assert answer.status == 400 and set(answer.json()["error"]) >= {"message", "type"}, answer.text
