from __future__ import annotations

import math

import pytest

from publius.core.messages import Conversation, TextBlock, ThinkingBlock, assistant, user
from publius.inference.remote import Answer, Question, RemoteConfig, Token
from publius.inference.remote.dialect import AnthropicDialect, OpenAIDialect, dialect_of

TALK = Conversation(
    system="Be brief.",
    messages=(
        user("hi"),
        assistant([ThinkingBlock(thinking="hm"), TextBlock(text="yes?")]),
        user("is it so?"),
    ),
)
ASKED = Question(TALK, 5, alternatives=3)


def config(dialect: str = "openai", **changes) -> RemoteConfig:
    return RemoteConfig.model_validate({"dialect": dialect, "url": "http://h/v1/", "model": "m"} | changes)


def test_anthropic_request():
    dialect, settings = AnthropicDialect(), config("anthropic", temperature=0.5)
    assert dialect.endpoint("http://h/v1") == dialect.endpoint("http://h") == "http://h/v1/messages"
    assert dialect.body(settings, ASKED) == {
        "model": "m",
        "max_tokens": 5,
        "system": "Be brief.",
        "messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "yes?"},
            {"role": "user", "content": "is it so?"},
        ],
        "temperature": 0.5,
    }
    assert "x-api-key" not in dialect.headers("")


def test_openai_request():
    dialect = OpenAIDialect()
    assert dialect.endpoint("http://h/v1") == "http://h/v1/chat/completions"
    body = dialect.body(config(max_tokens_field="max_completion_tokens"), ASKED)
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (body["max_completion_tokens"], body["logprobs"], body["top_logprobs"]) == (5, True, 3)
    assert "temperature" not in body and "max_tokens" not in body
    plain = dialect.body(config(), ASKED._replace(alternatives=0))
    assert plain["max_tokens"] == 5 and "logprobs" not in plain


def test_anthropic_answers():
    blocks = [
        {"type": "thinking", "thinking": "x"},
        {"type": "text", "text": "a"},
        {"type": "text", "text": "b"},
    ]
    body = {"content": blocks, "stop_reason": "end_turn", "usage": {"input_tokens": 3, "output_tokens": 2}}
    assert AnthropicDialect().read(body) == Answer("ab", "end", (), 3, 2)
    assert AnthropicDialect().read({"content": [], "stop_reason": "refusal"}) == Answer("", "refusal")
    cut = {"content": [], "stop_reason": "max_tokens", "usage": None}
    assert AnthropicDialect().read(cut).stop == "length"
    assert AnthropicDialect().read(cut | {"stop_reason": "model_context_window_exceeded"}).stop == "length"


def test_openai_answers():
    place = {"token": "A", "logprob": -0.1, "top_logprobs": [{"token": "B", "logprob": -2.5}]}
    choice = {"message": {"content": "A"}, "finish_reason": "stop", "logprobs": {"content": [place]}}
    answer = OpenAIDialect().read({"choices": [choice], "usage": {"prompt_tokens": 3}})
    # the token drawn is none of the likeliest listed: it is added
    assert answer == Answer("A", "end", (Token("A", (("B", -2.5), ("A", -0.1))),), 3, None)
    refused = {"message": {"content": None, "refusal": "I will not."}, "finish_reason": "stop"}
    assert OpenAIDialect().read({"choices": [refused]}) == Answer("I will not.", "refusal")
    filtered = {"message": {"content": None}, "finish_reason": "content_filter", "logprobs": None}
    assert OpenAIDialect().read({"choices": [filtered]}) == Answer("", "refusal")
    assert OpenAIDialect().read({"choices": [refused | {"message": {"content": "x"}}]}).text == "x"


def test_half_a_character_is_none():
    body = {"content": [{"type": "text", "text": "a\ud800b"}], "stop_reason": "end_turn"}
    assert AnthropicDialect().read(body).text == "a?b"


@pytest.mark.parametrize("body", [None, [], {}, {"choices": []}, {"choices": [{}]}, {"content": [{}]}, 7])
def test_nonsense_raises_what_the_model_catches(body):
    for dialect in (AnthropicDialect(), OpenAIDialect()):
        with pytest.raises((ValueError, KeyError, TypeError, IndexError, AttributeError)):
            dialect.read(body)


def test_dialect_of():
    assert isinstance(dialect_of(config("anthropic")), AnthropicDialect)
    assert isinstance(dialect_of(config()), OpenAIDialect)
    assert math.isfinite(config().timeout)
