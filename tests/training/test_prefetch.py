"""Drawn ahead, handed out in order, with the place of what was not handed out yet."""

import threading

import pytest

from publius.training.batches import ShuffledBatches
from publius.training.prefetch import Prefetched


def source():
    return ShuffledBatches(list(range(10)), tuple, rows=3, seed=1)


def test_same_batches_and_a_state_that_continues_them():
    plain = source()
    wanted = [plain.next() for _ in range(9)]
    for stop in range(9):
        with Prefetched(source(), 9) as ahead:
            assert [ahead.next() for _ in range(stop)] == wanted[:stop]
            place = ahead.state()
        again = source()
        again.restore(place)
        with Prefetched(again, 9 - stop) as ahead:
            assert [ahead.next() for _ in range(9 - stop)] == wanted[stop:]


def test_the_next_one_is_made_meanwhile_and_none_beyond_the_last():
    made, second = [], threading.Event()

    def build(items):
        made.append(items)
        if len(made) == 2:
            second.set()
        return items

    inner = ShuffledBatches(list(range(10)), build, rows=3, seed=1)
    with Prefetched(inner, 2) as ahead:
        ahead.next()
        assert second.wait(10)  # without anybody asking
        ahead.next()
    assert len(made) == 2


def test_errors_come_out_where_the_batch_is_asked_for():
    left = [2]

    def build(items):
        left[0] -= 1
        return items if left[0] else 1 // 0

    with Prefetched(ShuffledBatches([1], build, rows=1, seed=0), 9) as ahead:
        ahead.next()
        with pytest.raises(ZeroDivisionError):
            ahead.next()


def test_prepare_is_done_to_each():
    with Prefetched(source(), 2, sum) as ahead:
        assert [ahead.next(), ahead.next()] == [sum(b) for b in (lambda s: (s.next(), s.next()))(source())]
