"""How fast requests go out, and how much they may cost."""

from __future__ import annotations

import threading
import time

from publius.core.errors import UserError

__all__ = ["Budget", "Pace"]

_MILLION = 1_000_000


class Pace:
    """Spaces the starts of requests evenly, and holds all of them back when the server asks for it.

    Args:
        per_minute: most starts in a minute; None is no limit.
    """

    def __init__(self, per_minute: float | None) -> None:
        self._gap = 60 / per_minute if per_minute else 0.0
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self, stop: threading.Event) -> None:
        """Return when the caller may start; at once when `stop` is set."""
        while not stop.is_set():
            with self._lock:
                now = time.monotonic()
                if now >= self._next:
                    self._next = now + self._gap
                    return
                left = self._next - now
            stop.wait(left)

    def hold(self, seconds: float) -> None:
        """Start nothing for so long."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)


class Budget:
    """Dollars spent, and what requests under way may still cost.

    A request is only sent when the cap holds even if it costs the most it can: its tokens are at most its
    UTF-8 bytes, its new ones at most its limit.

    Args:
        input_price, output_price: dollars for a million tokens.
        cap: most dollars; None is no limit.
    """

    def __init__(self, input_price: float, output_price: float, cap: float | None) -> None:
        self._prices, self._cap = (input_price / _MILLION, output_price / _MILLION), cap
        self.spent = 0.0
        self._promised = 0.0
        self._changed = threading.Condition()

    def price(self, input_tokens: int, output_tokens: int) -> float:
        """Dollars."""
        return self._prices[0] * input_tokens + self._prices[1] * output_tokens

    def promise(self, most: float) -> None:
        """Set `most` dollars aside for a request, waiting for others where only they are in the way.

        Raises:
            UserError: when the cap would be passed.
        """
        with self._changed:
            while self._cap is not None and self.spent + self._promised + most > self._cap:
                if self._promised == 0:
                    raise UserError(
                        f"the spend cap of ${self._cap:g} is reached: the answers so far cost "
                        f"${self.spent:.4g}, the next may cost ${most:.4g}",
                        where="spend_cap",
                        fix="raise spend_cap and run again: what was answered is kept and asked no more",
                    )
                self._changed.wait()
            self._promised += most

    def settle(self, most: float, cost: float) -> None:
        """A request is done: its promise goes, its cost stays."""
        with self._changed:
            self._promised -= most
            if self._promised < 1e-12:  # what rounding left
                self._promised = 0.0
            self.spent += cost
            self._changed.notify_all()

    def spend(self, cost: float) -> None:
        """Count what was paid before (an answer from the cache)."""
        with self._changed:
            self.spent += cost
