"""Request bodies: the fields OpenAI's clients send, and how a reply is drawn.

Fields nobody here knows are passed over: clients add some every month. What is known and cannot be done is
refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from publius.inference.sampling import Sampling
from publius.serve.errors import ApiError

__all__ = ["Body", "ChatBody", "CompletionBody", "invalid", "parsed", "refuse_given"]

MOST_CHOICES = 128
MOST_ALTERNATIVES = 20

Model = TypeVar("Model", bound=BaseModel)


def _no_bool(value: Any) -> Any:
    """True is no number, whatever Python says."""
    if isinstance(value, bool):
        raise ValueError("a boolean is no number")
    return value


Whole = Annotated[int, BeforeValidator(_no_bool)]
Number = Annotated[float, BeforeValidator(_no_bool)]


class Body(BaseModel):
    """What both endpoints take. A null is as good as a field left out."""

    model_config = ConfigDict(extra="ignore")

    model: str
    max_tokens: Whole | None = Field(None, ge=0)
    temperature: Number | None = Field(None, ge=0, le=2)
    top_p: Number | None = Field(None, ge=0, le=1)
    top_k: Whole | None = Field(None, ge=-1)
    min_p: Number | None = Field(None, ge=0, le=1)
    repetition_penalty: Number | None = Field(None, gt=0)
    presence_penalty: Number | None = Field(None, ge=-2, le=2)
    frequency_penalty: Number | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, Number] | None = None
    stop: str | list[str] | None = None
    seed: Whole | None = None
    n: Whole | None = Field(None, ge=1, le=MOST_CHOICES)
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None

    @property
    def choices(self) -> int:
        """How many replies."""
        return self.n or 1

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with what was used."""
        return bool((self.stream_options or {}).get("include_usage"))

    def sampling(self, alternatives: int) -> Sampling:
        """How a reply is drawn.

        Raises:
            UserError, ApiError: naming the field that cannot be.
        """
        stops = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return Sampling(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_k=self.top_k if self.top_k and self.top_k > 0 else None,
            top_p=None if self.top_p is None or self.top_p == 1 else max(self.top_p, 1e-9),
            min_p=self.min_p or None,
            repetition_penalty=1.0 if self.repetition_penalty is None else self.repetition_penalty,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            logit_bias=_biases(self.logit_bias or {}),
            alternatives=alternatives,
            stop=tuple(stop for stop in stops if stop),
            seed=self.seed,
        )


def _biases(given: Mapping[str, float]) -> dict[int, float]:
    found: dict[int, float] = {}
    for token, bias in given.items():
        if not (token.isascii() and token.isdecimal() and len(token) < 10):
            raise invalid("logit_bias", f"{token[:40]!r} is no token id")
        if not -100 <= bias <= 100:
            raise invalid(f"logit_bias.{token}", f"{bias} is not between -100 and 100")
        found[int(token)] = bias
    return found


class ChatBody(Body):
    """`POST /v1/chat/completions`."""

    messages: list[Any]
    max_completion_tokens: Whole | None = Field(None, ge=0)
    logprobs: bool | None = None
    top_logprobs: Whole | None = Field(None, ge=0, le=MOST_ALTERNATIVES)
    tools: list[Any] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class CompletionBody(Body):
    """`POST /v1/completions`."""

    prompt: str | list[Any]
    echo: bool | None = None
    logprobs: Whole | None = Field(None, ge=0, le=MOST_ALTERNATIVES)
    best_of: Whole | None = Field(None, ge=1)
    add_special_tokens: bool = True


def parsed(model: type[Model], body: dict[str, Any]) -> Model:
    """The body as `model`.

    Raises:
        ApiError: naming the first field that is not as it should be.
    """
    try:
        return model.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        path = ""
        for part in first["loc"]:
            if isinstance(part, int):
                path += f"[{part}]"
            elif part not in ("str", "list[any]", "list[str]"):  # which of the types it might have been
                path += f".{part}" if path else part
        raise invalid(path or "body", first["msg"]) from error


def invalid(path: str, told: str) -> ApiError:
    """The error of one field."""
    return ApiError("invalid_request_error", f"{path}: {told}")


def refuse_given(body: Mapping[str, Any], fields: Mapping[str, str]) -> None:
    """Refuse what this server cannot do and must not pass over.

    Args:
        fields: name -> what to say.

    Raises:
        ApiError: for the first that is given and neither null, empty nor false.
    """
    for name, told in fields.items():
        if body.get(name):
            raise invalid(name, told)
