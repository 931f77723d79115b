"""What a judge of one reply is asked, and what it says.

The pairwise judges (`judges`) say which of two replies is better; these say how well one reply stands by
itself, which is what a reward needs. As there, the probabilities of two fixed answers are read, and what
gives no reading is data, never a silent 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from pydantic import Field, field_validator

from publius.constitution.judges import Abstention, ParseFailure, RemoteJudgeConfig, Skipped
from publius.constitution.judges.judgement import sigmoid
from publius.constitution.principles import Constitution, ConstitutionField, Principle
from publius.constitution.raw_text import fill, transcript
from publius.constitution.styles import StyleName
from publius.core.config import Config
from publius.core.messages import Conversation, assistant, user

__all__ = ["Consistency", "ConsistencyConfig", "ConsistencyJudge", "ReplyCase", "Unread", "ask", "examples"]

_QUESTION = (
    "Consider the following conversation between a human and an assistant:\n{conversation}\n"
    "Principle: {principle}\n"
    "Does the assistant's last answer keep to this principle?\nThe answer is:"
)


class ConsistencyConfig(Config):
    """How the question is asked, and of whom beside the checkpoint a stage is given.

    Attributes:
        question: with the slots {conversation} (the reply is its last turn) and {principle}. Its last line is
            the cue; in the style "chat" it begins the assistant's turn, and a remote model is not shown it.
        answers: what "yes" and "no" are in the model's words.
        shots: most examples shown. They come from the constitution's comparisons: the better answer of each
            is a yes, the worse a no. The first ones give way when the prompt would not fit.
        min_mass: a reading needs at least this much probability on the two answers together.
        remote: remote models that judge, too. Several judges are joined by the mean of their logits.
        samples: answers of a remote judge without log-probabilities.
    """

    constitution: ConstitutionField = Field(default="default", validate_default=True)  # pyright: ignore[reportAssignmentType]
    style: StyleName = "raw"
    question: str = _QUESTION
    answers: tuple[str, str] = (" yes", " no")
    shots: int = Field(default=8, ge=0)
    min_mass: float = Field(default=0.01, ge=0, le=1)
    remote: tuple[RemoteJudgeConfig, ...] = ()
    samples: int = Field(default=1, ge=1)

    @field_validator("question")
    @classmethod
    def _has_its_slots(cls, value: str) -> str:
        missing = [slot for slot in ("{conversation}", "{principle}") if slot not in value]
        if missing:
            raise ValueError(f"the question has no slot {missing[0]}")
        return value


class ReplyCase(NamedTuple):
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
        return sigmoid(self.logit)


Unread = ParseFailure | Abstention | Skipped
"""Nothing could be read, the judge declined, or it could not be reached."""


class ConsistencyJudge(Protocol):
    """Whatever can say how well replies keep to principles: a model here, one elsewhere, several."""

    def consistent(self, cases: Sequence[ReplyCase]) -> list[Consistency | Unread]:
        """One reading per case, in order."""
        ...


class Example(NamedTuple):
    """A worked case: without a principle of its own it is shown with the one that is asked about."""

    conversation: Conversation
    reply: str
    good: bool
    principle: Principle | None

    def case(self, asked: ReplyCase) -> ReplyCase:
        """As a case."""
        return ReplyCase(self.conversation, self.reply, self.principle or asked.principle)


def examples(constitution: Constitution) -> list[Example]:
    """Both answers of each comparison; the better one first and the worse one first in turns."""
    # one that only revises has no question, and is nobody's
    asked = {p.comparison_question: p for p in constitution.principles if p.serves("comparison")}
    found: list[Example] = []
    for i, shot in enumerate(constitution.comparisons):
        turns = tuple((user, assistant)[k % 2](text) for k, text in enumerate(shot.conversation))
        pair = [
            Example(Conversation(messages=turns), text, shot.answer == name, asked.get(shot.question or ""))
            for name, text in (("A", shot.a), ("B", shot.b))
        ]
        found += sorted(pair, key=lambda example: example.good, reverse=i % 2 == 0)
    return found


def ask(config: ConsistencyConfig, case: ReplyCase) -> str:
    """The question about one case, up to where the answer follows."""
    reply = assistant(case.reply.strip())
    said = transcript(config.constitution.layout, case.conversation.then(reply)).strip()
    return fill(config.question, conversation=said, principle=case.principle.text)
