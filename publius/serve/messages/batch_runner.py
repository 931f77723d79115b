"""Works off the batches of a store: so many requests at a time, each result once, whatever is killed when.

    waiting --run--> succeeded | errored          one UPDATE of a row that still waits, so never twice
            --cancel--> canceled                  what is under way is let finish
            --24 hours--> expired

Only what is under way is in memory. A runner that takes over (`Store.lead`) finds in the store what still
waits; what another was doing when it was killed is done again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from publius.serve.errors import ApiError, api_error
from publius.serve.http import new_id
from publius.serve.messages.errors import error_body
from publius.serve.store import Batch, BatchItem, Outcome, Store

__all__ = ["ItemRunner", "Run"]

Run = Callable[[BatchItem, str], Awaitable[dict[str, Any]]]
"""Makes the Message that answers an item, under a request id; raises ApiError."""

_log = logging.getLogger("publius.serve")
_TIMEOUTS = 3
"""Tries of a request that runs out of time: at low priority it may not have had its turn."""


class ItemRunner:
    """Runs while it is started; any number of runners of one store take turns being the one that works.

    Args:
        run: makes the Message of one item.
        in_flight: most items under way at once.
        clock: Unix seconds.
        poll: seconds between looks at the store when nothing happens here.
    """

    def __init__(
        self,
        store: Store,
        run: Run,
        *,
        in_flight: int,
        clock: Callable[[], float] = time.time,
        poll: float = 1.0,
    ) -> None:
        self._store, self._run, self._most = store, run, in_flight
        self._clock, self._poll = clock, poll
        self._lead = store.lead()
        self._busy: dict[tuple[int, int], asyncio.Task[None]] = {}
        self._after: dict[int, int] = {}
        """For each batch, the position of the last item begun."""
        self._wake = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin."""
        self._loop = asyncio.create_task(self._work(), name="batches")

    async def stop(self) -> None:
        """Stop; what is under way waits for the next to start."""
        if self._loop is not None:
            self._loop.cancel()
            with suppress(asyncio.CancelledError):
                await self._loop
            self._loop = None
        await self._drop(lambda _: True)
        await asyncio.to_thread(self._lead.release)

    async def _work(self) -> None:
        while True:
            self._wake.clear()
            try:
                if await asyncio.to_thread(self._lead.held):
                    await self._look()
                else:
                    await self._drop(lambda _: True)
                    self._after.clear()
            except Exception:  # the store may be away for a while: a full disk, a database that restarts
                _log.exception("batches could not be worked on; trying again")
                await asyncio.sleep(self._poll)
            # Not `wait_for`: in Python 3.11 it can lose a cancellation that comes as the event is set.
            with suppress(TimeoutError):
                async with asyncio.timeout(self._poll):
                    await self._wake.wait()

    async def _look(self) -> None:
        """Close what is over, and begin as many items as there is room for, of each batch in turn."""
        going: list[Batch] = []
        for batch in await asyncio.to_thread(self._store.batches.unfinished):
            if self._clock() >= batch.expires:
                await self._drop(lambda place, number=batch.number: place[0] == number)
                await asyncio.to_thread(self._store.batches.close_waiting, batch.number, "expired")
            elif batch.cancel_initiated is not None:
                busy = self._busy_in(batch.number)
                await asyncio.to_thread(
                    self._store.batches.close_waiting, batch.number, "canceled", busy=busy
                )
            else:
                going.append(batch)
            await self._end(batch)
        while going and len(self._busy) < self._most:
            # Who has fewest under way comes first, or the oldest would take every place that gets free.
            going.sort(key=lambda batch: len(self._busy_in(batch.number)))
            share = -(-(self._most - len(self._busy)) // len(going))
            going = [batch for batch in going if await self._begin(batch, share)]

    async def _begin(self, batch: Batch, most: int) -> bool:
        """Begin up to `most` items of a batch; whether there may be more to begin."""
        most = min(most, self._most - len(self._busy))
        if most <= 0:
            return True
        after = self._after.get(batch.number, -1)
        items = await asyncio.to_thread(self._store.batches.waiting, batch.number, after=after, limit=most)
        for item in items:
            self._after[batch.number] = item.position
            task = asyncio.create_task(self._finish(item), name=f"batch item {item.custom_id}")
            self._busy[item.place] = task
            task.add_done_callback(lambda _, place=item.place: self._done(place))
        if not items and not self._busy_in(batch.number):
            # Nothing is left, or what was begun was not written: then it is begun again.
            self._after.pop(batch.number, None)
            await self._end(batch)
        return len(items) == most

    async def _end(self, batch: Batch) -> None:
        if not self._busy_in(batch.number) and await asyncio.to_thread(
            self._store.batches.end, batch.number, self._clock()
        ):
            self._after.pop(batch.number, None)
            _log.info("batch ended", extra={"batch": batch.id, "requests": batch.total})

    def _busy_in(self, number: int) -> list[int]:
        return [position for batch, position in self._busy if batch == number]

    def _done(self, place: tuple[int, int]) -> None:
        self._busy.pop(place, None)
        self._wake.set()

    async def _drop(self, which: Callable[[tuple[int, int]], bool]) -> None:
        """Give up items under way; they wait again."""
        tasks = [task for place, task in self._busy.items() if which(place)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _finish(self, item: BatchItem) -> None:
        outcome, result = await self._answer(item)
        while True:
            try:
                await asyncio.to_thread(self._store.batches.finish, item, outcome, result)
                return
            except Exception:
                _log.exception("a result of a batch could not be written; trying again")
                await asyncio.sleep(self._poll)

    async def _answer(self, item: BatchItem) -> tuple[Outcome, dict[str, Any]]:
        asked, pause, timeouts = new_id("req"), self._poll, 0
        while True:
            try:
                return "succeeded", {"type": "succeeded", "message": await self._run(item, asked)}
            except Exception as error:
                told = api_error(error)
                timeouts += told.type == "timeout_error"
                # The store may be away for a while, which no request of a batch has to answer for.
                if not (isinstance(error, SQLAlchemyError) or _passes(told, timeouts)):
                    if told.type == "api_error":
                        _log.exception("a request of a batch failed", extra={"request_id": asked})
                    return "errored", {"type": "errored", "error": error_body(told, asked)}
            await asyncio.sleep(pause)
            pause = min(2 * pause, 30.0)


def _passes(error: ApiError, timeouts: int) -> bool:
    """Whether it is the server's state and not the request that failed: a batch has the time to wait."""
    if error.type == "timeout_error":
        return timeouts < _TIMEOUTS
    return error.type in ("overloaded_error", "rate_limit_error")
