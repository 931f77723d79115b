"""The thread that steps an engine."""

from __future__ import annotations

import asyncio
import threading

import pytest

from publius.inference.engine import Request, Sampling
from publius.serve.errors import ApiError
from publius.serve.worker import Worker
from publius.testing.fakes import byte_tokenizer, fake_engine

PROMPT = byte_tokenizer().encode("hello")


async def tokens_of(worker: Worker, request: Request) -> list[int]:
    generation = worker.submit(request)
    try:
        async for _ in generation.progress():
            pass
    finally:
        worker.release(generation)
    return list(request.tokens)


def test_many_at_once_say_what_each_says_alone():
    alone = [fake_engine().generate([PROMPT], Sampling(max_tokens=20, seed=i))[0].tokens for i in range(12)]
    worker = Worker(fake_engine(max_batch=4))

    async def together() -> list[list[int]]:
        asked = [Request(PROMPT, Sampling(max_tokens=20, seed=i)) for i in range(12)]
        return await asyncio.gather(*(tokens_of(worker, one) for one in asked))

    assert [tuple(found) for found in asyncio.run(together())] == alone
    worker.close()


def test_a_reader_who_waits_for_several_tokens_is_woken_for_the_first_and_then_no_more_often():
    worker = Worker(fake_engine())

    async def woken(gathers: int) -> tuple[int, list[int]]:
        request = Request(PROMPT, Sampling(max_tokens=40, temperature=1.0, seed=0))
        generation, read, times = worker.submit(request, gathers=gathers), list[int](), 0
        async for _ in generation.progress():
            times += generation._alarm is not None  # else the clock woke it, not the engine
            read = list(request.tokens)
        worker.release(generation)
        return times, read

    (many, each), (few, gathered) = asyncio.run(woken(1)), asyncio.run(woken(8))
    assert gathered == each, "all of it, in the end"
    assert few <= 2 + len(each) // 8 and many <= len(each) + 1
    worker.close()


def test_what_the_engine_refuses_reaches_its_reader_and_nobody_else():
    worker = Worker(fake_engine())

    async def both() -> tuple[object, list[int]]:
        bad, good = Request([9999], Sampling(max_tokens=4)), Request(PROMPT, Sampling(max_tokens=4, seed=0))
        found = await asyncio.gather(tokens_of(worker, bad), tokens_of(worker, good), return_exceptions=True)
        assert isinstance(found[1], list)
        return found[0], found[1]

    error, tokens = asyncio.run(both())
    assert isinstance(error, ApiError) and error.type == "invalid_request_error"
    assert len(tokens) >= 1
    worker.close()


def test_a_reader_that_leaves_frees_pages_at_once_and_the_thread_ends():
    worker = Worker(fake_engine())

    async def leave() -> None:
        generation = worker.submit(Request(PROMPT, Sampling(max_tokens=400, temperature=1.0)))
        async for _ in generation.progress():
            break
        worker.release(generation)
        await worker.call(lambda: None)

    asyncio.run(leave())
    assert worker.engine.stats.pages == 0 and not worker.active
    worker.close()
    worker._thread.join(10)
    assert not worker._thread.is_alive()


def test_a_step_that_fails_ends_its_requests_and_not_the_service(monkeypatch: pytest.MonkeyPatch):
    engine = fake_engine()
    worker, step = Worker(engine), engine.step
    failing = iter([True])

    def sometimes() -> bool:
        if next(failing, False):
            raise RuntimeError("a step of the test's own")
        return step()

    monkeypatch.setattr(engine, "step", sometimes)

    async def one_after_another() -> tuple[str, int]:
        with pytest.raises(ApiError) as caught:
            await tokens_of(worker, Request(PROMPT, Sampling(max_tokens=4, seed=0)))
        return caught.value.type, len(
            await tokens_of(worker, Request(PROMPT, Sampling(max_tokens=4, seed=0)))
        )

    kind, length = asyncio.run(one_after_another())
    assert kind == "api_error" and length >= 1
    worker.close()


def test_a_closed_worker_writes_its_replies_and_takes_nothing_new():
    worker = Worker(fake_engine())

    async def straddle() -> list[int]:
        begun = asyncio.ensure_future(tokens_of(worker, Request(PROMPT, Sampling(max_tokens=20, seed=0))))
        while not worker.active:
            await asyncio.sleep(0)
        worker.close()
        with pytest.raises(ApiError) as caught:
            worker.submit(Request(PROMPT, Sampling(max_tokens=1)))
        assert caught.value.type == "overloaded_error" and caught.value.headers["retry-after"]
        return await begun

    assert asyncio.run(asyncio.wait_for(straddle(), 30)) and not worker.active
    worker._thread.join(10)
    assert not worker._thread.is_alive()


def test_what_is_taken_while_a_worker_is_closed_is_answered():
    async def race(worker: Worker) -> list[object]:
        closing = threading.Thread(target=worker.close)
        asked = [tokens_of(worker, Request(PROMPT, Sampling(max_tokens=2, seed=0))) for _ in range(3)]
        closing.start()
        return await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 30)

    for _ in range(50):
        for found in asyncio.run(race(Worker(fake_engine()))):
            assert isinstance(found, list) or (
                isinstance(found, ApiError) and found.type == "overloaded_error"
            )


def test_more_than_may_wait_are_refused():
    worker = Worker(fake_engine(max_batch=1), most_waiting=1)

    async def crowd() -> None:
        held = [worker.submit(Request(PROMPT, Sampling(max_tokens=300))) for _ in range(2)]
        with pytest.raises(ApiError) as caught:
            worker.submit(Request(PROMPT, Sampling(max_tokens=1)))
        assert caught.value.type == "overloaded_error" and caught.value.headers["retry-after"]
        for generation in held:
            worker.release(generation)
        await worker.call(lambda: None)

    asyncio.run(crowd())
    worker.close()


def test_a_batch_does_not_fill_the_queue_that_others_wait_in():
    worker = Worker(fake_engine(max_batch=1), most_waiting=1)

    async def crowded() -> None:
        behind = [Request(PROMPT, Sampling(max_tokens=20), priority=-1) for _ in range(3)]
        started = [worker.submit(one) for one in behind[:2]]
        with pytest.raises(ApiError, match="waiting already"):
            worker.submit(behind[2])
        before = [Request(PROMPT, Sampling(max_tokens=20)) for _ in range(3)]
        started += [worker.submit(one) for one in before[:2]]
        with pytest.raises(ApiError, match="waiting already"):
            worker.submit(before[2])
        for one in started:
            worker.release(one)

    asyncio.run(crowded())
    worker.close()
