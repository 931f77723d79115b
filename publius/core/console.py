"""The terminal: one console, one progress display. Quiet when the output is not a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

__all__ = ["Ticker", "console", "progress"]

console = Console(stderr=True, highlight=False)
"""Human words go to stderr, so that `--json` on stdout stays clean."""

_AT_ONCE = 0.1
"""Seconds: what a loop has behind it so soon was done before a resume, and says nothing of the rate."""


class Ticker(Protocol):
    """What a long loop calls as it advances."""

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Move on by `amount` units and show `note` (loss, rate)."""
        ...


class _Bar:
    def __init__(self, bar: Progress, task: int) -> None:
        self._bar, self._task = bar, task

    def advance(self, amount: float = 1, note: str = "") -> None:
        self._bar.update(self._task, advance=amount, note=note)  # pyright: ignore[reportArgumentType]


class _Lines:
    """For logs: a line at most every 15 seconds, with rate and time left."""

    def __init__(self, label: str, total: float) -> None:
        self._label, self._total, self._done = label, total, 0.0
        self._start = self._last = time.monotonic()
        self._before = 0.0

    def advance(self, amount: float = 1, note: str = "") -> None:
        now = time.monotonic()
        if not self._done and now - self._start < _AT_ONCE:
            self._before = amount
        self._done += amount
        if now - self._last >= 15:
            self._last = now
            rate = (self._done - self._before) / (now - self._start)
            left = max(0.0, self._total - self._done) / rate if rate else 0.0
            print(
                f"{self._label}: {self._done:.0f}/{self._total:.0f}  {rate:.2f}/s  {left:.0f}s left  {note}",
                file=sys.stderr,
                flush=True,
            )


@contextmanager
def progress(label: str, total: float) -> Iterator[Ticker]:
    """A progress bar on a terminal, occasional lines elsewhere; both give rate and time left."""
    if not console.is_terminal:
        yield _Lines(label, total)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        yield _Bar(bar, bar.add_task(label, total=total, note=""))
