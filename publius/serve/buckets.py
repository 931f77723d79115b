"""Token buckets: so much a minute, refilled evenly, so much at once at most."""

from __future__ import annotations

import math

__all__ = ["Bucket"]


class Bucket:
    """Holds at most `per_minute`, begins full, and refills by `per_minute / 60` a second.

    What a request costs is not always known when it begins: `spend` may take the level below zero, and
    nothing more is let in until that is paid back. So a key may pass its limit by what was in flight at once,
    never by more over time.

    Args:
        per_minute: the limit, at least 1.
        now: seconds, of any clock; time that goes backwards refills nothing.
    """

    def __init__(self, per_minute: int, now: float) -> None:
        self.per_minute = per_minute
        self._level, self._at = float(per_minute), now

    def level(self, now: float) -> float:
        """What is in it."""
        if now > self._at:
            self._level = min(self.per_minute, self._level + (now - self._at) * self.per_minute / 60)
            self._at = now
        return self._level

    def wait(self, amount: float, now: float) -> float:
        """Seconds until `amount` (or a full bucket, if that is less) is there; 0 when it is."""
        missing = min(amount, self.per_minute) - self.level(now)
        # A thousandth of a unit is dust of the arithmetic, not a reason to wait.
        return max(0.0, missing * 60 / self.per_minute) if missing > 1e-3 else 0.0

    def spend(self, amount: float, now: float) -> None:
        """Take `amount` out, whatever is in it."""
        self.level(now)
        self._level -= amount

    def remaining(self, now: float) -> int:
        """Whole units in it, never below 0."""
        return max(0, math.floor(self.level(now) + 1e-3))

    def full_at(self, now: float) -> float:
        """When it will be full, if nobody takes anything."""
        return now + (self.per_minute - self.level(now)) * 60 / self.per_minute
