"""The one thread that steps an engine, and how the event loop follows what it writes.

All calls of the engine are made on the worker's thread, between steps, so that the event loop never waits for
one. The other way, the thread posts at most one wake-up at a time: while the loop is busy, tokens gather, and
a stream that falls behind takes several at once. With many replies under way it also waits a little for more,
the longer the more there are: a frame costs as much with one token as with six.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable

from publius.inference.engine import Engine
from publius.inference.request import Request
from publius.serve.errors import ApiError, api_error

__all__ = ["Generation", "Worker"]

_IDLE = 10.0
"""Seconds after which a reader is woken though nothing has come."""
_CROWD, _EACH, _LONGEST = 32, 0.0015, 0.3
"""With more replies under way than this, their readers are woken at most once in so many seconds for each of
them, and never more rarely than the last."""
_log = logging.getLogger("publius.serve")


class Generation:
    """A request of the engine, as the event loop sees it.

    Args:
        request: it.
        gathers: as `Worker.submit`.
    """

    def __init__(self, request: Request, gathers: int = 1) -> None:
        self.request, self.gathers = request, gathers
        self.error: ApiError | None = None
        self._event = asyncio.Event()
        self._alarm: asyncio.TimerHandle | None = None
        self._seen = 0
        """Tokens the worker's thread has told of."""

    @property
    def over(self) -> bool:
        """Whether nothing more comes."""
        return self.error is not None or self.request.stop_reason is not None

    def fail(self, error: ApiError) -> None:
        """End it for whoever reads; on the event loop."""
        if self.error is None:
            self.error = error
            self._event.set()

    async def progress(self) -> AsyncGenerator[None, None]:
        """Yields when there may be new tokens in `request.tokens`, a last time when it is over; and now and
        then when there are none.

        Raises:
            ApiError: what ended it.
        """
        loop = asyncio.get_running_loop()
        try:
            while True:
                if self._alarm is None:  # one for many tokens: setting it costs more than reading one
                    self._alarm = loop.call_later(_IDLE, self._ring)
                await self._event.wait()
                self._event.clear()
                if self.error is not None:
                    raise self.error
                over = self.request.stop_reason is not None
                yield
                if over:
                    return
        finally:
            if self._alarm is not None:
                self._alarm.cancel()

    def _ring(self) -> None:
        self._alarm = None
        self._event.set()


class Worker:
    """Steps `engine` while there is something to do.

    Args:
        engine: nobody else steps it from now on.
        most_waiting: requests beyond the engine's rows that may wait; more are refused.
    """

    def __init__(self, engine: Engine, *, most_waiting: int = 256) -> None:
        self.engine, self.most_waiting = engine, most_waiting
        self.active: set[Generation] = set()
        """On the event loop: those that have not been read to their end."""
        self._running: set[Generation] = set()  # on the thread
        self._inbox: deque[Callable[[], None]] = deque()
        self._work = threading.Event()
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._posted = False
        self._delivered = 0.0
        self._dirty: set[Generation] = set()
        self._lock = threading.Lock()  # of `_dirty`, `_posted` and `_closed`
        self._thread = threading.Thread(target=self._run, name="publius-engine", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Requests without a row of the engine."""
        return max(0, len(self.active) - self.engine.max_batch)

    def submit(self, request: Request, *, gathers: int = 1) -> Generation:
        """Give a request to the engine; what is wrong with it comes out of `Generation.progress`.

        Args:
            request: what is to be done.
            gathers: behind the first token its reader is woken once for so many, and at the end.

        Raises:
            ApiError: overloaded, when as many of its priority or a higher one wait as may, and once it is
                closed: who got hold of it before a new release took its place asks again, and finds that one.
        """
        most = self.engine.max_batch + self.most_waiting
        if len(self.active) >= most and self._ahead(request) >= most:
            raise ApiError(
                "overloaded_error",
                f"{self.waiting} requests are waiting already",
                headers={"retry-after": "1", "x-should-retry": "true"},
            )
        self._loop = asyncio.get_running_loop()
        generation = Generation(request, gathers)
        with self._lock:  # the thread does not end between the look and the post
            if self._closed:
                raise ApiError(
                    "overloaded_error",
                    "this model has just been closed; try again",
                    headers={"retry-after": "1", "x-should-retry": "true"},
                )
            self._post(lambda: self._start(generation))
        self.active.add(generation)
        return generation

    def _ahead(self, request: Request) -> int:
        """Requests that do not come behind this one: a batch must not fill the queue that others wait in."""
        return sum(one.request.priority >= request.priority for one in self.active)

    def release(self, generation: Generation) -> None:
        """Its reader is done with it; a request that still runs is cancelled, and its pages are free."""
        self.active.discard(generation)
        if generation.request.stop_reason is None:
            self._post(lambda: self.engine.cancel(generation.request))

    async def call(self, function: Callable[[], object]) -> None:
        """Run something on the worker's thread between two steps, and wait for it."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def run() -> None:
            try:
                function()
            except Exception as error:
                loop.call_soon_threadsafe(_settle, done, error)
            else:
                loop.call_soon_threadsafe(_settle, done, None)

        self._post(run)
        await done

    def close(self) -> None:
        """End the thread once what runs has ended; nothing new is taken."""
        with self._lock:
            self._closed = True
        self._work.set()

    def _post(self, action: Callable[[], None]) -> None:
        self._inbox.append(action)
        self._work.set()

    # ---- on the thread ----

    def _run(self) -> None:
        while True:
            while self._inbox:
                self._inbox.popleft()()
            if not self._running:
                with self._lock:
                    if self._closed and not self._inbox:
                        return
                self._work.wait()
                self._work.clear()
                continue
            try:
                self.engine.step()
            except Exception as error:  # one bad step must not end all service
                _log.exception("a step of the engine failed")
                for generation in self._running:
                    self.engine.cancel(generation.request)
                self._tell(self._running, error)
                self._running.clear()
                continue
            self._look()

    def _start(self, generation: Generation) -> None:
        if generation.request.stop_reason is not None:  # released before it began
            return
        try:
            self.engine.enqueue(generation.request)
        except Exception as error:
            generation.request.stop_reason = "error"
            self._tell({generation}, error)
        else:
            self._running.add(generation)

    def _look(self) -> None:
        """Who has something new to read."""
        changed: set[Generation] = set()
        for generation in self._running:
            request, seen = generation.request, generation._seen
            new = len(request.tokens) - seen
            if request.stop_reason is not None or new >= (generation.gathers if seen else 1):
                generation._seen = len(request.tokens)
                changed.add(generation)
        over = {generation for generation in changed if generation.request.stop_reason is not None}
        self._running -= over
        failed = {generation for generation in over if generation.request.error is not None}
        for generation in failed:
            self._tell({generation}, generation.request.error)
        if changed - failed:
            self._tell(changed - failed, None)

    def _tell(self, generations: set[Generation], error: Exception | None) -> None:
        """Wake who reads them, on the loop."""
        loop = self._loop
        if loop is None or loop.is_closed():
            return
        if error is not None:
            told = api_error(error)
            gone = tuple(generations)
            loop.call_soon_threadsafe(lambda: [generation.fail(told) for generation in gone])
            return
        with self._lock:
            self._dirty |= generations
            if self._posted:
                return
            self._posted = True
        loop.call_soon_threadsafe(self._arrange)

    def _arrange(self) -> None:
        """Deliver now, or in a moment when there is a crowd."""
        many = len(self.active)
        gather = min(many * _EACH, _LONGEST) if many > _CROWD else 0.0
        if (wait := self._delivered + gather - time.monotonic()) > 0:
            asyncio.get_running_loop().call_later(wait, self._deliver)
        else:
            self._deliver()

    def _deliver(self) -> None:
        self._delivered = time.monotonic()
        with self._lock:
            dirty, self._dirty, self._posted = self._dirty, set(), False
        for generation in dirty:
            generation._event.set()


def _settle(future: asyncio.Future[None], error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
