"""What is computed next: every running row's tokens, then prompts that wait, within a budget of tokens.

No tensors here. A step of the engine is *schedule, run, postprocess*; this file is the first word. A row that
decodes and a prompt that is read are the same thing: a request with tokens to read. Every row that runs
reads at least one token a step: neither a long prompt nor guesses take it from those behind. When pages run
out, the least urgent request gives its pages up and is read again later.
"""

from __future__ import annotations

import heapq
import time
from bisect import insort
from collections.abc import Callable, Sequence
from typing import NamedTuple

from publius.inference.pages import PAGE, PagePool, page_hashes, tail_hash
from publius.inference.request import Request

__all__ = ["Scheduler", "Work"]

_STALE = 1024
"""Deadlines of requests that are gone, beyond as many as are not, after which they are thrown out."""

Draft = Callable[[Sequence[tuple[Request, int]]], list[list[int]]]
"""Guesses the next tokens of each request, at most so many."""


class Work(NamedTuple):
    """Read `size` tokens of `request` from `request.computed` on, and then the guessed ones."""

    request: Request
    size: int
    draft: list[int]
    copy: tuple[int, int] | None = None
    """Before anything is written: from the first of these pages to the second, which is the request's."""

    @property
    def complete(self) -> bool:
        """Whether the next token can be drawn after it."""
        return self.size == self.request.left and self.request.targets is None


def urgency(request: Request) -> tuple[int, int]:
    """Sorts the most urgent first: by priority, then by arrival."""
    return -request.priority, request.number


class Scheduler:
    """Requests that wait and requests that run.

    Args:
        pool: pages of the cache.
        rows: most requests running at once.
        tokens: most tokens a step reads, at least `rows`.
        scored: most of them whose logits are wanted for scoring.
        draft: guesses tokens of rows that decode; None does not.
    """

    def __init__(
        self,
        pool: PagePool,
        *,
        rows: int,
        tokens: int,
        scored: int,
        draft: Draft | None = None,
        guesses: int = 0,
    ) -> None:
        self.pool, self.rows, self.tokens, self.scored = pool, rows, tokens, max(PAGE, scored)
        self._draft, self._guesses = draft, guesses
        self.running: list[Request] = []  # most urgent first
        self._waits: dict[int, Request] = {}
        """All that wait, by number; each of them is in the queue or held back."""
        self._queue: list[tuple[tuple[int, int], Request]] = []
        """A heap. Who waits no more stays in it until popped, so that leaving costs nothing."""
        self._scoring: list[tuple[tuple[int, int], Request]] = []
        """The same of what is to be scored: with no room for logits, others need not wait behind it."""
        self._count = 0
        self._coming: dict[bytes, Request] = {}
        """Pages, and tails of prompts, that a running prompt is about to fill."""
        self._held: dict[bytes, list[Request]] = {}
        """Who begins alike, and is held back until then."""
        self._deadlines: list[tuple[float, int]] = []
        """A heap of deadlines and numbers, of requests that are gone too: it must not keep those alive."""
        self._timed: dict[int, Request] = {}
        """Requests with a deadline, by number."""
        self.preemptions = 0
        self.reused = 0
        """Tokens that came from the prefix cache."""

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waits)

    def add(self, request: Request) -> None:
        """A new request; the caller has checked that it fits the pool."""
        request.number, self._count = self._count, self._count + 1
        self._extend_chain(request)
        request.stem = request.reusable
        full = request.stem // PAGE
        if request.stem % PAGE:
            before = request.chain[full - 1] if full else b""
            request.tail = tail_hash(before, request.ids(full * PAGE, request.stem))
        if request.deadline is not None:
            heapq.heappush(self._deadlines, (request.deadline, request.number))
            self._timed[request.number] = request
        self._wait(request)

    def _wait(self, request: Request) -> None:
        self._waits[request.number] = request
        queue = self._queue if request.targets is None else self._scoring
        heapq.heappush(queue, (urgency(request), request))

    def remove(self, request: Request) -> None:
        """Finished or cancelled: its pages are free."""
        self._timed.pop(request.number, None)
        if self._waits.pop(request.number, None) is None:
            self.running.remove(request)
            if request.error is not None:  # its last page may have been cleared
                for page in request.pages:
                    self.pool.spoil(page)
            self._release(request)

    def schedule(self) -> list[Work]:
        """The next step; empty when nothing is to do."""
        self._expire()
        plan: list[Work] = []
        drafts = self._drafts()
        budget, scored, preempted = self.tokens, self.scored, self.preemptions
        guessed = self.tokens // 2  # no more, so that prompts that wait come in
        place = 0
        while place < len(self.running):  # it loses those at its end when pages run out
            request, others = self.running[place], len(self.running) - place - 1
            draft = drafts.get(request.number, [])[:guessed]
            work = self._work(request, budget - others, scored, draft)
            if work is not None:
                plan.append(work)
                budget -= work.size + len(work.draft)
                guessed -= len(work.draft)
                scored -= work.size if request.targets is not None else 0
            place += 1
        if self.preemptions == preempted:  # else there is no room
            self._admit(plan, budget, scored)
        return plan

    def _drafts(self) -> dict[int, list[int]]:
        """Guesses for the rows that decode, by their number."""
        if self._draft is None:
            return {}
        asked: list[tuple[Request, int]] = []
        for request in self.running:
            room = min(self._guesses, request.sampling.max_tokens - len(request.tokens) - 1)
            if request.targets is None and request.guide is None and request.left == 1 and room > 0:
                asked.append((request, room))
        guessed = self._draft(asked) if asked else []
        return {request.number: guess for (request, _), guess in zip(asked, guessed, strict=True)}

    def _admit(self, plan: list[Work], budget: int, scored: int) -> None:
        """Start requests that wait."""
        while budget and (request := self._next(scored)) is not None:
            if len(self.running) >= self.rows and not self._outranks(request, plan):
                return self._wait(request)
            most = request.reusable // PAGE
            known = self.pool.known(request.chain[:most])
            tail = request.tail if known == most and request.reusable == request.stem else b""
            source = self.pool.begun(tail)
            wanted = request.chain[known] if known < most else tail
            if source is None and wanted in self._coming:
                self._held.setdefault(wanted, []).append(request)
                self._waits[request.number] = request
                continue
            request.pages = self.pool.share(request.chain[:known])
            request.computed = known * PAGE if source is None else request.stem
            while (work := self._work(request, budget, scored, [], starting=True)) is None:
                if not self._outranks(request, plan):
                    self._release(request)
                    return self._wait(request)
            self.reused += request.computed
            if request.reused is None:
                request.reused = request.computed
            if source is not None:
                work = work._replace(copy=(source, request.pages[known]))
            for key in request.chain[known:]:
                self._coming.setdefault(key, request)
            if tail and source is None:
                self._coming.setdefault(tail, request)
            insort(self.running, request, key=urgency)
            plan.append(work)
            budget -= work.size
            scored -= work.size if request.targets is not None else 0
        return None

    def _next(self, scored: int) -> Request | None:
        """The most urgent that waits and is not held back, and may be scored where it is to be; it waits no
        more."""
        queues = (self._queue, self._scoring) if scored > 0 else (self._queue,)
        while queue := min(filter(None, queues), key=lambda each: each[0][0], default=None):
            _, request = heapq.heappop(queue)
            if self._waits.pop(request.number, None) is not None:
                return request
        return None

    def _outranks(self, request: Request, plan: list[Work]) -> bool:
        """Rows or pages are wanting: whether the least urgent row made room for `request`."""
        if not self.running or self.running[-1].priority >= request.priority:
            return False
        least = self.running[-1]
        plan[:] = [work for work in plan if work.request is not least]
        self._preempt(least)
        return True

    def _work(
        self, request: Request, budget: int, scored: int, draft: list[int], *, starting: bool = False
    ) -> Work | None:
        """As much of `request` as fits, with pages for it; None when there are none."""
        count = min(request.left, budget)
        if request.targets is not None:
            count = min(count, scored)
            if count <= 0:
                return None
        draft = draft[: budget - count]
        needed = -(-(request.computed + count + len(draft)) // PAGE) - len(request.pages)
        while needed > self.pool.available:
            if starting:
                return None
            if draft:  # a guess takes no room from others
                draft = []
                needed = -(-(request.computed + count) // PAGE) - len(request.pages)
                continue
            least = self.running[-1]
            self._preempt(least)
            if least is request:
                return None
        request.pages += self.pool.take(max(0, needed))
        return Work(request, count, draft)

    def _preempt(self, request: Request) -> None:
        """Back to those that wait; what it has said stays said, and is read again."""
        self.preemptions += 1
        self.running.remove(request)
        self._release(request)
        self._wait(request)

    def _release(self, request: Request) -> None:
        for key in request.chain[request.computed // PAGE :]:
            if self._coming.get(key) is request:
                self._came(key)
        if self._coming.get(request.tail) is request:
            self._came(request.tail)
        self.pool.give_back(request.pages)
        request.pages, request.computed = [], 0

    def _came(self, key: bytes) -> None:
        """This page has been filled, or will not be: nobody is held back for it any longer."""
        del self._coming[key]
        for held in self._held.pop(key, ()):
            if self._waits.pop(held.number, None) is not None:
                self._wait(held)

    def advance(self, request: Request, count: int) -> None:
        """`count` more tokens of `request` have been read: its full pages can be shared."""
        first, request.computed = request.computed, request.computed + count
        self._extend_chain(request)
        if request.tail and first < request.stem <= request.computed:
            self.pool.begin(request.pages[request.stem // PAGE], request.tail)
            if self._coming.get(request.tail) is request:
                self._came(request.tail)
        for number in range(first // PAGE, request.computed // PAGE):
            key = request.chain[number]
            self.pool.name(request.pages[number], key)
            if self._coming.get(key) is request:
                self._came(key)

    def forget(self) -> None:
        """Other weights: what runs is read again, and nothing of the past is shared."""
        for request in tuple(self.running):
            self._preempt(request)
        self.pool.forget()

    @staticmethod
    def _extend_chain(request: Request) -> None:
        chain, full = request.chain, request.length // PAGE
        if len(chain) < full:
            new = request.ids(len(chain) * PAGE, full * PAGE)
            chain += page_hashes(chain[-1] if chain else b"", new)

    def _expire(self) -> None:
        """End what is past its deadline."""
        now = time.monotonic()
        while self._deadlines and self._deadlines[0][0] <= now:
            _, number = heapq.heappop(self._deadlines)
            request = self._timed.get(number)
            if request is not None and request.stop_reason is None:
                request.stop_reason = "deadline"
                self.remove(request)
        if len(self._deadlines) > 2 * len(self._timed) + _STALE:
            self._deadlines = [(due, number) for due, number in self._deadlines if number in self._timed]
            heapq.heapify(self._deadlines)
