"""What may be trained on: rewards that are finite, or an error that says whose was not.

A reward that is NaN or infinite, or that a part could not give, is never counted as 0: by the config it is an
error, or its episode is left out and counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from publius.core.errors import UserError
from publius.reward.reward_fn import Reward, Trajectory

__all__ = ["OnNan", "RewardError", "Sifted", "part_means", "sift"]

OnNan = Literal["error", "skip"]


class RewardError(UserError):
    """A reward that cannot be trained on. It is raised before anything is learnt from its batch."""


class Sifted(NamedTuple):
    """The episodes that have a reward, their rewards in the same order, and how many had none."""

    trajectories: list[Trajectory]
    rewards: list[Reward]
    skipped: int


def sift(trajectories: Sequence[Trajectory], rewards: Sequence[Reward], on_nan: OnNan, where: str) -> Sifted:
    """Take out the episodes without a reward.

    An episode whose reward says why it has none (`Reward.problem`) is always left out and counted: its part
    was told to. One whose reward is not finite is left out by `on_nan="skip"`, and else an error.

    Args:
        where: the step, for the error.

    Raises:
        RewardError: for a reward that is not finite, naming prompt and part; when no episode is left; when
            there is not one reward for each episode.
    """
    if len(rewards) != len(trajectories):
        raise RewardError(
            f"a reward function gave {len(rewards)} rewards for {len(trajectories)} episodes",
            where=where,
            fix="give one Reward for each trajectory, in order",
        )
    kept: list[int] = []
    for i, (trajectory, reward) in enumerate(zip(trajectories, rewards, strict=True)):
        if reward.problem:
            continue
        if math.isfinite(reward.value):
            kept.append(i)
        elif on_nan == "error":
            parts = [name for name, value in reward.parts.items() if not math.isfinite(value)]
            raise RewardError(
                f"the reward of a reply to prompt {trajectory.prompt} is {reward.value}",
                where=f"{where}, part {', '.join(parts) or 'the sum'}",
                fix="mend that part, or leave such replies out and count them with on_nan=skip",
            )
    if not kept:
        problems = sorted({r.problem for r in rewards if r.problem})
        raise RewardError(
            f"none of {len(rewards)} replies has a reward: {'; '.join(problems) or 'none is finite'}",
            where=where,
            fix="mend the part that gives none",
        )
    return Sifted([trajectories[i] for i in kept], [rewards[i] for i in kept], len(rewards) - len(kept))


def part_means(rewards: Sequence[Reward]) -> dict[str, float]:
    """Each part's mean, unweighted, over the rewards that have it (a part may not apply to every prompt)."""
    found: dict[str, list[float]] = {}
    for reward in rewards:
        for name, value in reward.parts.items():
            if math.isfinite(value):
                found.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in found.items()}
