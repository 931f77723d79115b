"""Several replies at once: order, failures, and nothing left running."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from publius.serve.errors import ApiError
from publius.serve.exchange import Began, Event, Usage
from publius.serve.openai.choices import AT_ONCE, at_once, merged, together, usage_of


class Streams:
    """Streams of events, and how many of them are open."""

    def __init__(self) -> None:
        self.open = self.most = 0

    async def stream(self, count: int, *, fails: bool = False) -> AsyncGenerator[Event, None]:
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            for number in range(count):
                await asyncio.sleep(0)
                yield Began(Usage(number))
            if fails:
                raise ApiError("overloaded_error", "full")
        finally:
            self.open -= 1


@pytest.mark.parametrize("streams", [1, 3, 100])
def test_every_event_comes_once_and_in_its_streams_order(streams: int) -> None:
    made = Streams()

    async def read() -> list[list[int]]:
        found: list[list[int]] = [[] for _ in range(streams)]
        async for index, event in merged([made.stream(index % 5) for index in range(streams)]):
            assert isinstance(event, Began)
            found[index].append(event.usage.input)
        return found

    assert asyncio.run(read()) == [list(range(index % 5)) for index in range(streams)]
    assert made.open == 0 and made.most <= AT_ONCE


@pytest.mark.parametrize("streams", [1, 40])
def test_one_failure_ends_all(streams: int) -> None:
    made = Streams()

    async def read() -> None:
        rest = [made.stream(100_000) for _ in range(streams - 1)]
        async for _ in merged([made.stream(2, fails=True), *rest]):
            pass

    with pytest.raises(ApiError, match="full"):
        asyncio.run(read())
    assert made.open == 0


@pytest.mark.parametrize("streams", [1, 40])
def test_who_stops_reading_closes_all(streams: int) -> None:
    made = Streams()

    async def read() -> None:
        events = merged([made.stream(100_000) for _ in range(streams)])
        await anext(events)
        await events.aclose()
        assert made.open == 0

    asyncio.run(read())


def test_works_together_in_order_and_none_is_left() -> None:
    running = 0

    async def work(number: int) -> int:
        nonlocal running
        running += 1
        try:
            await asyncio.sleep(0 if number % 2 else 0.001)
            if number == 99:
                raise ApiError("api_error", "no")
            return number
        finally:
            running -= 1

    assert asyncio.run(together([work(number) for number in range(50)])) == list(range(50))
    with pytest.raises(ApiError):
        asyncio.run(together([work(99), *(work(number) for number in range(80))]))
    assert running == 0


def test_a_prompt_counts_once() -> None:
    used = [
        (0, Usage(3, reused=0, output=4)),
        (0, Usage(3, reused=2, output=5, thinking=1)),
        (1, Usage(7, output=1)),
    ]
    assert usage_of(used) == {
        "prompt_tokens": 10,
        "completion_tokens": 10,
        "total_tokens": 20,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 1},
    }


def test_no_more_are_under_way_than_an_engine_has_rows_for() -> None:
    assert (at_once(4), at_once(64)) == (4, AT_ONCE)
    made = Streams()

    async def read() -> int:
        return len([None async for _ in merged([made.stream(3) for _ in range(20)], at_once(4))])

    assert asyncio.run(read()) == 60 and made.most == 4
    under = most = 0

    async def work() -> None:
        nonlocal under, most
        under += 1
        most = max(most, under)
        await asyncio.sleep(0.001)
        under -= 1

    asyncio.run(together([work() for _ in range(20)], at_once(3)))
    assert most == 3
