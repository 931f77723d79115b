"""A reply in the words of the Messages API: one object, or the events of a stream."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from publius.core.messages import TextBlock, ThinkingBlock, ToolUseBlock
from publius.serve.exchange import (
    Ask,
    Began,
    BlockBegan,
    BlockEnded,
    Ended,
    Event,
    Idle,
    Pause,
    Piece,
    ReplyBlock,
    Usage,
)
from publius.serve.server import Reply

__all__ = ["event_bodies", "message_body", "omits_thinking", "usage_body"]


def usage_body(usage: Usage, *, long_cache: bool = False, tier: str = "standard") -> dict[str, Any]:
    """Counts; every key is always there."""
    short, long = (0, usage.cache_write) if long_cache else (usage.cache_write, 0)
    return {
        "input_tokens": usage.input,
        "cache_creation_input_tokens": usage.cache_write,
        "cache_read_input_tokens": usage.cache_read,
        "cache_creation": {"ephemeral_5m_input_tokens": short, "ephemeral_1h_input_tokens": long},
        "output_tokens": usage.output,
        "output_tokens_details": {"thinking_tokens": usage.thinking},
        "service_tier": tier,
        "server_tool_use": None,
    }


def omits_thinking(body: dict[str, Any]) -> bool:
    """Whether a body that has been read wants the signature of thinking only (`display: omitted`)."""
    return (body.get("thinking") or {}).get("display") == "omitted"


def message_body(
    reply: Reply, ask: Ask, id: str, *, omit_thinking: bool = False, tier: str = "standard"
) -> dict[str, Any]:
    """The Message. One without any block holds an empty text, because some clients count blocks.

    Args:
        omit_thinking: as `event_bodies`.
        tier: "batch" for one of a batch.
    """
    ended = reply.ended
    content = [_block_body(block, omit_thinking) for block in reply.blocks] or [_opened(TextBlock(text=""))]
    return {
        "id": id,
        "type": "message",
        "role": "assistant",
        "model": ask.model,
        "content": content,
        "stop_reason": ended.stop_reason,
        "stop_sequence": ended.stop_sequence,
        "stop_details": _details(ended),
        "container": None,
        "context_management": None,
        "usage": usage_body(ended.usage, tier=tier),
    }


async def event_bodies(
    events: AsyncIterator[Event], ask: Ask, id: str, *, omit_thinking: bool = False
) -> AsyncIterator[dict[str, Any] | None]:
    """The events of a stream, each to be sent under the name of its `type`; None where nothing more is ready.

    Args:
        events: of `Server.exchange`; what it raises comes out of here.
        omit_thinking: send thinking blocks with their signature only (`display: omitted`).
    """
    blocks = 0
    kind = _DELTAS[TextBlock]
    async for event in events:
        match event:
            case Began(usage=usage):
                yield {"type": "message_start", "message": _begun(ask, id, usage)}
                yield {"type": "ping"}
            case BlockBegan(index=index, block=block):
                blocks += 1
                yield {"type": "content_block_start", "index": index, "content_block": _opened(block)}
                kind = _DELTAS[type(block)]
            case Piece(index=index, text=text):
                if omit_thinking and kind[0] == "thinking_delta":
                    continue
                yield _delta(index, {"type": kind[0], kind[1]: text})
            case BlockEnded(index=index, block=block):
                if isinstance(block, ThinkingBlock):
                    yield _delta(index, {"type": "signature_delta", "signature": block.signature})
                yield {"type": "content_block_stop", "index": index}
            case Idle():
                yield {"type": "ping"}
            case Pause():
                yield None
            case Ended():
                if not blocks:
                    empty = {"type": "text", "text": "", "citations": None}
                    yield {"type": "content_block_start", "index": 0, "content_block": empty}
                    yield {"type": "content_block_stop", "index": 0}
                yield {
                    "type": "message_delta",
                    "delta": {
                        "stop_reason": event.stop_reason,
                        "stop_sequence": event.stop_sequence,
                        "stop_details": _details(event),
                        "container": None,
                    },
                    "context_management": None,
                    "usage": usage_body(event.usage),
                }
                yield {"type": "message_stop"}


_DELTAS: dict[type, tuple[str, str]] = {
    TextBlock: ("text_delta", "text"),
    ThinkingBlock: ("thinking_delta", "thinking"),
    ToolUseBlock: ("input_json_delta", "partial_json"),
}


def _delta(index: int, delta: dict[str, Any]) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": delta}


def _begun(ask: Ask, id: str, usage: Usage) -> dict[str, Any]:
    return {
        "id": id,
        "type": "message",
        "role": "assistant",
        "model": ask.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "stop_details": None,
        "container": None,
        "context_management": None,
        "usage": usage_body(usage),
    }


def _opened(block: ReplyBlock) -> dict[str, Any]:
    match block:
        case TextBlock():
            return {"type": "text", "text": "", "citations": None}
        case ThinkingBlock():
            return {"type": "thinking", "thinking": "", "signature": ""}
        case ToolUseBlock():
            return {"type": "tool_use", "id": block.id, "name": block.name, "input": {}}


def _block_body(block: ReplyBlock, omit_thinking: bool) -> dict[str, Any]:
    match block:
        case TextBlock():
            return {"type": "text", "text": block.text, "citations": None}
        case ThinkingBlock():
            return {
                "type": "thinking",
                "thinking": "" if omit_thinking else block.thinking,
                "signature": block.signature,
            }
        case ToolUseBlock():
            return {"type": "tool_use", "id": block.id, "name": block.name, "input": block.input}


def _details(ended: Ended) -> dict[str, Any] | None:
    if ended.refusal is None:
        return None
    refusal = ended.refusal
    return {"type": "refusal", "category": refusal.category, "explanation": refusal.explanation}
