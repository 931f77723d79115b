"""Resident memory of this process; standard library only, so that a peer's Python reads it as ours does."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

__all__ = ["Resident"]

_STATUS = Path("/proc/self/status")


class Resident:
    """Peak resident memory above what the process had at the start (imports), in bytes.

    Of this process alone: helpers that compile are not counted.
    """

    def __init__(self) -> None:
        clear = Path("/proc/self/clear_refs")
        if clear.exists():
            clear.write_text("5")  # the peak starts again from here
        self.idle = _status("VmRSS")

    def peak(self) -> int:
        """Until now."""
        return _status("VmHWM") - self.idle


def _status(name: str) -> int:
    if _STATUS.exists():
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(name))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
