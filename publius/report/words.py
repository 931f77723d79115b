"""What people and models said, as HTML: blocks, messages, conversations. Everything is escaped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from publius.core.messages import (
    Block,
    Conversation,
    Message,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from publius.report.html import Html, el

__all__ = ["hash_order", "opening", "show_block"]


def hash_order(*parts: str) -> str:
    """A key to sort by: what is shown is picked by a hash of its text, not by eye."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()


def show_block(block: Block) -> Html | None:
    """A block of a message; None for empty text."""
    if isinstance(block, TextBlock):
        return el("p", block.text, class_="said") if block.text.strip() else None
    if isinstance(block, ThinkingBlock):
        return el("p", el("span", "thinking", class_="tag"), block.thinking, class_="said thought")
    if isinstance(block, ToolUseBlock):
        call = f"{block.name}({json.dumps(block.input, ensure_ascii=False)})"
        return el("p", el("span", "calls", class_="tag"), el("code", call), class_="said tool")
    if isinstance(block, ToolResultBlock):
        tag = "error" if block.is_error else "result"
        return el("p", el("span", tag, class_="tag"), el("code", block.content), class_="said tool")
    return el("p", "(an image)", class_="note")


def _message(message: Message) -> Html:
    shown = [show_block(block) for block in message.content]
    return el("div", el("span", message.role, class_="role"), shown, class_=f"message {message.role}")


def opening(conversation: Conversation, messages: Sequence[Message]) -> Html:
    """System text, tools and the messages up to the reply."""
    system = (
        el("p", el("span", "system", class_="tag"), conversation.system, class_="said")
        if conversation.system
        else None
    )
    tools = (
        el("p", f"tools: {', '.join(t.name for t in conversation.tools)}", class_="note")
        if conversation.tools
        else None
    )
    return el("div", system, tools, [_message(m) for m in messages], class_="opening")
