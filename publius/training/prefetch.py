"""The next batch is made while the present one trains."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, Self, TypeVar

from publius.training.batches import BatchSource

__all__ = ["Prefetched"]

B = TypeVar("B")


class Prefetched(Generic[B]):
    """A source that draws one batch ahead, in a thread of its own, until `count` are drawn.

    Its state is the place of the batch not yet handed out, whether that is drawn already or not, so a
    resumed run sees the same batches. Close it (it is a context manager) to have the source to yourself.

    Args:
        source: used by nobody else meanwhile.
        count: batches that will be asked for; none is drawn beyond them.
        prepare: what else to do with a batch in the thread (pin it, start its copy to a device).
    """

    def __init__(self, source: BatchSource[B], count: int, prepare: Callable[[B], B] | None = None) -> None:
        self._source, self._left, self._prepare = source, count, prepare
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="publius-batches")
        self._ahead: Future[B] | None = None
        self._place = source.state()

    def next(self) -> B:
        """The next batch; what went wrong while making it is raised here."""
        batch = self._draw() if self._ahead is None else self._ahead.result()
        self._left -= 1
        self._place = self._source.state()  # the thread rests now
        self._ahead = self._thread.submit(self._draw) if self._left > 0 else None
        return batch

    def _draw(self) -> B:
        batch = self._source.next()
        return batch if self._prepare is None else self._prepare(batch)

    def state(self) -> dict[str, int]:
        """The place of the next batch that `next` returns."""
        return self._place

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Wait for the thread; a batch drawn ahead is lost."""
        self._thread.shutdown(cancel_futures=True)
