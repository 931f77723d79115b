"""The constitution: principles, few-shot examples and layout, written as YAML by people.

Every string a model sees comes from the file, so that someone who does not program can change the
principles, the examples and the way they are laid out. `Constitution.load` reads it strictly,
`lint.doubts` finds the mistakes a schema cannot see.
"""

from __future__ import annotations

import functools
import hashlib
import json
import random
from collections import Counter
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

import yaml
from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from publius.constitution.filters import REFUSALS
from publius.core.config import Config, canonical
from publius.core.errors import UserError
from publius.core.yaml_text import BadYaml, YamlLoader, parse_yaml, read_text

__all__ = [
    "ComparisonShot",
    "Constitution",
    "ConstitutionField",
    "CritiqueShot",
    "Layout",
    "Principle",
    "ReasoningShot",
    "Use",
]

Use = Literal["critique", "revision", "comparison"]
"""What a principle is drawn for: to criticise and revise, to revise directly, or to compare."""

_COMPARISON = (
    "Consider the following conversation between a human and an assistant:\n{conversation}\n{question}\n"
    "Options:\n(A) {a}\n(B) {b}\n"
)


class Layout(Config):
    """How text is laid out for a base (raw) model. Slots stand in braces and are filled once."""

    system: str = "\n\nSystem: {system}"
    human: str = "\n\nHuman: {q}"
    assistant: str = "\n\nAssistant: {a}"
    critique: str = "\n\nCritiqueRequest: {critique_request}\n\nCritique:"
    revision: str = "\n\nRevisionRequest: {revision_request}\n\nRevision:"
    comparison: str = _COMPARISON + "The answer is:"
    reasoning: str = _COMPARISON + "Let's think step by step:"
    conclusion: str = "\n\nSo the answer is:"
    separator: str = "\n\n"
    """Stands between comparison examples. Critique examples need none: each turn begins with its own."""
    stops: tuple[str, ...] = ("\n\nHuman:", "\n\n")
    """A critique, a revision or a chain of reasoning ends at any of these."""
    reasoning_human: str = "\n\nHuman: {q}"
    """The turns of the conversation inside `reasoning`; published examples say `H:` and `A:` there."""
    reasoning_assistant: str = "\n\nAssistant: {a}"
    chat: Literal["transcript", "turns"] = "transcript"
    """For a chat model, what is criticised stands as one transcript in the user's turn, or as real turns."""


def _none_is_empty(value: Any) -> Any:
    return "" if value is None else value


Request = Annotated[str, BeforeValidator(_none_is_empty)]
"""Required, so that none is forgotten; an explicit `null` (kept as "") says there is no such request."""


class Principle(Config):
    """One principle, its origin, and the three requests that apply it.

    A principle that only revises has no `comparison_question`, one that only judges no other request.
    """

    id: str = Field(min_length=1)
    text: str = Field(min_length=1)
    source: str
    category: str
    weight: float = Field(default=1.0, gt=0)
    critique_request: Request
    revision_request: Request
    comparison_question: Request

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if not self.revision_request and not self.comparison_question:
            raise ValueError("a principle needs a revision_request or a comparison_question")
        if self.critique_request and not self.revision_request:
            raise ValueError("a critique_request needs a revision_request to follow it")
        return self

    def serves(self, use: Use) -> bool:
        """Has it the requests that `use` takes?"""
        if use == "critique":
            return bool(self.critique_request and self.revision_request)
        return bool(self.revision_request if use == "revision" else self.comparison_question)


def _turns(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Turns = Annotated[tuple[str, ...], BeforeValidator(_turns), Field(min_length=1)]
"""A conversation as texts that alternate human, assistant, ..., human; one text is one human turn."""


class _Shot(Config):
    conversation: Turns
    verbatim: str | None = None
    """The whole example as a raw prompt shows it, where `layout` cannot give it letter by letter."""

    @field_validator("conversation")
    @classmethod
    def _ends_with_the_human(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(value) % 2 == 0:
            raise ValueError("a conversation alternates human and assistant and must end with the human")
        return value


class CritiqueShot(_Shot):
    """A worked critique and revision. Where nothing is wrong, `revision` repeats `response`."""

    response: str
    critique_request: str
    critique: str
    revision_request: str
    revision: str

    @property
    def unchanged(self) -> bool:
        """True for an example that shows "nothing to fix"."""
        return self.revision.strip() == self.response.strip()


class ComparisonShot(_Shot):
    """A worked comparison. Without `question` the question being asked stands in its place."""

    a: str
    b: str
    answer: Literal["A", "B"]
    question: str | None = None


class ReasoningShot(ComparisonShot):
    """A worked comparison with its reasoning; `{principle}` in `reasoning` is the question asked."""

    reasoning: str


class Constitution(Config):
    """Versioned, hashed text that says what good answers are.

    Attributes:
        answers: the two texts whose log-probabilities the judge reads after "The answer is:".
        clamp: chain-of-thought labels are clamped into this interval (Bai et al. 2022, section 4.1).
        temperature: critiques, revisions and chains of thought are sampled at this temperature.
        refusals: phrases that, at its beginning, mark a critique as a refusal to criticise (`filters.py`).
    """

    id: str = Field(min_length=1)
    version: str = Field(min_length=1, coerce_numbers_to_str=True)
    title: str
    categories: dict[str, str]
    layout: Layout = Layout()
    answers: tuple[str, str] = (" (A)", " (B)")
    clamp: tuple[float, float] = (0.4, 0.6)
    temperature: float = Field(default=1.0, ge=0)
    refusals: tuple[str, ...] = REFUSALS
    principles: tuple[Principle, ...] = Field(min_length=1)
    critiques: tuple[CritiqueShot, ...] = ()
    comparisons: tuple[ComparisonShot, ...] = ()
    reasonings: tuple[ReasoningShot, ...] = ()

    @field_validator("principles")
    @classmethod
    def _ids_are_unique(cls, value: tuple[Principle, ...]) -> tuple[Principle, ...]:
        twice = [name for name, count in Counter(p.id for p in value).items() if count > 1]
        if twice:
            raise ValueError(f"duplicate principle id {', '.join(map(repr, twice))}")
        return value

    @field_validator("clamp")
    @classmethod
    def _clamp_is_an_interval(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= value[0] < value[1] <= 1:
            raise ValueError("clamp must be two probabilities, the lower first")
        return value

    @classmethod
    def load(cls, source: str | Path = "default") -> Constitution:
        """Read a YAML file, or the bundled one by the name `default`.

        Raises:
            UserError: missing or unreadable file, bad YAML (line), or a bad field (its path).
        """
        if str(source) == "default":
            return _default()
        return cls.parse(_read(Path(source)), str(source))

    @classmethod
    def parse(cls, text: str, where: str = "constitution") -> Constitution:
        """A constitution from YAML text; errors as in `load`."""
        try:
            data = parse_yaml(text, _Loader)
        except BadYaml as error:
            line = where if error.line is None else f"{where}, line {error.line}"
            fix = "mend the file" if error.line is None else "mend that line"
            raise UserError(f"this is not valid YAML: {error.problem}", where=line, fix=fix) from error
        if not isinstance(data, dict):
            raise UserError(
                "a constitution is a YAML mapping", where=where, fix="begin with `id: my-constitution`"
            )
        _refuse_empty_requests(data, where)
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise _explain(error, where) from error

    @property
    def hash(self) -> str:
        """SHA-256 over the canonical content: any change of any text changes it."""
        return hashlib.sha256(json.dumps(canonical(self), sort_keys=True).encode()).hexdigest()

    def principle(self, name: str) -> Principle:
        """The principle with this id, or a UserError naming those there are."""
        for principle in self.principles:
            if principle.id == name:
                return principle
        known = ", ".join(p.id for p in self.principles)
        raise UserError(f"no principle {name!r} in constitution {self.id}", fix=f"one of: {known}")

    def to_yaml(self, comment: str = "") -> str:
        """A file to edit, `comment` on top; `parse` gives the same constitution back.

        Fields that hold their defaults are left out, but for the three requests of a principle.
        """
        data = self.model_dump(mode="json", exclude_defaults=True)
        for principle in data["principles"]:
            for request in ("critique_request", "revision_request", "comparison_question"):
                principle[request] = principle[request] or None
        for shots in ("critiques", "comparisons", "reasonings"):
            for shot in data.get(shots, ()):
                if len(shot["conversation"]) == 1:
                    (shot["conversation"],) = shot["conversation"]
        head = "".join(f"# {line}".rstrip() + "\n" for line in comment.splitlines())
        return head + yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)

    def sample(self, rng: random.Random, use: Use = "comparison") -> Principle:
        """One principle that serves `use`, drawn by weight (Bai et al. 2022 draw uniformly: weight 1).

        Raises:
            UserError: when none has the requests for it.
        """
        serving = [p for p in self.principles if p.serves(use)]
        if not serving:
            raise UserError(
                f"no principle can be used for {use}",
                where=f"constitution {self.id}",
                fix=f"write a {_ASKED_BY[use]} for at least one principle",
            )
        return rng.choices(serving, [p.weight for p in serving])[0]


_ASKED_BY: dict[Use, str] = {
    "critique": "critique_request and a revision_request",
    "revision": "revision_request",
    "comparison": "comparison_question",
}


class _Dumper(yaml.SafeDumper):
    """Long texts of several lines as blocks, short ones in one line, so that a person can edit them."""


def _represent_text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    odd = any(c in value for c in "\r\x85\u2028\u2029")  # YAML would take these for plain ends of lines
    style = '"' if odd or ("\n" in value and len(value) < 60) else "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _represent_text)


class _Loader(YamlLoader):
    """Refuses a key written twice, of which YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                problem = f"the key {key.value!r} stands twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.update([key.value] if isinstance(key, yaml.ScalarNode) else ())
        return super().construct_mapping(node, deep)


@functools.cache
def _default() -> Constitution:
    text = resources.files("publius.constitution").joinpath("default.yaml").read_text("utf-8")
    return Constitution.parse(text, "default.yaml")


def _read(path: Path) -> str:
    try:
        return read_text(path)
    except BadYaml as error:
        raise UserError(
            f"the constitution cannot be used: {error}",
            where=str(path),
            fix="give a text file in UTF-8 of a common size",
        ) from error
    except OSError as error:
        fix = "give the path of a constitution YAML file, or `default`"
        raise UserError(
            f"cannot read the constitution: {error.strerror}", where=str(path), fix=fix
        ) from error


def _refuse_empty_requests(data: dict[str, Any], where: str) -> None:
    """In a file, an empty request is a slip; `null` says that there is none."""
    principles = data.get("principles")
    for index, item in enumerate(cast("list[Any]", principles) if isinstance(principles, list) else []):
        principle = cast("dict[str, Any]", item) if isinstance(item, dict) else {}
        for name in ("critique_request", "revision_request", "comparison_question"):
            value = principle.get(name)
            if isinstance(value, str) and not value.strip():
                place = f"principles[{index}].{name}"
                fix = "write it, or `null` where the principle has none"
                raise UserError(f"the field `{place}` is empty", where=f"{where}: {place}", fix=fix)


def _explain(error: ValidationError, where: str) -> UserError:
    first = error.errors()[0]
    path = ""
    for part in first["loc"]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    if first["type"] == "missing":
        return UserError(f"the field `{path}` is missing", where=f"{where}: {path}", fix="add it")
    if first["type"] == "extra_forbidden":
        return UserError(
            f"unknown field `{path}`", where=f"{where}: {path}", fix="remove it or mend its spelling"
        )
    return UserError(
        f"bad value: {first['msg']}",
        where=f"{where}: {path or '(top)'}",
        fix="mend it; see docs on the format",
    )


def _load_if_named(value: Any) -> Any:
    return Constitution.load(value) if isinstance(value, (str, Path)) else value


ConstitutionField = Annotated[Constitution, BeforeValidator(_load_if_named)]
"""For stage configs: give a path or `default`; the *content* becomes part of the stage's identity."""
