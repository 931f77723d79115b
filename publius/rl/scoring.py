"""Rewards of a step's episodes: asked for, checked, and counted."""

from __future__ import annotations

from collections.abc import Sequence

from publius.core.errors import UserError
from publius.reward.guard import OnNan, RewardError, Sifted, sift
from publius.reward.reward_fn import RewardFn, Trajectory

__all__ = ["Scoring"]


class Scoring:
    """A reward function, and how many episodes it had no reward for.

    Args:
        on_nan: whether a reward that is not finite is an error, or its episode is left out.

    Attributes:
        episodes, skipped: how many were scored in training, and how many of them left out.
    """

    def __init__(self, fn: RewardFn, on_nan: OnNan) -> None:
        self._fn = fn
        self._on_nan: OnNan = on_nan
        self.episodes = self.skipped = 0

    def __call__(self, trajectories: Sequence[Trajectory], where: str) -> Sifted:
        """The episodes that have a reward, and their rewards.

        Raises:
            RewardError: naming `where`, and prompt and part where they are known.
        """
        try:
            return sift(trajectories, self._fn(trajectories), self._on_nan, where)
        except UserError as error:  # of a judge's engine, or a sandbox, too
            told = error.where if error.where.startswith(where) else f"{where}, {error.where}"
            raise RewardError(error.what, where=told, fix=error.fix) from error

    def count(self, episodes: int, skipped: int) -> None:
        """A step was done, on so many episodes."""
        self.episodes += episodes
        self.skipped += skipped

    def state(self) -> dict[str, int]:
        """For resume."""
        return {"episodes": self.episodes, "skipped": self.skipped}

    def restore(self, state: dict[str, int]) -> None:
        """Go on counting from `state`."""
        self.episodes, self.skipped = state["episodes"], state["skipped"]
