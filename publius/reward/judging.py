"""What a judge's words are worth: the rules that the parts `judge` and `comparison` share.

Each prompt has its own draw of principles, the same for all replies to it and at every step, so that replies
are compared by one measure and a run can be resumed.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from publius.constitution.consistency import Unread
from publius.constitution.judges import Abstention
from publius.constitution.principles import Constitution, ConstitutionField, Principle, Use
from publius.constitution.raw_text import visible
from publius.core.config import Config
from publius.core.errors import UserError
from publius.core.messages import Conversation
from publius.reward.guard import RewardError
from publius.reward.reward_fn import Reward

__all__ = ["JudgingRules", "average", "draw_principles"]

Form = Literal["probability", "logit"]
OnFailure = Literal["error", "skip", "penalty"]


class JudgingRules(Config):
    """How readings become a reward.

    Attributes:
        principles: how many are drawn for a prompt, by weight, none twice; their readings are averaged. Of
            those that can be asked: a comparison takes principles that have a question to compare by.
        form: "probability", from 0 to 1: the weight says what the judge can give or take, and a judge sure of
            itself cannot outvote the other parts. "logit", log p - log (1 - p), has no bounds: it tells
            replies apart whose probabilities are all near 1, on the scale of a preference model.
        on_failure: when the judge cannot be read under a principle, declines or cannot be reached: "error"
            ends the stage, "skip" averages the other principles and leaves the reply out when there is none,
            "penalty" counts as `penalty`.
        penalty: on the scale of `form`.
    """

    weight: float = 1.0
    constitution: ConstitutionField = Field(default="default", validate_default=True)  # pyright: ignore[reportAssignmentType]
    principles: int = Field(default=1, ge=1)
    form: Form = "probability"
    on_failure: OnFailure = "error"
    penalty: float | None = None
    seed: int = 0
    asks: ClassVar[Use | None] = None
    """What a principle must have been written for; None takes any."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.penalty is None) != (self.on_failure != "penalty"):
            raise ValueError(f"penalty is {self.penalty}, with on_failure {self.on_failure!r}: give both")
        known = len(_serving(self.constitution, self.asks))
        if self.principles > known:
            of = f" for a {self.asks}" if self.asks else ""
            raise ValueError(f"principles is {self.principles}, and the constitution has {known}{of}")
        return self


def average(
    rules: JudgingRules, name: str, prompt: int, values: Sequence[float], failures: Sequence[Unread]
) -> Reward:
    """The mean of what was read, and of what failures cost; `<name>.failed` is their share.

    Raises:
        RewardError: for a failure, with `on_failure="error"`.
    """
    if failures and rules.on_failure == "error":
        raise RewardError(
            f"the judge of a reply to prompt {prompt} cannot be read: {_why(failures[0])}",
            where=f"part {name}, principle {failures[0].principle_id}",
            fix="use a judge that knows the form, lower min_mass, or set on_failure to skip or penalty",
        )
    details = {f"{name}.failed": len(failures) / (len(values) + len(failures))}
    counted = list(values)
    if rules.penalty is not None:
        counted += [rules.penalty] * len(failures)
    if not counted:
        return Reward(math.nan, {name: math.nan, **details}, _why(failures[0]))
    value = sum(counted) / len(counted)
    return Reward(value, {name: value, **details})


def _why(unread: Unread) -> str:
    return f"it declined: {unread.reason}" if isinstance(unread, Abstention) else unread.problem


def _serving(constitution: Constitution, use: Use | None) -> list[Principle]:
    return [p for p in constitution.principles if use is None or p.serves(use)]


def draw_principles(
    constitution: Constitution, prompt: Conversation, count: int, seed: int, use: Use | None = None
) -> list[Principle]:
    """`count` different principles for a prompt: a function of its text and `seed`, of nothing else.

    Args:
        use: only principles that serve it: one that only revises has no question to compare by.

    Raises:
        UserError: when there are not so many.
    """
    left = _serving(constitution, use)
    if count > len(left):
        raise UserError(
            f"{count} principles of {len(left)}",
            where="draw_principles",
            fix="draw fewer",
        )
    said = "\x00".join([prompt.system or "", *(visible(m) for m in prompt.messages)])
    rng = random.Random(hashlib.sha256(f"{seed}\x00{said}".encode("utf-8", "surrogatepass")).digest())
    drawn: list[Principle] = []
    for _ in range(count):
        drawn.append(rng.choices(left, [p.weight for p in left])[0])
        left.remove(drawn[-1])
    return drawn
