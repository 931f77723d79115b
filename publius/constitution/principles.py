"""The constitution: principles, few-shot examples and layout, written as YAML by people.

Every string a model sees comes from the file, so that someone who does not program can change the
principles, the examples and the way they are laid out. `Constitution.load` reads it strictly,
`Constitution.check` lints it for the mistakes a schema cannot see.
"""

from __future__ import annotations

import functools
import hashlib
import json
import random
from collections import Counter
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, ValidationError, field_validator

from publius.core.config import Config, canonical
from publius.core.errors import UserError

__all__ = [
    "ComparisonShot",
    "Constitution",
    "ConstitutionField",
    "CritiqueShot",
    "Layout",
    "Principle",
    "ReasoningShot",
]

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


class Principle(Config):
    """One principle, its origin, and the three requests that apply it."""

    id: str = Field(min_length=1)
    text: str = Field(min_length=1)
    source: str
    category: str
    weight: float = Field(default=1.0, gt=0)
    critique_request: str = Field(min_length=1)
    revision_request: str = Field(min_length=1)
    comparison_question: str = Field(min_length=1)


def _turns(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Turns = Annotated[tuple[str, ...], BeforeValidator(_turns), Field(min_length=1)]
"""A conversation as texts that alternate human, assistant, ..., human; one text is one human turn."""


class _Shot(Config):
    conversation: Turns

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
    """

    id: str = Field(min_length=1)
    version: str = Field(min_length=1, coerce_numbers_to_str=True)
    title: str
    categories: dict[str, str]
    layout: Layout = Layout()
    answers: tuple[str, str] = (" (A)", " (B)")
    clamp: tuple[float, float] = (0.4, 0.6)
    temperature: float = Field(default=1.0, ge=0)
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
            data = yaml.safe_load(text)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = f"{where}, line {mark.line + 1}" if mark else where
            problem = getattr(error, "problem", None) or str(error)
            raise UserError(f"this is not valid YAML: {problem}", where=line, fix="mend that line") from error
        if not isinstance(data, dict):
            raise UserError(
                "a constitution is a YAML mapping", where=where, fix="begin with `id: my-constitution`"
            )
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

    def sample(self, rng: random.Random) -> Principle:
        """One principle, drawn by weight (Bai et al. 2022 draw uniformly, which is weight 1 throughout)."""
        return rng.choices(self.principles, [p.weight for p in self.principles])[0]

    def check(self) -> list[str]:
        """Problems a person should look at; an empty list means none were found."""
        return [*_check_principles(self), *_check_layout(self), *_check_shots(self)]


@functools.cache
def _default() -> Constitution:
    text = resources.files("publius.constitution").joinpath("default.yaml").read_text("utf-8")
    return Constitution.parse(text, "default.yaml")


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            "the constitution is not UTF-8 text", where=str(path), fix="save it as UTF-8"
        ) from error
    except OSError as error:
        fix = "give the path of a constitution YAML file, or `default`"
        raise UserError(
            f"cannot read the constitution: {error.strerror}", where=str(path), fix=fix
        ) from error


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


def _check_principles(c: Constitution) -> list[str]:
    found: list[str] = []
    for index, p in enumerate(c.principles):
        where = f"principles[{index}] ({p.id})"
        if p.category not in c.categories:
            found.append(f"{where}: category {p.category!r} is not listed in `categories`")
        if not p.source.strip():
            found.append(f"{where}: source is empty; say where the principle comes from")
        found += [
            f"{where}: {name} repeats another principle's"
            for name in ("text", "critique_request", "revision_request", "comparison_question")
            if any(getattr(p, name) == getattr(other, name) for other in c.principles[:index])
        ]
        found += [
            f"{where}: {name} contains the cue {cue!r}, which the layout adds by itself"
            for name, cue in (("critique_request", "Critique:"), ("revision_request", "Revision:"))
            if cue in getattr(p, name)
        ]
    used = {p.category for p in c.principles}
    return found + [f"categories: {name!r} has no principle" for name in c.categories if name not in used]


_SLOTS = {
    "system": ("system",),
    "human": ("q",),
    "assistant": ("a",),
    "critique": ("critique_request",),
    "revision": ("revision_request",),
    "comparison": ("conversation", "question", "a", "b"),
    "reasoning": ("conversation", "question", "a", "b"),
}


def _check_layout(c: Constitution) -> list[str]:
    found = [
        f"layout.{name}: the slot {{{slot}}} is missing"
        for name, slots in _SLOTS.items()
        for slot in slots
        if f"{{{slot}}}" not in getattr(c.layout, name)
    ]
    if c.answers[0] == c.answers[1]:
        found.append("answers: the two answers are the same")
    found += [
        f"layout.{name}: ends with white space, which splits the first word of the answer badly"
        for name in ("critique", "revision", "comparison", "reasoning", "conclusion")
        if getattr(c.layout, name) != getattr(c.layout, name).rstrip()
    ]
    return found


def _check_shots(c: Constitution) -> list[str]:
    found: list[str] = []
    if c.critiques and not any(shot.unchanged for shot in c.critiques):
        found.append(
            "critiques: no example shows `nothing to fix`; without one a critic finds fault with everything"
        )
    if c.critiques and all(shot.unchanged for shot in c.critiques):
        found.append("critiques: no example changes the response")
    for name in ("comparisons", "reasonings"):
        shots = getattr(c, name)
        answers = Counter(shot.answer for shot in shots)
        if len(shots) > 1 and abs(answers["A"] - answers["B"]) > 1:
            found.append(
                f"{name}: {answers['A']} examples answer A and {answers['B']} answer B; balance them"
            )
        found += [f"{name}[{i}]: both options are the same" for i, s in enumerate(shots) if s.a == s.b]
    for i, shot in enumerate(c.critiques):
        texts = (shot.response, shot.critique, shot.revision)
        found += [
            f"critiques[{i}]: a text contains {stop!r}, where the critic stops"
            for stop in c.layout.stops
            if any(stop in text.strip() for text in texts)
        ]
    return found


def _load_if_named(value: Any) -> Any:
    return Constitution.load(value) if isinstance(value, (str, Path)) else value


ConstitutionField = Annotated[Constitution, BeforeValidator(_load_if_named)]
"""For stage configs: give a path or `default`; the *content* becomes part of the stage's identity."""
