from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from publius.core.errors import UserError
from publius.inference.remote.limits import Budget, Pace


def test_pace_spaces_and_holds():
    pace, stop = Pace(1200), threading.Event()
    begun = time.monotonic()
    for _ in range(4):
        pace.wait(stop)
    assert time.monotonic() - begun >= 0.149
    pace.hold(0.2)
    pace.hold(0.01)  # never sooner
    begun = time.monotonic()
    pace.wait(stop)
    assert time.monotonic() - begun >= 0.19
    pace.hold(60)
    stop.set()
    pace.wait(stop)  # a stopped worker does not wait


def test_budget_waits_for_others_and_refuses_alone():
    budget = Budget(1e6, 0, 10)
    assert budget.price(3, 100) == 3
    budget.promise(6)
    done = threading.Event()

    def second() -> None:
        budget.promise(6)
        done.set()

    thread = threading.Thread(target=second)
    thread.start()
    assert not done.wait(0.1), "6 + 6 would pass the cap"
    budget.settle(6, 2)
    assert done.wait(2)
    thread.join()
    budget.settle(6, 6)
    with pytest.raises(UserError, match=r"spend cap of \$10 is reached: the answers so far cost \$8"):
        budget.promise(3)
    budget.promise(2)


@given(st.lists(st.tuples(st.floats(0.01, 5), st.floats(0, 1)), max_size=30), st.floats(0.1, 20))
def test_the_cap_is_never_passed(requests, cap):
    budget = Budget(1, 1, cap)
    for most, share in requests:
        try:
            budget.promise(most)
        except UserError:
            break
        budget.settle(most, most * share)
    assert budget.spent <= cap + 1e-9
