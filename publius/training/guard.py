"""Which updates are made: a step with a broken loss or gradient, or a sudden jump of the loss, is skipped.

The decision falls before the update, so nothing has to be undone: weights and moments stay as they were,
and training goes on with the next batch. It depends on losses alone, and its memory is part of the saved
state: a run that was killed skips what an unbroken one skips.
"""

from __future__ import annotations

import math
from typing import Any

from publius.core.errors import UserError

__all__ = ["Guard"]

_BAD_STEPS = 3
_WINDOW = 100
"""Accepted losses that make the running mean; before so many no jump is looked for."""
_RISE = 1.0
"""A jump is also at least this much (nats): a loss near 0 has a small deviation and honest hard batches."""


class Guard:
    """Judges each step before its update.

    Args:
        spike_sigmas: a loss this many standard deviations (and one nat) above the mean of the last 100
            accepted ones is a jump; None looks for none.
    """

    def __init__(self, spike_sigmas: float | None) -> None:
        self.spike_sigmas = spike_sigmas
        self.recent: list[float] = []
        self.skipped = self.bad = 0

    def judge(self, loss: float, norm: float, where: str) -> str | None:
        """Why the step must be skipped; None makes the update.

        Args:
            loss: mean loss of the step.
            norm: global gradient norm, before clipping.
            where: the step, for the error.

        Raises:
            UserError: at the third step in a row to skip.
        """
        reason = self._reason(loss, norm)
        if reason is None:
            self.bad = 0
            self.recent = [*self.recent[1 - _WINDOW :], loss]
            return None
        self.skipped, self.bad = self.skipped + 1, self.bad + 1
        if self.bad >= _BAD_STEPS:
            raise UserError(
                f"{_BAD_STEPS} steps in a row could not be used: {reason} (loss {loss}, norm {norm})",
                where=where,
                fix="lower optimizer.muon_lr and optimizer.adamw_lr, or look for broken training data"
                " (metrics.jsonl says which batches); if a jump of the loss is right, set spike_sigmas=null",
            )
        return reason

    def _reason(self, loss: float, norm: float) -> str | None:
        if not math.isfinite(loss):
            return "the loss is not finite"
        if not math.isfinite(norm):
            return "the gradient is not finite"
        if self.spike_sigmas is None or len(self.recent) < _WINDOW:
            return None
        mean = math.fsum(self.recent) / _WINDOW
        spread = math.sqrt(math.fsum((x - mean) ** 2 for x in self.recent) / _WINDOW)
        limit = mean + max(_RISE, self.spike_sigmas * spread)
        return f"the loss jumped over {limit:.4g}" if loss > limit else None

    def state(self) -> dict[str, Any]:
        """What a resumed run must know."""
        return {"recent": self.recent, "skipped": self.skipped, "bad": self.bad}

    def restore(self, state: dict[str, Any]) -> None:
        """Put back what `state` returned."""
        self.recent, self.skipped, self.bad = list(state["recent"]), state["skipped"], state["bad"]
