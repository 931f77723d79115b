"""Which request runs next: groups that share a prefix, long prompts first, free slots refilled.

No tensors here. A step of the engine is *schedule, run, postprocess*; this file is the first word.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Chunk", "Group", "Scheduler", "share_prefixes"]

MIN_SHARED = 16
"""Shorter common prefixes are not worth a forward pass of their own."""

PREFILL_TOKENS = 8192
"""Most new tokens (padding included) in one forward pass: enough to fill the cores, small in memory."""


class Group(NamedTuple):
    """Sequences with a common prefix: its length in tokens (0: none) and their indices, longest first."""

    shared: int
    members: list[int]


class Chunk(NamedTuple):
    """What to prefill now: indices of requests, all in `group`, and the slot each one gets."""

    group: Group
    members: list[int]
    slots: list[int]


def share_prefixes(sequences: Sequence[Sequence[int]], limits: Sequence[int]) -> list[Group]:
    """Group sequences by their first `MIN_SHARED` tokens and find each group's longest common prefix.

    Args:
        sequences: token ids.
        limits: per sequence, the most tokens that may count as prefix (at least one must remain).
    """
    by_start: dict[tuple[int, ...], list[int]] = {}
    alone: list[int] = []
    for i, (sequence, limit) in enumerate(zip(sequences, limits, strict=True)):
        if limit >= MIN_SHARED:
            by_start.setdefault(tuple(sequence[:MIN_SHARED]), []).append(i)
        else:
            alone.append(i)
    groups: list[Group] = []
    for members in by_start.values():
        if len(members) == 1:
            alone += members
            continue
        shared = min(limits[i] for i in members)
        # The common prefix of the smallest and the largest, in lexicographic order, is common to all.
        starts = [tuple(sequences[i][:shared]) for i in members]
        low, high = min(starts), max(starts)
        shared = next((n for n in range(shared) if low[n] != high[n]), shared)
        groups.append(Group(shared, _longest_first(members, sequences)))
    if alone:
        groups.append(Group(0, _longest_first(alone, sequences)))
    return groups


def _longest_first(members: list[int], sequences: Sequence[Sequence[int]]) -> list[int]:
    return sorted(members, key=lambda i: (-len(sequences[i]), i))


def chunk_rows(lengths: Sequence[int], most: int) -> int:
    """How many of the next rows (tokens to prefill each, longest first) fit in one pass: >= 1, <= `most`."""
    return max(1, min(len(lengths), most, PREFILL_TOKENS // max(1, lengths[0])))


class Scheduler:
    """Hands out prompts to free slots.

    Refilling one slot at a time would run many tiny passes, so it waits until an eighth of the slots is
    free (or nothing runs).

    Args:
        prompts: token ids of every request.
        slots: rows the cache holds.
    """

    def __init__(self, prompts: Sequence[Sequence[int]], slots: int) -> None:
        self._prompts = prompts
        self._patience = max(1, slots // 8)
        self._groups = deque(share_prefixes(prompts, [len(prompt) - 1 for prompt in prompts]))
        self._next = 0  # first member of the head group not yet handed out
        self.waiting = len(prompts)

    def wants(self, free: int, running: int) -> bool:
        """Is it time to prefill, with `free` slots and `running` rows?"""
        return self.waiting > 0 and free > 0 and (running == 0 or free >= min(self._patience, self.waiting))

    def take(self, free_slots: Sequence[int]) -> Chunk:
        """The next rows for some of `free_slots` (not empty); all from one group, of similar lengths."""
        group = self._groups[0]
        left = group.members[self._next :]
        lengths = [len(self._prompts[i]) - group.shared for i in left[: len(free_slots)]]
        count = chunk_rows(lengths, len(free_slots))
        members = left[:count]
        self._next += count
        self.waiting -= count
        if self._next == len(group.members):
            self._groups.popleft()
            self._next = 0
        return Chunk(group, members, list(free_slots[:count]))
