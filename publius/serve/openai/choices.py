"""Several replies to one request at once: all of them, or piece by piece as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from typing import Any, NamedTuple, TypeVar

from publius.serve.exchange import Event, Usage

__all__ = ["AT_ONCE", "at_once", "merged", "together", "usage_of"]

AT_ONCE = 32
"""Replies of one request under way at once: the others wait here, not in the queue that all share."""

T = TypeVar("T")


def at_once(rows: int) -> int:
    """How many replies of one request may be under way where an engine has so many rows: more would have to
    wait in the queue, which may be too short for them even when nobody else asks."""
    return min(AT_ONCE, rows)


async def together(works: Sequence[Coroutine[Any, Any, T]], most: int = AT_ONCE) -> list[T]:
    """The results in order, `most` under way at once; when one fails, or the caller is cancelled, the others
    are cancelled too."""
    gate = asyncio.Semaphore(most)

    async def one(work: Coroutine[Any, Any, T]) -> T:
        async with gate:
            return await work

    tasks = [asyncio.ensure_future(one(work)) for work in works]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        await _end(tasks)
        for work in works:  # those that never began
            work.close()


class _Came(NamedTuple):
    """An event of a stream; None when it is over."""

    stream: int
    event: Event | None = None
    error: BaseException | None = None


async def merged(
    streams: Sequence[AsyncGenerator[Event, None]], most: int = AT_ONCE
) -> AsyncGenerator[tuple[int, Event], None]:
    """Events of all streams as they come, `most` under way at once, each with its stream's number; when one
    fails all are closed, and whoever stops reading closes them too."""
    if len(streams) == 1:
        try:
            async for event in streams[0]:
                yield 0, event
        finally:
            await streams[0].aclose()
        return
    came: asyncio.Queue[_Came] = asyncio.Queue(maxsize=256)
    gate = asyncio.Semaphore(most)

    async def pump(index: int) -> None:
        error: BaseException | None = None
        try:
            async with gate:
                async for event in streams[index]:
                    await came.put(_Came(index, event))
        except Exception as failed:
            error = failed
        finally:
            await streams[index].aclose()
        await came.put(_Came(index, None, error))

    tasks = [asyncio.ensure_future(pump(index)) for index in range(len(streams))]
    try:
        left = len(streams)
        while left:
            index, event, error = await came.get()
            if error is not None:
                raise error
            if event is None:
                left -= 1
            else:
                yield index, event
    finally:
        await _end(tasks)


async def _end(tasks: Sequence[asyncio.Future[Any]]) -> None:
    """Cancel what still runs, and wait until it has let go of what it held."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def usage_of(used: Sequence[tuple[int, Usage]]) -> dict[str, Any]:
    """`usage` of a response.

    Args:
        used: of every reply the number of its prompt and its usage. A prompt counts once, however many
            replies it got, and as reused only as far as the first of them found it read.
    """
    prompts: dict[int, Usage] = {}
    for number, usage in used:
        known = prompts.get(number)
        if known is None or usage.reused < known.reused:
            prompts[number] = usage
    read = sum(usage.prompt for usage in prompts.values())
    written = sum(usage.output for _, usage in used)
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": {"cached_tokens": sum(usage.reused for usage in prompts.values())},
        "completion_tokens_details": {"reasoning_tokens": sum(usage.thinking for _, usage in used)},
    }
