"""A verifier of worked problems: is the reply's final answer the one that the prompt's `meta` holds?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from publius.core.config import Config
from publius.core.messages import text_of
from publius.reward.answers import any_of, find_answer, last_number, same_answer
from publius.reward.guard import RewardError
from publius.reward.reward_fn import Reward, Trajectory

__all__ = ["MathPart", "MathReward"]


class MathPart(Config):
    """The part `math` of a reward.

    Attributes:
        answer: the key of `meta` that holds the right answer: a text, a number, or a list of acceptable
            ones.
        stated: the answer must be stated (boxed, after `####`, or after "the answer is"); else the last
            number of a reply that states none counts.
        tolerance: relative error that still counts, 0 for exact.
        optional: prompts without that key get nothing from this part; else they are an error.
    """

    kind: Literal["math"] = "math"
    name: str = "math"
    weight: float = 1.0
    answer: str = "answer"
    stated: bool = False
    tolerance: float = Field(default=0.0, ge=0, lt=1)
    optional: bool = False


class MathReward:
    """1 when the last reply's final answer is right, else 0; `math.stated` is whether it stated one.

    Raises:
        RewardError: when a prompt's `meta` holds no answer.
    """

    def __init__(
        self, answer: str = "answer", *, stated: bool = False, tolerance: float = 0.0, name: str = "math"
    ) -> None:
        self._answer, self._stated, self._tolerance, self._name = answer, stated, tolerance, name

    def applies(self, trajectory: Trajectory) -> bool:
        """Whether there is an answer to check."""
        return bool(self._wanted(trajectory))

    def __call__(self, trajectories: Sequence[Trajectory]) -> list[Reward]:
        return [self._score(t) for t in trajectories]

    def _wanted(self, trajectory: Trajectory) -> list[str]:
        return [w for w in any_of(trajectory.conversation.meta.get(self._answer)) if w.strip()]

    def _score(self, trajectory: Trajectory) -> Reward:
        if not self.applies(trajectory):
            raise RewardError(
                f"prompt {trajectory.prompt} has no meta[{self._answer!r}] to check its reply by",
                where=f"part {self._name}",
                fix="give prompts with answers, or set the part's optional=true for a mixture",
            )
        text = text_of(trajectory.conversation.messages[-1])
        found = find_answer(text)
        given = found if found is not None or self._stated else last_number(text)
        wanted = self._wanted(trajectory)
        right = given is not None and any(same_answer(given, w, self._tolerance) for w in wanted)
        stated = float(found is not None)
        return Reward(float(right), {self._name: float(right), f"{self._name}.stated": stated})
