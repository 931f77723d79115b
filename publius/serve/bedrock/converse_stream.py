"""ConverseStream: the events of an exchange in its words, usage last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from publius.core.messages import TextBlock, ThinkingBlock, ToolUseBlock
from publius.serve.bedrock.converse import stop_reason, token_usage
from publius.serve.exchange import Began, BlockBegan, BlockEnded, Ended, Event, Idle, Pause, Piece, ReplyBlock

__all__ = ["ConverseStream"]

Named = tuple[str, dict[str, Any]]


class ConverseStream:
    """Turns events into (name, body) pairs: messageStart, the blocks, messageStop, metadata.

    Args:
        latency: milliseconds since the request came, asked when the reply has ended.
        additional: gives `additionalModelResponseFields` of a reply, None for none.
        omit_thinking: send thinking as its signature only.
    """

    def __init__(
        self,
        latency: Callable[[], int],
        additional: Callable[[list[ReplyBlock], Ended], dict[str, Any] | None] = lambda blocks, ended: None,
        *,
        omit_thinking: bool = False,
    ) -> None:
        self._latency, self._additional, self._omit = latency, additional, omit_thinking
        self._open: ReplyBlock | None = None
        self._blocks: list[ReplyBlock] = []

    def feed(self, event: Event) -> list[Named]:
        """What the next event becomes."""
        match event:
            case Began():
                return [("messageStart", {"role": "assistant"})]
            case BlockBegan():
                self._open = event.block
                return self._start(event.index, event.block)
            case Piece():
                unsaid = not event.text or (self._omit and isinstance(self._open, ThinkingBlock))
                return [] if unsaid else [_delta(event.index, self._of(event.text))]
            case BlockEnded():
                self._open = None
                self._blocks.append(event.block)
                return _stop(event.index, event.block)
            case Idle() | Pause():
                return []
            case _:
                return self._end(event)

    @staticmethod
    def _start(index: int, block: ReplyBlock) -> list[Named]:
        """Only tools have one."""
        if not isinstance(block, ToolUseBlock):
            return []
        start = {"toolUse": {"toolUseId": block.id, "name": block.name}}
        return [("contentBlockStart", {"contentBlockIndex": index, "start": start})]

    def _of(self, text: str) -> dict[str, Any]:
        if isinstance(self._open, ToolUseBlock):
            return {"toolUse": {"input": text}}
        return (
            {"reasoningContent": {"text": text}} if isinstance(self._open, ThinkingBlock) else {"text": text}
        )

    def _end(self, ended: Ended) -> list[Named]:
        empty = [_delta(0, {"text": ""}), *_stop(0, TextBlock(text=""))]
        additional = self._additional(self._blocks, ended)
        stop = {
            "stopReason": stop_reason(ended),
            **({} if additional is None else {"additionalModelResponseFields": additional}),
        }
        metadata = {"usage": token_usage(ended.usage), "metrics": {"latencyMs": self._latency()}}
        return [*([] if self._blocks else empty), ("messageStop", stop), ("metadata", metadata)]


def _delta(index: int, delta: dict[str, Any]) -> Named:
    return "contentBlockDelta", {"contentBlockIndex": index, "delta": delta}


def _stop(index: int, block: ReplyBlock) -> list[Named]:
    stop = ("contentBlockStop", {"contentBlockIndex": index})
    if not isinstance(block, ThinkingBlock):
        return [stop]
    return [_delta(index, {"reasoningContent": {"signature": block.signature}}), stop]
