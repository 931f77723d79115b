"""Batches are worked off: everything once, in turn, whatever fails or is killed."""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from publius.serve.errors import ApiError
from publius.serve.messages.batch_runner import ItemRunner, Run
from publius.serve.store import Batch, BatchItem, Store

POLL = 0.01


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(f"sqlite:///{tmp_path / 'store.db'}") as opened:
        yield opened


def make(store: Store, count: int, **params: Any) -> Batch:
    requests = [(f"r{number}", {"n": number, **params}) for number in range(count)]
    return store.batches.create(requests, key_id="key_a", version="", now=0.0, expires=100.0)


async def echo(item: BatchItem, asked: str) -> dict[str, Any]:
    await asyncio.sleep(0)
    return {"n": item.params["n"], "asked": asked}


def runner(store: Store, run: Run, **options: Any) -> ItemRunner:
    return ItemRunner(store, run, **{"in_flight": 4, "clock": lambda: 50.0, "poll": POLL, **options})


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(POLL)


def running(
    store: Store, run: Run, work: Callable[[], Awaitable[None]] | None = None, **options: Any
) -> None:
    """Start a runner, do `work`, wait until every batch has ended, and stop it."""

    async def main() -> None:
        one = runner(store, run, **options)
        await one.start()
        try:
            if work is not None:
                await work()
            await until(lambda: not store.batches.unfinished())
        finally:
            await one.stop()

    asyncio.run(main())


def outcomes(store: Store, batch: Batch) -> Counter[str]:
    return Counter(result["type"] for _, result in store.batches.results(batch.number))


def test_every_request_gets_its_own_result(store: Store) -> None:
    batch = make(store, 60)
    running(store, echo)
    found = dict(store.batches.results(batch.number))
    assert {name: result["message"]["n"] for name, result in found.items()} == {
        f"r{number}": number for number in range(60)
    }
    asked = {result["message"]["asked"] for result in found.values()}
    assert len(asked) == 60 and all(id.startswith("req_") for id in asked)
    ended = store.batches.get(batch.id)
    assert ended is not None and ended.ended == 50.0 and ended.counts == {"succeeded": 60}


def test_no_more_are_under_way_than_asked_and_batches_take_turns(store: Store) -> None:
    batches = [make(store, 20), make(store, 20)]
    live, most, begun, full = 0, 0, [], asyncio.Event()

    async def run(item: BatchItem, asked: str) -> dict[str, Any]:
        nonlocal live, most
        begun.append(item.batch)
        live += 1
        most = max(most, live)
        if live == 6:
            full.set()
        await full.wait()  # however slowly they are begun, so many are under way at once
        await asyncio.sleep(0.001)
        live -= 1
        return {}

    running(store, run, in_flight=6)
    assert most == 6 and Counter(begun) == {batch.number: 20 for batch in batches}
    assert 5 <= begun[:20].count(batches[0].number) <= 15, "the second does not wait for the first"


def test_a_failure_is_the_result_of_its_request_alone(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    batch = make(store, 3)

    async def run(item: BatchItem, asked: str) -> dict[str, Any]:
        if item.params["n"] == 0:
            raise ApiError("invalid_request_error", "max_tokens: no", details={"error_code": "x"})
        if item.params["n"] == 1:
            raise ZeroDivisionError("a secret of the inside")
        return {"asked": asked}

    with caplog.at_level(logging.CRITICAL, "publius.serve"):
        running(store, run)
    first, second, third = (result for _, result in store.batches.results(batch.number))
    assert first["type"] == second["type"] == "errored" and third["type"] == "succeeded"
    assert first["error"]["error"] == {
        "type": "invalid_request_error", "message": "max_tokens: no", "details": {"error_code": "x"},
    }  # fmt: skip
    assert first["error"]["type"] == "error" and first["error"]["request_id"].startswith("req_")
    assert second["error"]["error"]["type"] == "api_error" and "secret" not in str(second)


def test_a_full_server_is_asked_again(store: Store) -> None:
    batch, tries = make(store, 5), Counter[str]()

    async def run(item: BatchItem, asked: str) -> dict[str, Any]:
        tries[item.custom_id] += 1
        if tries[item.custom_id] < 4:
            raise ApiError("overloaded_error", "too many")
        return {}

    running(store, run)
    assert outcomes(store, batch) == {"succeeded": 5} and set(tries.values()) == {4}


def test_what_runs_out_of_time_three_times_has_failed(store: Store) -> None:
    batch, tries = make(store, 1), 0

    async def run(item: BatchItem, asked: str) -> dict[str, Any]:
        nonlocal tries
        tries += 1
        raise ApiError("timeout_error", "too slow")

    running(store, run)
    assert outcomes(store, batch) == {"errored": 1} and tries == 3


def test_cancelling_lets_finish_what_is_under_way(store: Store) -> None:
    batch, release, begun = make(store, 10), asyncio.Event(), []

    async def run(item: BatchItem, asked: str) -> dict[str, Any]:
        begun.append(item.position)
        await release.wait()
        return {}

    async def work() -> None:
        await until(lambda: len(begun) == 4)
        store.batches.cancel(batch, 50.0)
        await until(lambda: outcomes(store, batch)["canceled"] == 6)
        now = store.batches.get(batch.id)
        assert now is not None and now.status == "canceling"
        release.set()

    running(store, run, work)
    assert outcomes(store, batch) == {"canceled": 6, "succeeded": 4} and len(begun) == 4


def test_what_is_not_done_in_time_expires_even_under_way(store: Store) -> None:
    batch, now, begun = make(store, 10), 50.0, []

    async def run(item: BatchItem, asked: str) -> dict[str, Any]:
        begun.append(item.position)
        if item.position < 3:
            return {}
        await asyncio.Event().wait()
        return {}

    async def work() -> None:
        nonlocal now
        await until(lambda: len(begun) == 7)
        await until(lambda: outcomes(store, batch)["succeeded"] == 3)
        now = 100.0

    running(store, run, work, clock=lambda: now)
    assert outcomes(store, batch) == {"succeeded": 3, "expired": 7}


def test_a_stopped_runner_leaves_the_rest_to_the_next(store: Store) -> None:
    batch, begun = make(store, 12), []

    async def stuck(item: BatchItem, asked: str) -> dict[str, Any]:
        begun.append(item.position)
        if item.position % 2:
            await asyncio.Event().wait()
        return {}

    async def main() -> None:
        one = runner(store, stuck)
        await one.start()
        await until(lambda: len(begun) >= 7)
        await one.stop()

    asyncio.run(main())
    assert outcomes(store, batch)["succeeded"] < 12
    running(store, echo)
    assert outcomes(store, batch) == {"succeeded": 12}


def test_two_runners_do_nothing_twice(store: Store) -> None:
    batch, ran = make(store, 200), Counter[int]()

    async def run(item: BatchItem, asked: str) -> dict[str, Any]:
        ran[item.position] += 1
        await asyncio.sleep(0)
        return {}

    async def main() -> None:
        both = [runner(store, run), runner(store, run)]
        for one in both:
            await one.start()
        await until(lambda: sum(ran.values()) > 50)
        await both[0].stop()  # whichever leads, the other goes on
        await until(lambda: not store.batches.unfinished())
        await both[1].stop()

    asyncio.run(main())
    assert outcomes(store, batch) == {"succeeded": 200}
    assert sum(ran.values()) <= 204, "at most what was under way at the stop ran again"


def test_kill_9_during_a_thousand_loses_nothing_and_repeats_nothing(store: Store, tmp_path: Path) -> None:
    batch = make(store, 1000)
    program = """
import asyncio, os, signal, sys
from publius.serve.messages.batch_runner import ItemRunner
from publius.serve.store import Store

left = 300

async def run(item, asked):
    global left
    left -= 1
    if not left:  # others of the eight are being written at this moment
        os.kill(os.getpid(), signal.SIGKILL)
    await asyncio.sleep(0)
    return {"asked": asked}

async def main():
    runner = ItemRunner(Store.open(sys.argv[1]), run, in_flight=8, clock=lambda: 50.0)
    await runner.start()
    await asyncio.Event().wait()

asyncio.run(main())
"""
    killed: dict[str, Any] = {}
    for _ in range(2):
        child = subprocess.run(
            [sys.executable, "-c", program, f"sqlite:///{tmp_path / 'store.db'}"], timeout=240
        )
        assert child.returncode == -signal.SIGKILL
        kept = dict(store.batches.results(batch.number))
        assert killed.items() <= kept.items() and len(kept) >= len(killed) + 300 - 8
        killed = kept
    assert len(killed) < 1000
    running(store, echo, in_flight=16)
    found = list(store.batches.results(batch.number))
    assert sorted(name for name, _ in found) == sorted(f"r{number}" for number in range(1000))
    assert killed.items() <= dict(found).items(), "a result that was there is not made again"


def test_a_store_that_is_away_for_a_moment_fails_no_request(store: Store) -> None:
    batch, away = make(store, 6), [OperationalError("SELECT", {}, Exception("restarting"))] * 3

    async def run(item: BatchItem, asked: str) -> dict[str, Any]:
        if away:
            raise away.pop()
        return await echo(item, asked)

    running(store, run)
    assert outcomes(store, batch) == {"succeeded": 6}
