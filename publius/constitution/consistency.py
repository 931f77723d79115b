"""The judge of one reply: does it keep to a principle, yes or no, read from log-probabilities.

The pairwise judge (`judge`) says which of two replies is better; this one says how well one reply stands by
itself, which is what a reward needs. As there, the probabilities of two fixed answers are read, never text,
and a model that puts almost no mass on either gives a `ParseFailure`, never a silent 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from pydantic import Field

from publius.constitution.judge import ParseFailure
from publius.constitution.principles import Constitution, ConstitutionField, Principle
from publius.constitution.styles import RawStyle, StyleName, fill
from publius.core.config import Config
from publius.core.errors import UserError
from publius.core.messages import Conversation, assistant, user
from publius.inference.engine import Engine
from publius.tokenizer.renderer import Renderer
from publius.tokenizer.tokenizer import Tokenizer

__all__ = ["Case", "Consistency", "ConsistencyConfig", "ConsistencyJudge", "EngineConsistencyJudge"]

_QUESTION = (
    "Consider the following conversation between a human and an assistant:\n{conversation}\n"
    "Principle: {principle}\n"
    "Does the assistant's last answer keep to this principle?\nThe answer is:"
)


class ConsistencyConfig(Config):
    """How the question is asked.

    Attributes:
        question: with the slots {conversation} (the reply is its last turn) and {principle}. Its last line is
            the cue; in the style "chat" it begins the assistant's turn.
        answers: what "yes" and "no" are in the model's words; their first differing tokens are read.
        shots: most examples shown. They come from the constitution's comparisons: the better answer of each
            is a yes, the worse a no. The first ones give way when the prompt would not fit.
        min_mass: a reading needs at least this much probability on the two answers together.
    """

    constitution: ConstitutionField = Field(default="default", validate_default=True)  # pyright: ignore[reportAssignmentType]
    style: StyleName = "raw"
    question: str = _QUESTION
    answers: tuple[str, str] = (" yes", " no")
    shots: int = Field(default=8, ge=0)
    min_mass: float = Field(default=0.01, ge=0, le=1)


class Case(NamedTuple):
    """A reply to a conversation, and the principle it is held against."""

    conversation: Conversation
    reply: str
    principle: Principle


class Consistency(NamedTuple):
    """One reading.

    Attributes:
        logit: log p(yes) - log p(no).
        mass: p(yes) + p(no).
    """

    logit: float
    mass: float
    principle_id: str

    @property
    def probability(self) -> float:
        """p(yes) of the two."""
        return 1 / (1 + math.exp(-self.logit)) if self.logit >= 0 else 1 - 1 / (1 + math.exp(self.logit))


class ConsistencyJudge(Protocol):
    """Whatever can say how well replies keep to principles: a model here, one elsewhere, several."""

    def consistent(self, cases: Sequence[Case]) -> list[Consistency | ParseFailure]:
        """One reading per case, in order."""
        ...


class EngineConsistencyJudge:
    """Asks `engine`'s model.

    Raises:
        UserError: when the question lacks a slot, or the two answers cannot be told apart.
    """

    def __init__(self, engine: Engine, tokenizer: Tokenizer, config: ConsistencyConfig) -> None:
        missing = [slot for slot in ("conversation", "principle") if f"{{{slot}}}" not in config.question]
        if missing:
            raise UserError(
                f"the question has no slot {{{missing[0]}}}", where="ConsistencyConfig.question", fix="add it"
            )
        self._engine, self._tokenizer, self._config = engine, tokenizer, config
        self._yes, self._no = _told_apart(*(tokenizer.encode(text) for text in config.answers))
        self._context = engine.model.config.max_position - max(len(self._yes), len(self._no))
        self._raw = RawStyle(config.constitution, tokenizer, self._context, config.shots)
        self._renderer = Renderer(tokenizer)
        self._examples = _examples(config.constitution)[: config.shots]

    def consistent(self, cases: Sequence[Case]) -> list[Consistency | ParseFailure]:
        """One reading per case, in order, one forward for each."""
        prompts = [self._prompt(case) for case in cases]
        fits = [i for i, prompt in enumerate(prompts) if len(prompt) <= self._context]
        scores = self._engine.score(
            [prompts[i] for i in fits for _ in (0, 1)], [ids for _ in fits for ids in (self._yes, self._no)]
        )
        too_long = "the prompt does not fit the judge's context"
        found: list[Consistency | ParseFailure] = [ParseFailure(too_long, c.principle.id) for c in cases]
        for k, i in enumerate(fits):
            found[i] = self._reading(sum(scores[2 * k]), sum(scores[2 * k + 1]), cases[i].principle.id)
        return found

    def _reading(self, yes: float, no: float, principle_id: str) -> Consistency | ParseFailure:
        mass = math.exp(yes) + math.exp(no)
        if not math.isfinite(yes - no):
            return ParseFailure("the judge's log-probabilities are not finite", principle_id)
        if mass < self._config.min_mass:
            return ParseFailure("too little probability on either answer", principle_id, mass)
        return Consistency(yes - no, mass, principle_id)

    def _prompt(self, case: Case) -> list[int]:
        asked = self._ask(case)
        answers = self._config.answers
        shots: list[tuple[str, str]] = []
        for example in self._examples:
            shown = Case(example.conversation, example.reply, example.principle or case.principle)
            shots.append((self._ask(shown), answers[0 if example.good else 1]))
        while True:
            ids = self._render(shots, asked)
            if len(ids) <= self._context or not shots:
                return ids
            shots = shots[1:]

    def _ask(self, case: Case) -> str:
        said = self._raw.transcript(case.conversation, case.reply.strip()).strip()
        return fill(self._config.question, conversation=said, principle=case.principle.text)

    def _render(self, shots: Sequence[tuple[str, str]], asked: str) -> list[int]:
        if self._config.style == "raw":
            separator = self._config.constitution.layout.separator
            text = "".join(f"{question}{answer}{separator}" for question, answer in shots) + asked
            return [self._tokenizer.bos_id, *self._tokenizer.encode(text)]
        # the cue, what stands after the question's last line break, begins the assistant's turn
        turns = [_at_cue(question, answer) for question, answer in [*shots, (asked, "")]]
        messages = [message for ask, reply in turns for message in (user(ask), assistant(reply))]
        return self._renderer.prompt(Conversation(messages=tuple(messages)))


class _Example(NamedTuple):
    conversation: Conversation
    reply: str
    good: bool
    principle: Principle | None


def _examples(constitution: Constitution) -> list[_Example]:
    """Both answers of each comparison, which comes first in turns, so that neither answer is always last."""
    asked = {principle.comparison_question: principle for principle in constitution.principles}
    found: list[_Example] = []
    for i, shot in enumerate(constitution.comparisons):
        turns = tuple((user, assistant)[k % 2](text) for k, text in enumerate(shot.conversation))
        pair = [
            _Example(Conversation(messages=turns), text, shot.answer == name, asked.get(shot.question or ""))
            for name, text in (("A", shot.a), ("B", shot.b))
        ]
        found += pair if i % 4 in (0, 3) else pair[::-1]
    return found


def _at_cue(question: str, answer: str) -> tuple[str, str]:
    body, _, cue = question.rpartition("\n")
    return body, cue + answer


def _told_apart(yes: list[int], no: list[int]) -> tuple[list[int], list[int]]:
    """Both answers up to and including the first token that tells them apart."""
    for i, (a, b) in enumerate(zip(yes, no, strict=False)):
        if a != b:
            return yes[: i + 1], no[: i + 1]
    raise UserError(
        "the two answers are the same, or one begins the other",
        where="ConsistencyConfig.answers",
        fix="use answers such as ` yes` and ` no`",
    )
