"""Being asked to stop: SIGTERM and Ctrl-C reach the stage at work, which saves its state and ends.

A stage that saves says so (`Run.stoppable`, `Run.stop_here`): inside, a signal is only noted until the
stage has saved. Anywhere else a signal unwinds at once. SIGTERM unwinds as `Stopped` (the command ends
with 0: it was told to stop, and did), Ctrl-C as `KeyboardInterrupt` (130).

Signals belong to the process, so what they asked for is kept once, in this module.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

__all__ = ["Stopped", "interrupts", "leave", "patience", "stop_asked"]


class Stopped(BaseException):
    """SIGTERM asked the process to stop; the same command goes on from where it was.

    Not an `Exception`: code that forgives errors must not forgive this.
    """


@dataclass
class _Request:
    asked: int = 0
    """The first signal that came; 0 is none."""
    patient: int = 0
    """How many `patience` blocks we are in."""
    leaving: bool = False
    """Unwinding has begun: later signals must not disturb the tidying up."""


_request = _Request()


def stop_asked() -> bool:
    """Whether a signal has asked this process to stop."""
    return bool(_request.asked)


def leave() -> NoReturn:
    """Unwind, as the signal that came demands."""
    _request.leaving = True
    if _request.asked == signal.SIGINT:
        raise KeyboardInterrupt
    raise Stopped(signal.Signals(_request.asked or signal.SIGTERM).name)


@contextmanager
def patience() -> Iterator[None]:
    """Inside, a signal waits for someone to look at `stop_asked` and `leave`; at the end it waits no more.

    A second Ctrl-C does not wait. A SIGTERM that follows another signal does: a terminal sends Ctrl-C to
    the worker too, before its parent does.
    """
    _request.patient += 1
    try:
        yield
    finally:
        _request.patient -= 1
    if _request.asked and not _request.patient and not _request.leaving:
        leave()


@contextmanager
def interrupts(*signals: int) -> Iterator[None]:
    """Let `signals` stop the work inside in good order: see the module. Only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        again, _request.asked = _request.asked, _request.asked or number
        if _request.leaving or (_request.patient and not (again and number == signal.SIGINT)):
            return
        leave()

    before = {each: signal.signal(each, handle) for each in signals}
    try:
        yield
    finally:
        for each, handler in before.items():
            if signal.getsignal(each) is handle:  # else someone inside has decided otherwise
                signal.signal(each, handler)
        _request.asked, _request.leaving = 0, False
