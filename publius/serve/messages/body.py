"""The fields of a request body, as clients send them (both API versions).

Unknown fields are let through: agents add some every month, and a server that knows less should still answer.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

__all__ = [
    "Body",
    "CacheControl",
    "CountBody",
    "DocumentIn",
    "ImageIn",
    "MessageIn",
    "OutputConfig",
    "RedactedIn",
    "SearchResultIn",
    "TextIn",
    "Thinking",
    "ThinkingIn",
    "ToolChoiceIn",
    "ToolIn",
    "ToolResultIn",
    "ToolUseIn",
    "UnknownIn",
]


class _In(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


class CacheControl(_In):
    """A mark: everything up to here is worth keeping."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] = "5m"


class _Block(_In):
    cache_control: CacheControl | None = None


class TextIn(_Block):
    """Text."""

    type: Literal["text"]
    text: str
    citations: list[Any] | None = None


class ThinkingIn(_In):
    """Thinking of an earlier reply, sent back."""

    type: Literal["thinking"]
    thinking: str
    signature: str


class RedactedIn(_In):
    """Thinking nobody may read; this server writes none."""

    type: Literal["redacted_thinking"]
    data: str


class ToolUseIn(_Block):
    """A call of an earlier reply."""

    type: Literal["tool_use"]
    id: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    name: str = Field(min_length=1, max_length=200)
    input: dict[str, Any]


class ImageIn(_Block):
    """An image."""

    type: Literal["image"]
    source: dict[str, Any]


class DocumentIn(_Block):
    """A document; read when its source is text."""

    type: Literal["document"]
    source: dict[str, Any]
    title: str | None = None
    context: str | None = None


class SearchResultIn(_Block):
    """A search result."""

    type: Literal["search_result"]
    source: str
    title: str
    content: list[TextIn]


class UnknownIn(_In):
    """A kind of block this server does not know."""

    model_config = ConfigDict(extra="allow", frozen=True)

    type: str


def _text_blocks(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


def _kind(value: Any) -> str:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return kind if kind in _KINDS else "unknown"


_KINDS = (
    "text", "thinking", "redacted_thinking", "tool_use", "tool_result", "image", "document", "search_result",
)  # fmt: skip
_Readable = (
    Annotated[TextIn, Tag("text")]
    | Annotated[ImageIn, Tag("image")]
    | Annotated[DocumentIn, Tag("document")]
    | Annotated[SearchResultIn, Tag("search_result")]
    | Annotated[UnknownIn, Tag("unknown")]
)


def _readable_kind(value: Any) -> str:
    kind = _kind(value)
    return kind if kind in ("text", "image", "document", "search_result") else "unknown"


class ToolResultIn(_Block):
    """The answer to a call."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: Annotated[
        list[Annotated[_Readable, Discriminator(_readable_kind)]] | None, BeforeValidator(_text_blocks)
    ] = None
    is_error: bool | None = None


BlockIn = Annotated[
    Annotated[TextIn, Tag("text")]
    | Annotated[ThinkingIn, Tag("thinking")]
    | Annotated[RedactedIn, Tag("redacted_thinking")]
    | Annotated[ToolUseIn, Tag("tool_use")]
    | Annotated[ToolResultIn, Tag("tool_result")]
    | Annotated[ImageIn, Tag("image")]
    | Annotated[DocumentIn, Tag("document")]
    | Annotated[SearchResultIn, Tag("search_result")]
    | Annotated[UnknownIn, Tag("unknown")],
    Discriminator(_kind),
]


class MessageIn(_In):
    """One turn."""

    role: Literal["user", "assistant", "system"]
    content: Annotated[list[BlockIn], BeforeValidator(_text_blocks)]


class ToolIn(_In):
    """A tool. Those with another `type` than custom run on the vendor's servers."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,128}$")
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    cache_control: CacheControl | None = None


class ToolChoiceIn(_In):
    """Whether tools are called."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(_In):
    """Whether and how long the model thinks before it replies."""

    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: int | None = None
    display: Literal["summarized", "omitted"] | None = None


class OutputConfig(_In):
    """How the reply is written."""

    effort: str | None = None
    format: dict[str, Any] | None = None


class CountBody(_In):
    """What `count_tokens` takes."""

    model: str = Field(min_length=1, max_length=256)
    messages: list[MessageIn] = Field(min_length=1, max_length=100_000)
    system: Annotated[list[TextIn] | None, BeforeValidator(_text_blocks)] = None
    tools: list[ToolIn] | None = None
    tool_choice: ToolChoiceIn | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    cache_control: CacheControl | None = None
    thread: Any = None


class Body(CountBody):
    """What `create` takes."""

    max_tokens: int = Field(ge=0, le=1 << 40)
    stop_sequences: list[str] | None = Field(default=None, max_length=8192)
    stream: bool | None = None
    temperature: float | None = Field(default=None, ge=0, le=1)
    top_p: float | None = Field(default=None, ge=0, le=1)
    top_k: int | None = Field(default=None, ge=0, le=1 << 40)
    metadata: dict[str, Any] | None = None
