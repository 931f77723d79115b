"""An assistant behind a Messages endpoint: the same events and replies as one in this process."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, Literal, Self

import httpx2

from publius.core.errors import UserError
from publius.core.messages import Block, Conversation, Message, TextBlock, ThinkingBlock, ToolUseBlock
from publius.inference.assistant import Event, Reply
from publius.inference.remote.config import RemoteConfig
from publius.inference.remote.dialect import AnthropicDialect

__all__ = ["RemoteAssistant"]

_REASONS = {"tool_use": "tool_use", "max_tokens": "max_tokens", "stop_sequence": "stop_sequence",
            "model_context_window_exceeded": "max_tokens"}  # fmt: skip
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What events of another shape end in; ValueError is pydantic's, too."""


class RemoteAssistant:
    """Replies to conversations over HTTP.

    Args:
        config: where the model is; its dialect must be `anthropic`. Retries, limits and the cache are not for
            conversations: what fails is told at once.
        key: of the API, "" for none.
        max_tokens: most new tokens of a reply.
        verify: False trusts any certificate; a path trusts what it holds.
    """

    def __init__(
        self, config: RemoteConfig, key: str = "", *, max_tokens: int = 1024, verify: bool | str = True
    ) -> None:
        dialect = AnthropicDialect()
        self._endpoint, self._config, self._max_tokens = dialect.endpoint(config.url), config, max_tokens
        timeout = httpx2.Timeout(config.timeout, connect=10.0)
        self._client = httpx2.Client(headers=dialect.headers(key), timeout=timeout, verify=verify)

    def stream(
        self, conversation: Conversation, *, thinking: bool | None = None
    ) -> Generator[Event, None, Reply]:
        """One reply as it is written; arguments and events as `Assistant.stream`.

        Raises:
            UserError: an endpoint that cannot be reached, or what it answers instead of a reply.
        """
        body = {**_body(conversation), "model": self._config.model, "max_tokens": self._max_tokens}
        body["stream"] = True
        if self._config.temperature is not None:
            body["temperature"] = self._config.temperature
        if thinking is not False:
            body["thinking"] = {"type": "adaptive"}
        reading = _Reading()
        try:
            with self._client.stream("POST", self._endpoint, json=body) as response:
                if response.status_code != 200:
                    response.read()
                    raise self._refused(response.status_code, response.text)
                for data in _frames(response.iter_lines(), self._endpoint):
                    if data.get("type") == "error":
                        raise self._refused(200, json.dumps(data))
                    with _understood(self._endpoint):
                        events = [*reading.take(data)]
                    yield from events
        except httpx2.HTTPError as error:
            raise UserError(
                f"the endpoint does not answer: {type(error).__name__}: {error}",
                where=self._endpoint,
                fix="is the server running there? publius serve RUN",
            ) from None
        with _understood(self._endpoint):
            reply = reading.reply(self._endpoint)
        return reply

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _refused(self, status: int, text: str) -> UserError:
        try:
            error = json.loads(text)["error"]
            told = f"{error['type']}: {error['message']}"
        except (ValueError, KeyError, TypeError):
            told = f"HTTP {status}: {text[:200]}"
        fix = "give the key in $PUBLIUS_API_KEY" if status == 401 else "see the server's log"
        return UserError(told, where=self._endpoint, fix=fix)


def _body(conversation: Conversation) -> dict[str, Any]:
    body: dict[str, Any] = {"messages": [_message(message) for message in conversation.messages]}
    if conversation.system:
        body["system"] = conversation.system
    if conversation.tools:
        body["tools"] = [tool.model_dump(mode="json") for tool in conversation.tools]
    return body


def _message(message: Message) -> dict[str, Any]:
    """Thinking without a signature was not this server's, and is not sent."""
    kept = [b for b in message.content if not isinstance(b, ThinkingBlock) or b.signature]
    return {"role": message.role, "content": [block.model_dump(mode="json") for block in kept]}


def _frames(lines: Iterator[str], where: str) -> Iterator[dict[str, Any]]:
    for line in lines:
        if line.startswith("data:"):
            try:
                data: dict[str, Any] = json.loads(line.removeprefix("data:"))
                data.get("type")  # of an object
                yield data
            except _UNREADABLE:
                raise UserError(
                    f"an event of the stream is not JSON: {line[:80]!r}", where=where, fix="ask again"
                ) from None


@contextmanager
def _understood(where: str) -> Iterator[None]:
    """Inside, an event of another shape than the Messages API's is a `UserError`."""
    try:
        yield
    except _UNREADABLE as error:
        told = " ".join(f"{type(error).__name__}: {error}".split())[:100]
        problem = f"an event of the stream is none of the Messages API's ({told})"
        raise UserError(problem, where=where, fix="see what speaks at that address, and ask again") from error


class _Reading:
    """A stream's events, put together."""

    def __init__(self) -> None:
        self._blocks: list[Block] = []
        self._open: dict[str, Any] = {}
        self._text = ""
        self._half = ""
        """The first half of a character whose second is yet to come: JSON writes some as two."""
        self._end: dict[str, Any] | None = None
        self._problems: list[str] = []
        self._tokens = 0

    def take(self, data: dict[str, Any]) -> Iterator[Event]:
        match data.get("type"):
            case "content_block_start":
                self._open, self._text = dict(data["content_block"]), ""
            case "content_block_delta":
                yield from self._more(data["delta"])
            case "content_block_stop":
                yield from self._close()
            case "message_delta":
                self._end = data["delta"]
                self._tokens = int((data.get("usage") or {}).get("output_tokens") or 0)
            case _:
                pass

    def _more(self, delta: dict[str, Any]) -> Iterator[Event]:
        match delta["type"]:
            case "text_delta":
                yield from self._said("text", delta["text"])
            case "thinking_delta":
                yield from self._said("thinking", delta["thinking"])
            case "input_json_delta":
                self._text += delta["partial_json"]
            case "signature_delta":
                self._open["signature"] = delta["signature"]
            case _:
                pass

    def _said(
        self, kind: Literal["text", "thinking"], more: str = "", *, last: bool = False
    ) -> Iterator[Event]:
        """Whole characters; half of one by itself is none, and could be neither shown nor sent back."""
        more, self._half = self._half + more, ""
        if more and not last and "\ud800" <= more[-1] <= "\udbff":
            more, self._half = more[:-1], more[-1]
        more = more.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        if more:
            self._text += more
            yield Event(kind, more)

    def _close(self) -> Iterator[Event]:
        opened = self._open
        match opened.get("type"):
            case "text":
                yield from self._said("text", last=True)
                if self._text:
                    self._blocks.append(TextBlock(text=self._text))
            case "thinking":
                yield from self._said("thinking", last=True)
                signature = str(opened.get("signature", ""))
                self._blocks.append(ThinkingBlock(thinking=self._text, signature=signature))
            case "tool_use":
                try:
                    given = json.loads(self._text) if self._text else opened.get("input") or {}
                except ValueError:  # it was cut off: half a call is text
                    self._problems.append("a tool call is not a valid call: it was cut off")
                    self._blocks.append(TextBlock(text=self._text))
                    return
                self._blocks.append(ToolUseBlock(id=opened["id"], name=opened["name"], input=given))
                call = {"name": opened["name"], "input": given}
                yield Event("tool_use", json.dumps(call, ensure_ascii=False, separators=(",", ":")))
            case _:
                pass

    def reply(self, where: str) -> Reply:
        end = self._end
        if end is None:
            raise UserError("the reply was cut off", where=where, fix="ask again")
        details = end.get("stop_details") or {}
        refused = end.get("stop_reason") == "refusal"
        if refused:
            self._problems.append(f"refused by a monitor: {details.get('explanation') or 'no reason given'}")
        problems = tuple(self._problems)
        reason = _REASONS.get(str(end.get("stop_reason")), "end_turn")
        message = Message(role="assistant", content=tuple(self._blocks))
        return Reply(message, reason, self._tokens, end.get("stop_sequence"), problems)  # pyright: ignore[reportArgumentType]
