"""When to stop: the second preference model's rewards fall while the first one's rise."""

from __future__ import annotations

from torch import Tensor

__all__ = ["SecondModel"]


class SecondModel:
    """Watches the mean reward, step by step, of a model that was trained on the other half of the pairs.

    Args:
        drop: how far below its best the smoothed mean must be, in standard deviations of a step's rewards.
        patience: for how many steps in a row.
    """

    def __init__(self, drop: float, patience: int) -> None:
        self._drop, self._patience = drop, patience
        self.state: dict[str, float] = {}
        """For resume."""

    def falls(self, rewards_B: Tensor) -> bool:
        """Take in a step's rewards (fp64); whether to stop."""
        mean, spread = float(rewards_B.mean()), float(rewards_B.std(unbiased=False))
        state = self.state or {"smooth": mean, "best": mean, "bad": 0.0}
        state["smooth"] += 0.3 * (mean - state["smooth"])
        state["best"] = max(state["best"], state["smooth"])
        below = state["smooth"] < state["best"] - self._drop * spread
        state["bad"] = state["bad"] + 1 if below else 0.0
        self.state = state
        return state["bad"] >= self._patience
