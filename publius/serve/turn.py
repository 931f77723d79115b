"""One exchange on its way: tokens taken from the engine, events made of what may leave."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from publius.core.messages import TextBlock, ThinkingBlock, ToolUseBlock
from publius.inference.engine import Request
from publius.safety.monitor import Verdict
from publius.serve.blocks import BlockReader, Opens, Part, Says
from publius.serve.errors import ApiError
from publius.serve.exchange import (
    Ask,
    BlockBegan,
    BlockEnded,
    Drawn,
    Ended,
    Event,
    Piece,
    Refusal,
    ReplyBlock,
    StopReason,
    Usage,
)
from publius.serve.guard import Caller
from publius.serve.http import new_id
from publius.serve.hub import ServedModel
from publius.serve.signatures import seal

__all__ = ["Turn"]


@dataclass(eq=False)
class Turn:
    """The state of one exchange.

    Args:
        model, ask, caller, request_id: who answers what to whom.
        began: `time.monotonic()`.
        prompt: its tokens.
        marked: of them, those the client marked for the cache.
        secret: seals thinking.
    """

    model: ServedModel
    ask: Ask
    caller: Caller
    request_id: str
    began: float
    prompt: int
    marked: int
    secret: bytes
    request: Request | None = None
    read: int = 0
    """Tokens taken from the engine."""
    thought: int = 0
    """Of them, thinking."""
    reason: StopReason | None = None
    verdict: Verdict | None = None
    _number: int = 0
    _open: ReplyBlock | None = None
    _said: list[str] = field(default_factory=list[str])
    _drawn: deque[tuple[int, Drawn]] = field(default_factory=deque[tuple[int, Drawn]])
    """Those that have not left, behind where the text of each ends: with its text a token leaves."""
    _left: int = 0
    """Characters that have left, of all blocks."""

    def usage(self, *, output: bool = True) -> Usage:
        """So far."""
        reused = (self.request.reused or 0) if self.request is not None else 0
        read = min(reused, self.marked)
        return Usage(
            input=self.prompt - self.marked,
            cache_write=self.marked - read,
            cache_read=read,
            output=self.read if output else 0,
            thinking=self.thought if output else 0,
            reused=reused,
        )

    def take(self, reader: BlockReader, tokens: Sequence[int]) -> list[Part]:
        """The next tokens of the reply."""
        if self.ask.tell_drawn:
            parts = list[Part]()
            for place, token in enumerate(tokens, self.read):
                parts += self._told(reader, place, token)
        else:
            parts = reader.take(tokens)
        self.read += len(tokens)
        self.thought = reader.thought
        return parts

    def _told(self, reader: BlockReader, place: int, token: int) -> list[Part]:
        """One token, which is kept until its text leaves; those of a tool call are not told at all."""
        request = self.request
        assert request is not None
        parts = reader.take((token,))
        if reader.mode != "tool_use":
            alternatives = request.alternatives[place] if place < len(request.alternatives) else ()
            self._drawn.append((reader.end, Drawn(token, request.logprobs[place], alternatives)))
        return parts

    def _leaving(self) -> tuple[Drawn, ...]:
        """The tokens all of whose text has left."""
        found: list[Drawn] = []
        while self._drawn and self._drawn[0][0] <= self._left:
            found.append(self._drawn.popleft()[1])
        return tuple(found)

    def event(self, part: Part) -> Event:
        """A part of the reply that may leave."""
        match part:
            case Opens(kind="text"):
                self._open = TextBlock(text="")
            case Opens(kind="thinking"):
                self._open = ThinkingBlock(thinking="")
            case Opens(name=name):
                self._open = ToolUseBlock(id=new_id("toolu"), name=name, input={})
            case Says(text=text):
                self._said.append(text)
                self._left += len(text)
                return Piece(self._number, text, self._leaving())
            case _:
                return self._shut(part.input)
        return BlockBegan(self._number, self._open)

    def break_off(self) -> list[Event]:
        """The end of a block that a monitor ended in the middle."""
        return [self._shut({})] if self._open is not None else []

    def _shut(self, given: dict[str, object]) -> BlockEnded:
        text, block = "".join(self._said), self._open
        assert block is not None
        match block:
            case TextBlock():
                block = TextBlock(text=text)
            case ThinkingBlock():
                block = ThinkingBlock(thinking=text, signature=seal(self.secret, self.model.id, text))
            case ToolUseBlock():
                block = ToolUseBlock(id=block.id, name=block.name, input=given)
        event = BlockEnded(self._number, block)
        self._number, self._open, self._said = self._number + 1, None, []
        return event

    def ended(self, reason: StopReason, verdict: Verdict) -> Ended:
        """The reply is over."""
        self.reason, self.verdict = reason, verdict
        sequence = self.request.stop_sequence if self.request and reason == "stop_sequence" else None
        refused = reason == "refusal"
        return Ended(
            reason,
            self.usage(),
            sequence,
            Refusal(verdict.category, verdict.explanation) if refused else None,
            () if refused else self._leaving(),
        )

    def why(self, reader: BlockReader) -> StopReason:
        """Why the engine stopped, in the API's words.

        Raises:
            ApiError: when it was ended from outside.
        """
        request = self.request
        assert request is not None
        match request.stop_reason:
            case "stop_sequence":
                return "stop_sequence"
            case "max_tokens":
                cut = self.ask.max_tokens > len(request.tokens)
                return "model_context_window_exceeded" if cut else "max_tokens"
            case "cancelled":
                raise ApiError("api_error", "the reply was cancelled")
            case _ if self.ask.max_tokens == 0:
                return "max_tokens"
            case _:
                return "tool_use" if reader.calls else "end_turn"
