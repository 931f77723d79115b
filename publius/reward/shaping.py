"""What a reply looks like, whatever it says: how long it is, and whether it repeats itself.

Both give 0 to a reply with nothing wrong and at least -1 to any, so that a weight says how much at most
they may take away.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from publius.core.config import Config
from publius.core.errors import UserError
from publius.reward.reward_fn import Reward, Trajectory

__all__ = [
    "LengthPart",
    "LengthReward",
    "RepetitionPart",
    "RepetitionReward",
    "last_reply",
    "repeated_share",
]


class LengthPart(Config):
    """The part `length` of a reward.

    Attributes:
        soft: tokens that cost nothing.
        hard: tokens from which on it costs 1 (times the weight); between the two the cost rises in a line.
    """

    kind: Literal["length"] = "length"
    name: str = "length"
    weight: float = 1.0
    soft: int = Field(ge=0)
    hard: int = Field(ge=1)

    @model_validator(mode="after")
    def _in_order(self) -> LengthPart:
        if self.soft >= self.hard:
            raise ValueError(f"soft is {self.soft}, and must be below hard, {self.hard}")
        return self


class RepetitionPart(Config):
    """The part `repetition` of a reward: the share of `n`-grams of tokens that were already there."""

    kind: Literal["repetition"] = "repetition"
    name: str = "repetition"
    weight: float = 1.0
    n: int = Field(default=4, ge=1)


class LengthReward:
    """0 up to `soft` tokens of the policy's, -1 from `hard` on, a line between.

    The soft overlong punishment of Yu et al. 2025 (DAPO, arXiv 2503.14476, eq. 13): a cap without a slope
    punishes a good reply that was only a little too long as much as one without end.

    Raises:
        UserError: when `soft` is not below `hard`.
    """

    def __init__(self, soft: int, hard: int, name: str = "length") -> None:
        if not 0 <= soft < hard:
            raise UserError(
                f"soft is {soft} and hard {hard}", where="LengthReward", fix="give 0 <= soft < hard"
            )
        self._soft, self._hard, self._name = soft, hard, name

    def __call__(self, trajectories: Sequence[Trajectory]) -> list[Reward]:
        return [self._score(t.length) for t in trajectories]

    def _score(self, tokens: int) -> Reward:
        over = min(max(tokens - self._soft, 0) / (self._hard - self._soft), 1.0)
        return Reward(-over, {self._name: -over})


class RepetitionReward:
    """Less the share of the last reply's `n`-grams of tokens that it had already written.

    The measure of Welleck et al. 2020 (arXiv 1908.04319, section 6: seq-rep-n). Tokens, not words, so that
    thinking, code and languages without spaces count alike. A reply shorter than n tokens repeats nothing.
    """

    def __init__(self, n: int = 4, name: str = "repetition") -> None:
        self._n, self._name = n, name

    def __call__(self, trajectories: Sequence[Trajectory]) -> list[Reward]:
        shares = [repeated_share(last_reply(t), self._n) for t in trajectories]
        return [Reward(-share, {self._name: -share}) for share in shares]


def repeated_share(tokens: Sequence[int], n: int) -> float:
    """The share of n-grams that stood earlier in `tokens`, from 0 to below 1."""
    grams = Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
    return 1 - len(grams) / grams.total() if grams else 0.0


def last_reply(trajectory: Trajectory) -> tuple[int, ...]:
    """The tokens of the policy's last reply, its <|end|> included; a prefill is not its own."""
    start = len(trajectory.tokens)
    while start and trajectory.actions[start - 1]:
        start -= 1
    return trajectory.tokens[start:]
