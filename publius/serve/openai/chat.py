"""`POST /v1/chat/completions`: whole, or as a stream of chunks."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from fastapi import Request
from starlette.responses import JSONResponse, Response

from publius.core.messages import TextBlock, ThinkingBlock, ToolUseBlock
from publius.inference.grammar import Grammar
from publius.serve.errors import ApiError, api_error
from publius.serve.exchange import (
    Ask,
    Began,
    BlockBegan,
    BlockEnded,
    Drawn,
    Ended,
    Event,
    Idle,
    Pause,
    Piece,
    StopReason,
    Usage,
)
from publius.serve.guard import Caller
from publius.serve.http import compact, read_json, request_id, sse
from publius.serve.openai.body import ChatBody, invalid, parsed, refuse_given
from publius.serve.openai.choices import at_once, merged, usage_of
from publius.serve.openai.conversation import conversation, tool_choice, tool_specs
from publius.serve.openai.errors import error_body
from publius.serve.openai.tokens import Seen, Tokens
from publius.serve.replies import begun, unless_gone
from publius.serve.server import Server

__all__ = ["FINISHED", "PING", "Choice", "asked", "chat", "frame"]

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]
FINISHED: dict[StopReason, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_EFFORT = {"minimal": 256, "low": 1024, "medium": 4096, "high": 16384, "xhigh": None}
"""Most tokens of thinking."""
PING = b": still there\n\n"
"""A comment, which no client reads, for those who count the seconds of silence."""
_CANNOT = {
    "functions": "give tools instead",
    "function_call": "give tool_choice instead",
    "audio": "this model does not speak",
    "prediction": "predicted outputs are not supported",
    "web_search_options": "there is no web search here",
}


def asked(body: ChatBody, context: int) -> Ask:
    """What the body asks for.

    Args:
        context: the model's, all of which a reply may use when no limit is given.

    Raises:
        ApiError, UserError: naming the field.
    """
    tools = tool_specs(body.tools)
    choice = tool_choice(body.tool_choice, tools)
    if body.top_logprobs and not body.logprobs:
        raise invalid("top_logprobs", "goes with logprobs: true")
    most = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    if most == 0:
        field = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
        raise invalid(field, "must be at least 1")
    thinking, budget = _thinking(body)
    return Ask(
        model=body.model,
        conversation=conversation(body.messages, tools),
        max_tokens=context if most is None else most,
        sampling=body.sampling(body.top_logprobs or 0),
        tool_choice=choice,
        one_call=body.parallel_tool_calls is False,
        thinking=thinking,
        thinking_budget=budget,
        grammar=_grammar(body.response_format),
        tell_drawn=bool(body.logprobs),
    )


def _thinking(body: ChatBody) -> tuple[bool, int | None]:
    """Whether it thinks, and how long at most: `reasoning_effort`, or vLLM's `enable_thinking`."""
    if body.reasoning_effort is not None:
        return body.reasoning_effort != "none", _EFFORT.get(body.reasoning_effort)
    return (body.chat_template_kwargs or {}).get("enable_thinking") is True, None


def _grammar(wanted: dict[str, Any] | None) -> Grammar | None:
    """What the reply's text must match."""
    kind = (wanted or {}).get("type", "text")
    if wanted is None or kind == "text":
        return None
    if kind == "json_object":
        return Grammar.json_schema({"type": "object"})
    if kind != "json_schema":
        raise invalid("response_format.type", 'must be "text", "json_object" or "json_schema"')
    given = wanted.get("json_schema")
    schema = given.get("schema") if isinstance(given, dict) else None
    if not isinstance(schema, dict):
        raise invalid("response_format.json_schema.schema", "must be a JSON schema")
    return Grammar.json_schema(schema)


@dataclass
class Choice:
    """One reply on its way into OpenAI's words: an event in, what it adds to the message out.

    Args:
        index: of the choice.
        tokens: names of tokens.
        logprobs: whether those of the text are shown.
        top: with how many alternatives.
    """

    index: int
    tokens: Tokens
    logprobs: bool = False
    top: int = 0
    text: list[str] = field(default_factory=list[str])
    reasoning: list[str] = field(default_factory=list[str])
    calls: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    shown: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    ended: Ended | None = None
    usage: Usage = Usage(0)  # noqa: RUF009 - a tuple
    _open: Literal["text", "thinking", "tool"] = "text"
    _pieces: int = 0

    def take(self, event: Event) -> list[dict[str, Any]]:
        """Entries of `choices` of a chunk, mostly one or none."""
        match event:
            case Began():
                self.usage = event.usage
                return [self._chunk({"role": "assistant", "content": ""})]
            case BlockBegan():
                return self._begin(event.block)
            case Piece():
                return self._piece(event)
            case BlockEnded():
                return self._end(event.block)
            case Ended():
                self.ended, self.usage = event, event.usage
                delta = {} if event.refusal is None else {"refusal": event.refusal.explanation}
                return [self._chunk(delta, finish=FINISHED[event.stop_reason])]
            case Idle() | Pause():
                return []

    def _begin(self, block: TextBlock | ThinkingBlock | ToolUseBlock) -> list[dict[str, Any]]:
        self._pieces = 0
        if isinstance(block, ToolUseBlock):
            self._open = "tool"
            function = {"name": block.name, "arguments": ""}
            self.calls.append({"id": block.id, "type": "function", "function": function})
            return [self._chunk({"tool_calls": [{"index": len(self.calls) - 1, **self.calls[-1]}]})]
        self._open = "thinking" if isinstance(block, ThinkingBlock) else "text"
        return []

    def _piece(self, piece: Piece) -> list[dict[str, Any]]:
        self._pieces += len(piece.text)
        if self._open == "tool":
            return self._arguments(piece.text) if piece.text else []
        if self._open == "thinking":
            self.reasoning.append(piece.text)
            return [self._chunk({"reasoning_content": piece.text})] if piece.text else []
        self.text.append(piece.text)
        shown = self._entries(piece.drawn)
        self.shown += shown or ()
        return [self._chunk({"content": piece.text}, shown)] if piece.text or shown else []

    def _end(self, block: TextBlock | ThinkingBlock | ToolUseBlock) -> list[dict[str, Any]]:
        if not isinstance(block, ToolUseBlock):
            return []
        whole = json.dumps(block.input, ensure_ascii=False, separators=(",", ":"))
        more = [] if self._pieces else self._arguments(whole)  # a call without arguments may have no pieces
        self.calls[-1]["function"] = {"name": block.name, "arguments": whole}
        return more

    def _arguments(self, text: str) -> list[dict[str, Any]]:
        call = {"index": len(self.calls) - 1, "function": {"arguments": text}}
        return [self._chunk({"tool_calls": [call]})]

    def _entries(self, drawn: Sequence[Drawn]) -> list[dict[str, Any]] | None:
        """Log-probabilities of what was drawn of the text; special tokens are none of it."""
        if not self.logprobs:
            return None
        return [self.tokens.chat(Seen(*one), self.top) for one in drawn if not self.tokens.special(one.id)]

    def _chunk(
        self, delta: dict[str, Any], shown: list[dict[str, Any]] | None = None, finish: str | None = None
    ) -> dict[str, Any]:
        logprobs = {"content": shown, "refusal": None} if shown else None
        return {"index": self.index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}

    def whole(self) -> dict[str, Any]:
        """The entry of `choices` of a whole response."""
        assert self.ended is not None, "the reply is not over"
        refusal, text = self.ended.refusal, "".join(self.text)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": text if text or not self.calls else None,
            "refusal": refusal and refusal.explanation,
            "annotations": [],
        }
        if self.reasoning:
            message["reasoning_content"] = "".join(self.reasoning)
        if self.calls:
            message["tool_calls"] = self.calls
        return {
            "index": self.index,
            "message": message,
            "logprobs": {"content": self.shown, "refusal": None} if self.logprobs else None,
            "finish_reason": FINISHED[self.ended.stop_reason],
        }


async def chat(server: Server, request: Request, caller: Caller) -> Response:
    """The response to a request whose key has been seen.

    Raises:
        ApiError, UserError: before anything of the reply has been sent.
    """
    body_json = await read_json(request, server.config.body_bytes)
    refuse_given(body_json, _CANNOT)
    body, number = parsed(ChatBody, body_json), request_id(request)
    served = server.hub.get(body.model)
    ask = asked(body, served.context)
    tokens = Tokens(served.tokenizer)
    choices = [Choice(i, tokens, bool(body.logprobs), body.top_logprobs or 0) for i in range(body.choices)]
    streams = [server.exchange(replace(ask, stream=i), caller, number) for i in range(body.choices)]
    events = merged(streams, at_once(served.engine.max_batch))
    head = {
        "id": f"chatcmpl-{number.removeprefix('req_')}",
        "object": "chat.completion.chunk" if body.stream else "chat.completion",
        "created": int(time.time()),
        "model": body.model,
        "system_fingerprint": None,
        "service_tier": "default",
    }
    if body.stream:
        return sse(_frames(head, choices, await begun(request, events), body.with_usage))
    await unless_gone(request, _drained(choices, events))
    usage = usage_of([(0, choice.usage) for choice in choices])
    return JSONResponse({**head, "choices": [choice.whole() for choice in choices], "usage": usage})


async def _drained(choices: Sequence[Choice], events: AsyncGenerator[tuple[int, Event], None]) -> None:
    async with aclosing(events):
        async for index, event in events:
            choices[index].take(event)


async def _frames(
    head: dict[str, Any],
    choices: Sequence[Choice],
    events: AsyncGenerator[tuple[int, Event], None],
    with_usage: bool,
) -> AsyncGenerator[bytes | None, None]:
    """The frames of a stream; each carries `usage` (null but in the last) where usage was asked for."""
    more = {"usage": None} if with_usage else {}
    async with aclosing(events):
        try:
            async for index, event in events:
                if isinstance(event, Idle):
                    yield PING
                elif isinstance(event, Pause):
                    yield None
                for entry in choices[index].take(event):
                    yield frame({**head, "choices": [entry], **more})
        except Exception as error:
            yield frame(error_body(api_error(error)))
            if not isinstance(error, ApiError):
                raise
            return
    if with_usage:
        used = usage_of([(0, choice.usage) for choice in choices])
        yield frame({**head, "choices": [], "usage": used})
    yield b"data: [DONE]\n\n"


def frame(value: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: %b\n\n" % compact(value)
