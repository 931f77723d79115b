"""Batches in either database: made whole, each item finished once."""

from __future__ import annotations

import threading

import pytest

from publius.core.errors import UserError
from publius.serve.store import Batch, Store


def make(store: Store, count: int, key_id: str = "key_a") -> Batch:
    requests = [(f"r{number}", {"n": number, "text": "\0\ud800 é"}) for number in range(count)]
    return store.batches.create(requests, key_id=key_id, version="2023-06-01", now=10.5, expires=20.25)


def test_a_batch_comes_back_as_it_was_made(store: Store) -> None:
    batch = make(store, 1203)
    assert store.batches.get(batch.id) == batch
    assert (batch.total, batch.created, batch.expires, batch.version) == (1203, 10.5, 20.25, "2023-06-01")
    assert batch.counts == {"waiting": 1203} and batch.status == "in_progress"
    first, second = store.batches.waiting(batch.number, after=100, limit=2)
    assert (first.position, second.position, first.custom_id, first.key_id) == (101, 102, "r101", "key_a")
    assert first.params == {"n": 101, "text": "\0\ud800 é"}


def test_a_batch_that_fails_half_way_is_not_there(store: Store) -> None:
    requests = [(f"r{number % 700}", {}) for number in range(1000)]  # an id used twice, in the second half
    with pytest.raises(Exception, match=r"(?i)unique"):
        store.batches.create(requests, key_id="", version="", now=0.0, expires=1.0)
    assert store.batches.page(None, limit=10) == ([], False)


def test_each_item_is_finished_once_whoever_tries(store: Store) -> None:
    batch = make(store, 40)
    items = store.batches.waiting(batch.number, after=-1, limit=100)
    wins: list[tuple[int, int]] = []

    def race(me: int) -> None:
        for item in items:
            if store.batches.finish(item, "succeeded", {"type": "succeeded", "message": {"by": me}}):
                wins.append((item.position, me))

    threads = [threading.Thread(target=race, args=(me,)) for me in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(position for position, _ in wins) == list(range(40))
    kept = [result["message"]["by"] for _, result in store.batches.results(batch.number)]
    assert kept == [me for _, me in sorted(wins)]


def test_a_batch_ends_when_nothing_waits_and_only_then_can_be_deleted(store: Store) -> None:
    batch = make(store, 2)
    first, second = store.batches.waiting(batch.number, after=-1, limit=2)
    assert store.batches.finish(first, "errored", {"type": "errored"})
    assert not store.batches.end(batch.number, 12.0) and not store.batches.delete(batch)
    assert store.batches.finish(second, "succeeded", {"type": "succeeded"})
    assert [each.id for each in store.batches.unfinished()] == [batch.id]
    assert store.batches.end(batch.number, 13.0) and not store.batches.end(batch.number, 14.0)
    ended = store.batches.get(batch.id)
    assert ended is not None and (ended.status, ended.ended) == ("ended", 13.0)
    assert ended.counts == {"errored": 1, "succeeded": 1} and store.batches.unfinished() == []
    assert store.batches.cancel(ended, 15.0) == ended
    assert store.batches.delete(ended) and store.batches.get(batch.id) is None
    assert not store.batches.finish(second, "succeeded", {}) and not store.batches.delete(ended)
    assert list(store.batches.results(batch.number)) == []


def test_cancelling_closes_what_waits_but_for_what_is_under_way(store: Store) -> None:
    batch = make(store, 5)
    asked = store.batches.cancel(batch, 11.0)
    assert (asked.status, asked.cancel_initiated) == ("canceling", 11.0)
    assert store.batches.cancel(asked, 12.0).cancel_initiated == 11.0
    assert store.batches.close_waiting(batch.number, "canceled", busy=[1, 3]) == 3
    assert not store.batches.end(batch.number, 12.0)
    for item in store.batches.waiting(batch.number, after=-1, limit=9):
        assert store.batches.finish(item, "succeeded", {"type": "succeeded"})
    assert store.batches.end(batch.number, 12.0)
    kinds = [result["type"] for _, result in store.batches.results(batch.number)]
    assert kinds == ["canceled", "succeeded", "canceled", "succeeded", "canceled"]


def test_pages_go_both_ways_and_show_ones_own(store: Store) -> None:
    mine = [make(store, 1, "key_a").id for _ in range(5)]
    other = make(store, 1, "key_b").id

    def ids(**where: object) -> tuple[list[int], bool]:
        page, more = store.batches.page("key_a", **where)  # pyright: ignore[reportArgumentType]
        return [mine.index(batch.id) for batch in page], more

    assert ids(limit=2) == ([4, 3], True) and ids(limit=5) == ([4, 3, 2, 1, 0], False)
    assert ids(limit=2, after=mine[3]) == ([2, 1], True) and ids(limit=2, after=mine[2]) == ([1, 0], False)
    assert ids(limit=2, before=mine[1]) == ([3, 2], True) and ids(limit=2, before=mine[2]) == ([4, 3], False)
    assert ids(limit=2, after=mine[0]) == ([], False)
    everyone, _ = store.batches.page(None, limit=100)
    assert [batch.id for batch in everyone] == [other, *mine[::-1]]
    assert store.batches.get(other, "key_a") is None and store.batches.get(other, "key_b") is not None
    for strange in (other, "msgbatch_unknown", "\0", "é", "a" * 1000):
        with pytest.raises(UserError, match="there is no such batch"):
            ids(limit=2, after=strange)
