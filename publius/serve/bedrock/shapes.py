"""The request bodies of Converse and CountTokens, as AWS's service model has them.

What is not listed is ignored where leaving it out changes no reply (tiers, metadata), and refused by name
where it is one of a union's members, for then there is something we would not have read.
Source: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

__all__ = [
    "CachePoint",
    "ContentBlock",
    "ConverseRequest",
    "CountTokensRequest",
    "Document",
    "Message",
    "ResultBlock",
    "SystemBlock",
    "ToolConfig",
]


class _Part(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, extra="ignore", frozen=True, strict=True)


class _Union(_Part):
    """One member of several, which must be there."""

    @model_validator(mode="before")
    @classmethod
    def _one_member(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        known = [field.alias for field in cls.model_fields.values()]
        given = [name for name, member in value.items() if member is not None or name == "json"]
        if len(given) != 1:
            raise ValueError(f"must have exactly one member, has {len(given)}")
        if given[0] not in known:
            raise ValueError(
                f"{str(given[0])[:40]!r} is not supported; give one of {', '.join(map(str, known))}"
            )
        return value

    def member(self) -> tuple[str, Any]:
        """Its name in Python, and the member."""
        (name,) = (
            name
            for name in self.model_fields_set
            if getattr(self, name) is not None or type(self).model_fields[name].alias == "json"
        )
        return name, getattr(self, name)


class CachePoint(_Part):
    """Everything before it may be cached."""

    type: Literal["default"] = "default"
    ttl: Literal["5m", "1h"] | None = None


class _Text(_Union):
    text: str | None = None


class _DocumentSource(_Union):
    bytes: str | None = None
    text: str | None = None
    content: list[_Text] | None = None


class Document(_Part):
    """A document; `source.bytes` is base64."""

    name: str
    source: _DocumentSource
    format: str = "txt"
    context: str | None = None


class _ImageSource(_Union):
    bytes: str | None = None


class _Image(_Part):
    format: Literal["png", "jpeg", "gif", "webp"]
    source: _ImageSource


class _SearchResult(_Part):
    source: str
    title: str
    content: list[_Text]


_CallId = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.:-]{1,64}$")]


class _ToolUse(_Part):
    tool_use_id: _CallId
    name: str
    input: dict[str, Any]


class ResultBlock(_Union):
    """One part of what a tool gave back."""

    text: str | None = None
    value: Any = Field(default=None, alias="json")
    image: _Image | None = None
    document: Document | None = None
    search_result: _SearchResult | None = None


class _ToolResult(_Part):
    tool_use_id: _CallId
    content: list[ResultBlock]
    status: Literal["success", "error"] | None = None


class _ReasoningText(_Part):
    text: str
    signature: str | None = None


class _Reasoning(_Union):
    reasoning_text: _ReasoningText | None = None
    redacted_content: str | None = None


class _Citations(_Part):
    content: list[_Text] = []


class _Guarded(_Union):
    text: _Text | None = None


class ContentBlock(_Union):
    """One part of a message."""

    text: str | None = None
    image: _Image | None = None
    document: Document | None = None
    tool_use: _ToolUse | None = None
    tool_result: _ToolResult | None = None
    reasoning_content: _Reasoning | None = None
    search_result: _SearchResult | None = None
    citations_content: _Citations | None = None
    guard_content: _Guarded | None = None
    cache_point: CachePoint | None = None


class Message(_Part):
    """One turn."""

    role: Literal["user", "assistant", "system"]
    content: list[ContentBlock]


class SystemBlock(_Union):
    """One part of the system text."""

    text: str | None = None
    guard_content: _Guarded | None = None
    cache_point: CachePoint | None = None


class _InferenceConfig(_Part):
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = None
    top_p: float | None = None
    stop_sequences: list[str] | None = None


class _InputSchema(_Union):
    value: dict[str, Any] | None = Field(default=None, alias="json")


class _ToolSpec(_Part):
    name: str
    description: str | None = None
    input_schema: _InputSchema
    strict: bool | None = None


class _Tool(_Union):
    tool_spec: _ToolSpec | None = None
    cache_point: CachePoint | None = None


class _Named(_Part):
    name: str


class _ToolChoice(_Union):
    auto: dict[str, Any] | None = None
    any: dict[str, Any] | None = None
    tool: _Named | None = None


class ToolConfig(_Part):
    """Tools, and which may or must be called."""

    tools: list[_Tool] = Field(min_length=1)
    tool_choice: _ToolChoice | None = None


class _JsonSchema(_Part):
    text: str = Field(alias="schema")


class _Structure(_Union):
    json_schema: _JsonSchema | None = None


class _TextFormat(_Part):
    type: Literal["json_schema"]
    structure: _Structure


class _OutputConfig(_Part):
    text_format: _TextFormat | None = None
    effort: str | None = None


class ConverseRequest(_Part):
    """The body of Converse and ConverseStream.

    A guardrail, or a prompt kept elsewhere, would be passed over in silence if it were only ignored, so those
    two are refused.
    """

    messages: list[Message]
    system: list[SystemBlock] | None = None
    inference_config: _InferenceConfig | None = None
    tool_config: ToolConfig | None = None
    output_config: _OutputConfig | None = None
    additional_model_request_fields: dict[str, Any] | None = None
    additional_model_response_field_paths: list[str] | None = Field(default=None, max_length=10)
    guardrail_config: Any = None
    prompt_variables: Any = None

    @model_validator(mode="after")
    def _nothing_is_passed_over(self) -> ConverseRequest:
        for name in ("guardrail_config", "prompt_variables"):
            if getattr(self, name):
                raise ValueError(f"{to_camel(name)} is not supported")
        return self


class _InvokeTokens(_Part):
    body: str


class _CountInput(_Union):
    invoke_model: _InvokeTokens | None = None
    converse: ConverseRequest | None = None


class CountTokensRequest(_Part):
    """The body of CountTokens; `input.invokeModel.body` is a Messages body in base64."""

    input: _CountInput
