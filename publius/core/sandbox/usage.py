"""How much disk a program in the sandbox holds: what lies in its folder, and what it deleted and still keeps.

A deleted file lives on while a descriptor or a mapping holds it. The kernel tells both of any process of
ours, in `proc(5)`; its threads share one table of descriptors, which the walls see to.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

__all__ = ["disk_used"]

_FILES = 256
_MAPS = 1 << 20
"""Bytes of a list of mappings: an ordinary program's has some 20,000."""


def disk_used(folder: Path, process: int, largest: int) -> float:
    """Bytes of the files in `folder`, which is flat, and of those deleted there that `process` still holds.

    More files, or more mappings, than a program may have count as without end.

    Args:
        largest: what a file can have grown to: taken for one that only a mapping holds, for its size cannot
            be had.
    """
    total = 0.0
    with os.scandir(folder) as entries:
        for count, entry in enumerate(entries):
            if count > _FILES:
                return math.inf
            with suppress(FileNotFoundError):
                total += entry.stat(follow_symlinks=False).st_size
    with suppress(OSError):  # it has ended, and so holds nothing
        opened = dict(_opened(process))
        mapped = _mapped(process, folder)
        total += sum(opened.values())
        total += math.inf if mapped is None else largest * len(mapped - set(opened))
    return total


def _opened(process: int) -> Iterator[tuple[int, int]]:
    """Inode and size of each deleted file that it has open."""
    place = f"/proc/{process}/fd"
    for name in os.listdir(place):  # noqa: PTH208
        with suppress(OSError):  # closed since
            found = os.stat(f"{place}/{name}")  # noqa: PTH116
            if stat.S_ISREG(found.st_mode) and found.st_nlink == 0:
                yield found.st_ino, found.st_size


def _mapped(process: int, folder: Path) -> set[int] | None:
    """Inodes of deleted files of `folder` that are mapped; None for more mappings than are worth reading."""
    with Path(f"/proc/{process}/maps").open("rb") as file:
        told = file.read(_MAPS + 1)
    if len(told) > _MAPS:
        return None
    deleted = rb"^(?:\S+ +){4}(\d+) +%b/.* \(deleted\)$" % re.escape(os.fsencode(folder.resolve()))
    return {int(inode) for inode in re.findall(deleted, told, re.MULTILINE)}
