"""What dialects do alike with an exchange: wait for its beginning, or for all of it while the client does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from typing import TypeVar

from starlette.requests import Request

from publius.serve.errors import ClientGone
from publius.serve.exchange import Ask
from publius.serve.guard import Caller
from publius.serve.server import Reply, Server

__all__ = ["begun", "unless_gone", "whole"]

T = TypeVar("T")

_LOOK = 0.5
"""Seconds between two looks whether the client is still there."""


async def begun(request: Request, events: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """The same events, once the first has come: what is refused before it still has a status of its own, and
    a client that leaves before it gives up its place in the queue.

    Raises:
        ApiError, UserError: as `Server.exchange` before its first event, and as `unless_gone`.
    """
    try:
        first = await unless_gone(request, anext(events))
    except BaseException:
        await events.aclose()
        raise

    async def rest() -> AsyncGenerator[T, None]:
        try:
            yield first
            async for event in events:
                yield event
        finally:
            await events.aclose()

    return rest()


async def whole(request: Request, server: Server, ask: Ask, caller: Caller, request_id: str) -> Reply:
    """The whole reply; nothing goes on being computed for a client that has left.

    Raises:
        ApiError, UserError: as `Server.exchange`.
    """
    return await unless_gone(request, server.collect(ask, caller, request_id))


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """What comes of `work`, which is cancelled, and has ended, when the client has left.

    Raises:
        ClientGone: which nobody reads any more, when it has left; else what `work` raises.
    """
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({task}, timeout=_LOOK))[0]:
            if await request.is_disconnected():
                raise ClientGone
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
