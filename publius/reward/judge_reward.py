"""A judge as reward: does the reply keep to the constitution, asked by sampled principles.

Direct scoring, without a preference model between (Lee et al. 2023, RLAIF, arXiv 2309.00267, section 3.2.2):
any `ConsistencyJudge` will do. Each prompt has its own draw of principles, the same for all replies to it and
at every step, so that replies are compared by one measure and a run can be resumed.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from publius.constitution.consistency import (
    Consistency,
    ConsistencyConfig,
    ConsistencyJudge,
    ReplyCase,
    Unread,
)
from publius.constitution.judges import Abstention
from publius.constitution.principles import Constitution, Principle
from publius.constitution.raw_text import visible
from publius.core.errors import UserError
from publius.core.messages import Conversation
from publius.reward.guard import RewardError
from publius.reward.reward_fn import Reward, Trajectory

__all__ = ["JudgePart", "JudgeReward", "draw_principles"]

Form = Literal["probability", "logit"]
OnFailure = Literal["error", "skip", "penalty"]


class JudgePart(ConsistencyConfig):
    """The part `judge` of a reward.

    Attributes:
        principles: how many are drawn for a prompt, by weight, none twice; their readings are averaged.
        form: "probability" of yes, from 0 to 1: the weight says what the judge can give or take, and a judge
            sure of itself cannot outvote the other parts. "logit", log p(yes) - log p(no), has no bounds: it
            tells replies apart whose probabilities are all near 1, on the scale of a preference model.
        on_failure: when the judge cannot be read under a principle, declines or cannot be reached: "error"
            ends the stage, "skip" averages the other principles and leaves the reply out when there is none,
            "penalty" counts as `penalty`.
        penalty: on the scale of `form`.
    """

    kind: Literal["judge"] = "judge"
    name: str = "judge"
    weight: float = 1.0
    principles: int = Field(default=1, ge=1)
    form: Form = "probability"
    on_failure: OnFailure = "error"
    penalty: float | None = None
    seed: int = 0

    @model_validator(mode="after")
    def _fits(self) -> JudgePart:
        if (self.penalty is None) != (self.on_failure != "penalty"):
            raise ValueError(f"penalty is {self.penalty}, with on_failure {self.on_failure!r}: give both")
        known = len(self.constitution.principles)
        if self.principles > known:
            raise ValueError(f"principles is {self.principles}, and the constitution has {known}")
        return self


class JudgeReward:
    """What `judge` says of each last reply, averaged over the principles drawn for its prompt.

    Thinking is not shown to the judge, nor are tool calls. `judge.failed` is the share of principles under
    which it could not be read.

    Raises:
        RewardError: for a reading that failed, with `on_failure="error"`.
    """

    def __init__(self, judge: ConsistencyJudge, part: JudgePart) -> None:
        self._judge, self._part = judge, part

    def __call__(self, trajectories: Sequence[Trajectory]) -> list[Reward]:
        part = self._part
        cases: list[ReplyCase] = []
        for trajectory in trajectories:
            said = trajectory.conversation.messages
            before = trajectory.conversation.model_copy(update={"messages": said[:-1]})
            drawn = draw_principles(part.constitution, before, part.principles, part.seed)
            cases += [ReplyCase(before, visible(said[-1]), principle) for principle in drawn]
        readings = self._judge.consistent(cases)
        if len(readings) != len(cases):
            raise RewardError(
                f"a judge gave {len(readings)} readings of {len(cases)} cases",
                where=f"part {part.name}",
                fix="give one reading for each case, in order",
            )
        k = part.principles
        return [self._average(t, readings[i * k : (i + 1) * k]) for i, t in enumerate(trajectories)]

    def _average(self, trajectory: Trajectory, readings: Sequence[Consistency | Unread]) -> Reward:
        part = self._part
        failures = [r for r in readings if not isinstance(r, Consistency)]
        if failures and part.on_failure == "error":
            raise RewardError(
                f"the judge of a reply to prompt {trajectory.prompt} cannot be read: {_why(failures[0])}",
                where=f"part {part.name}, principle {failures[0].principle_id}",
                fix="use a judge that knows the form, lower min_mass, or set on_failure to skip or penalty",
            )
        values = [self._value(r) for r in readings if isinstance(r, Consistency)]
        if part.penalty is not None:
            values += [part.penalty] * len(failures)
        details = {f"{part.name}.failed": len(failures) / len(readings)}
        if not values:
            return Reward(math.nan, {part.name: math.nan, **details}, _why(failures[0]))
        value = sum(values) / len(values)
        return Reward(value, {part.name: value, **details})

    def _value(self, reading: Consistency) -> float:
        return reading.probability if self._part.form == "probability" else reading.logit


def _why(unread: Unread) -> str:
    return f"it declined: {unread.reason}" if isinstance(unread, Abstention) else unread.problem


def draw_principles(
    constitution: Constitution, prompt: Conversation, count: int, seed: int
) -> list[Principle]:
    """`count` different principles for a prompt: a function of its text and `seed`, of nothing else.

    Raises:
        UserError: when there are not so many.
    """
    if count > len(constitution.principles):
        raise UserError(
            f"{count} principles of {len(constitution.principles)}",
            where="draw_principles",
            fix="draw fewer",
        )
    said = "\x00".join([prompt.system or "", *(visible(m) for m in prompt.messages)])
    rng = random.Random(hashlib.sha256(f"{seed}\x00{said}".encode("utf-8", "surrogatepass")).digest())
    left = list(constitution.principles)
    drawn: list[Principle] = []
    for _ in range(count):
        drawn.append(rng.choices(left, [p.weight for p in left])[0])
        left.remove(drawn[-1])
    return drawn
