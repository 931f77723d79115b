"""A reply begins before its response does, and its source is closed with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from publius.serve.errors import ApiError
from publius.serve.exchange import Began, Ended, Event, Usage
from publius.serve.replies import begun

EVENTS: list[Event] = [Began(Usage(1)), Ended("end_turn", Usage(1, output=1))]


async def source(closed: list[bool], *, refused: bool = False) -> AsyncGenerator[Event, None]:
    try:
        if refused:
            raise ApiError("overloaded_error", "too many")
        for event in EVENTS:
            yield event
    finally:
        closed.append(True)


def test_what_is_refused_is_raised_before_there_is_a_stream() -> None:
    closed: list[bool] = []
    with pytest.raises(ApiError, match="too many"):
        asyncio.run(begun(source(closed, refused=True)))
    assert closed


def test_all_events_come() -> None:
    async def read() -> list[Event]:
        return [event async for event in await begun(source([]))]

    assert asyncio.run(read()) == EVENTS


@pytest.mark.parametrize("read", [0, 1])
def test_closing_closes_the_source(read: int) -> None:
    closed: list[bool] = []

    async def leave() -> None:
        events = await begun(source(closed))
        for _ in range(read):
            await anext(events)
        assert not closed
        await events.aclose()

    asyncio.run(leave())
    assert closed == [True]
