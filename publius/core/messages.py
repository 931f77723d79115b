"""Messages: the shape of every conversation, from training data to the server.

The shape is the Messages API's: a conversation is an optional system text, optional tools, and
alternating user and assistant messages whose content is a list of typed blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from publius.core.errors import UserError

__all__ = [
    "Block",
    "Conversation",
    "ImageBlock",
    "Message",
    "TextBlock",
    "ThinkingBlock",
    "ToolResultBlock",
    "ToolSpec",
    "ToolUseBlock",
    "assistant",
    "check_roles",
    "text_of",
    "turns_left",
    "user",
]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TextBlock(_Part):
    """Plain text."""

    type: Literal["text"] = "text"
    text: str


class ThinkingBlock(_Part):
    """Reasoning written before the visible reply."""

    type: Literal["thinking"] = "thinking"
    thinking: str
    signature: str = ""


class ToolUseBlock(_Part):
    """The assistant calls a tool; `input` is a JSON object."""

    type: Literal["tool_use"] = "tool_use"
    id: str
    name: str
    input: dict[str, Any]


class ToolResultBlock(_Part):
    """The result of a tool call, sent back in a user message."""

    type: Literal["tool_result"] = "tool_result"
    tool_use_id: str
    content: str
    is_error: bool = False


class ImageBlock(_Part):
    """An image by base64 source. Carried, never understood, until a vision tower exists."""

    type: Literal["image"] = "image"
    source: dict[str, Any]


Block = Annotated[
    TextBlock | ThinkingBlock | ToolUseBlock | ToolResultBlock | ImageBlock, Field(discriminator="type")
]


class Message(_Part):
    """One turn. `content` accepts a plain string and keeps it as one text block.

    The system's turns among the others are instructions that came later than the conversation's `system`, and
    are read where they stand.
    """

    role: Literal["user", "assistant", "system"]
    content: tuple[Block, ...]

    @field_validator("content", mode="before")
    @classmethod
    def _text_is_a_block(cls, value: Any) -> Any:
        return ({"type": "text", "text": value},) if isinstance(value, str) else value


class ToolSpec(_Part):
    """A tool the assistant may call; `input_schema` is JSON schema."""

    name: str
    description: str = ""
    input_schema: dict[str, Any] = Field(default_factory=dict)


class Conversation(_Part):
    """System text, tools and messages; `meta` carries what graders need and models never see."""

    system: str | None = None
    tools: tuple[ToolSpec, ...] = ()
    messages: tuple[Message, ...]
    meta: dict[str, Any] = Field(default_factory=dict)

    def then(self, *messages: Message) -> Conversation:
        """This conversation with `messages` appended."""
        return self.model_copy(update={"messages": (*self.messages, *messages)})


def user(content: str | Sequence[Any]) -> Message:
    """A user message from text or blocks."""
    return Message(role="user", content=content)  # pyright: ignore[reportArgumentType]


def assistant(content: str | Sequence[Any]) -> Message:
    """An assistant message from text or blocks."""
    return Message(role="assistant", content=content)  # pyright: ignore[reportArgumentType]


def turns_left(conversation: Conversation) -> list[str]:
    """The user's further lines, in order, where a conversation has some in `meta["turns"]`."""
    return list(conversation.meta.get("turns", ()))


def text_of(message: Message | Iterable[Any]) -> str:
    """The visible text of a message or of blocks (no thinking, no tool calls), joined as written."""
    blocks = message.content if isinstance(message, Message) else message
    return "".join(block.text for block in blocks if isinstance(block, TextBlock))


def check_roles(conversation: Conversation, where: str = "conversation") -> None:
    """Require user first, then strict alternation, and tool results that answer the last tool calls.

    Raises:
        UserError: naming the first message out of order.
    """
    if not conversation.messages:
        raise UserError("a conversation has no messages", where=where, fix="give at least one user message")
    pending: set[str] = set()
    for index, message in enumerate(conversation.messages):
        expected = "user" if index % 2 == 0 else "assistant"
        if message.role != expected:
            raise UserError(
                f"message {index} has role {message.role!r}, expected {expected!r}",
                where=where,
                fix="start with a user message and alternate user and assistant",
            )
        answered = {b.tool_use_id for b in message.content if isinstance(b, ToolResultBlock)}
        if answered - pending or (pending and message.role == "user" and pending - answered):
            raise UserError(
                f"message {index}: tool results {sorted(answered)} do not answer the calls {sorted(pending)}",
                where=where,
                fix="answer every tool_use of the assistant message before, and no other",
            )
        pending = {b.id for b in message.content if isinstance(b, ToolUseBlock)}
