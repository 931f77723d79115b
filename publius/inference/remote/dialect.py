"""What goes over the wire, and what comes back: Anthropic Messages and OpenAI chat completions.

A dialect turns a question into a request body and a response body into an answer. It knows nothing of
sockets, retries or money.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol, cast

from publius.core.messages import Conversation, text_of
from publius.inference.remote.config import RemoteConfig

__all__ = ["Answer", "AnthropicDialect", "Dialect", "OpenAIDialect", "Question", "Token", "dialect_of"]

_ANTHROPIC_VERSION = "2023-06-01"


class Question(NamedTuple):
    """What a remote model is asked. Of the conversation only text goes over the wire.

    Attributes:
        alternatives: log-probabilities of so many likeliest tokens at each place, where the dialect has them.
        sample: number of this question among equal ones, so that each has an answer of its own.
    """

    conversation: Conversation
    max_tokens: int
    alternatives: int = 0
    sample: int = 0


class Token(NamedTuple):
    """One token of an answer, with the likeliest ones at its place: text and log-probability in nats."""

    text: str
    alternatives: tuple[tuple[str, float], ...]


class Answer(NamedTuple):
    """What a remote model said.

    Attributes:
        stop: it ended by itself, ran into `max_tokens`, or was stopped because the model declined.
        tokens: with their alternatives; empty where the server gives none.
        input_tokens, output_tokens: as the server counts them; None where it does not.
    """

    text: str
    stop: Literal["end", "length", "refusal"]
    tokens: tuple[Token, ...] = ()
    input_tokens: int | None = None
    output_tokens: int | None = None


class Dialect(Protocol):
    """One protocol. `read` raises ValueError, KeyError, TypeError or IndexError for what it cannot read."""

    def endpoint(self, url: str) -> str:
        """The full address."""
        ...

    def headers(self, key: str) -> dict[str, str]:
        """Of a request; `key` is empty where there is none."""
        ...

    def body(self, config: RemoteConfig, question: Question) -> dict[str, Any]:
        """Of a request."""
        ...

    def read(self, body: Any) -> Answer:
        """The answer in a response."""
        ...


class AnthropicDialect:
    """`POST /v1/messages`, version 2023-06-01. There are no log-probabilities."""

    def endpoint(self, url: str) -> str:
        return f"{url.removesuffix('/v1')}/v1/messages"

    def headers(self, key: str) -> dict[str, str]:
        return {"anthropic-version": _ANTHROPIC_VERSION} | ({"x-api-key": key} if key else {})

    def body(self, config: RemoteConfig, question: Question) -> dict[str, Any]:
        talk = question.conversation
        made: dict[str, Any] = {"model": config.model, "max_tokens": question.max_tokens}
        if talk.system:
            made["system"] = talk.system
        made["messages"] = [{"role": m.role, "content": text_of(m)} for m in talk.messages]
        return made | _temperature(config)

    def read(self, body: Any) -> Answer:
        text = "".join(_text(block["text"]) for block in body["content"] if block["type"] == "text")
        reason = body["stop_reason"]
        usage = body.get("usage") or {}
        cut = {"max_tokens": "length", "model_context_window_exceeded": "length"}
        stop = (cut | {"refusal": "refusal"}).get(reason, "end")
        return Answer(text, _stop(stop), (), _count(usage, "input_tokens"), _count(usage, "output_tokens"))


class OpenAIDialect:
    """`POST /chat/completions`, as OpenAI, vLLM, llama.cpp, SGLang and others speak it."""

    def endpoint(self, url: str) -> str:
        return f"{url}/chat/completions"

    def headers(self, key: str) -> dict[str, str]:
        return {"authorization": f"Bearer {key}"} if key else {}

    def body(self, config: RemoteConfig, question: Question) -> dict[str, Any]:
        talk = question.conversation
        messages = [{"role": "system", "content": talk.system}] if talk.system else []
        messages += [{"role": m.role, "content": text_of(m)} for m in talk.messages]
        made = {"model": config.model, config.max_tokens_field: question.max_tokens, "messages": messages}
        if question.alternatives:
            made |= {"logprobs": True, "top_logprobs": question.alternatives}
        return made | _temperature(config)

    def read(self, body: Any) -> Answer:
        choice = body["choices"][0]
        message = choice["message"]
        said = message.get("refusal")
        refused = bool(said) or choice.get("finish_reason") == "content_filter"
        text = _text(said or message.get("content") or "")
        stop = "refusal" if refused else "length" if choice.get("finish_reason") == "length" else "end"
        places = (choice.get("logprobs") or {}).get("content") or []
        usage = body.get("usage") or {}
        return Answer(
            text,
            _stop(stop),
            tuple(_token(place) for place in places),
            _count(usage, "prompt_tokens"),
            _count(usage, "completion_tokens"),
        )


def dialect_of(config: RemoteConfig) -> Dialect:
    """The dialect a config names."""
    return AnthropicDialect() if config.dialect == "anthropic" else OpenAIDialect()


def _temperature(config: RemoteConfig) -> dict[str, float]:
    return {} if config.temperature is None else {"temperature": config.temperature}


def _stop(name: str) -> Literal["end", "length", "refusal"]:
    return cast("Literal['end', 'length', 'refusal']", name)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"text is a {type(value).__name__}")
    return value.encode("utf-8", "replace").decode()  # half of an escaped pair is no character


def _count(usage: Mapping[str, Any], name: str) -> int | None:
    value = usage.get(name)
    return value if isinstance(value, int) else None


def _token(place: Any) -> Token:
    listed = tuple((_text(one["token"]), float(one["logprob"])) for one in place.get("top_logprobs") or ())
    own = (_text(place["token"]), float(place["logprob"]))
    # the token that was drawn may be none of the likeliest
    return Token(own[0], listed if own[0] in (text for text, _ in listed) else (*listed, own))
