"""Ranks as forks of the test's worker: imports are done once."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable

__all__ = ["fork_ranks"]


def fork_ranks(count: int, work: Callable[[int], object], name: str = "") -> None:
    """`work(number)` in `count` children at once; an error in one is printed and fails this process."""
    children: list[int] = []
    for number in range(count):
        child = os.fork()
        if child == 0:
            try:
                work(number)
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(1)
            os._exit(0)
        children.append(child)
    codes = [os.waitpid(child, 0)[1] for child in children]
    assert not any(codes), name
