"""What the engine refuses: a request that it has had already. The rest: test_engine.py."""

from __future__ import annotations

import pytest

from publius.core.errors import UserError
from publius.inference.engine import Engine
from publius.inference.request import Request
from publius.inference.sampling import Sampling
from publius.testing import byte_tokenizer, tiny_model

GREEDY = Sampling(max_tokens=3, temperature=0)


def engine() -> Engine:
    return Engine(tiny_model(0), byte_tokenizer())


def test_a_request_is_run_once() -> None:
    """Run again it was drawn on past its last number, and took every other request down with it."""
    one = engine()
    request = Request([1, 80, 90], GREEDY)
    one.complete([request])
    said = request.completion()
    for again in (lambda: one.complete([request]), lambda: one.enqueue(request)):
        with pytest.raises(UserError, match="has ended"):
            again()
    assert request.completion() == said
    assert not one.step()
    assert len(one.generate([[1, 70]], GREEDY)[0].tokens) == 3


def test_a_request_that_runs_is_not_taken_again() -> None:
    one = engine()
    request = one.submit([1, 80, 90], GREEDY)
    with pytest.raises(UserError, match="runs already"):
        one.enqueue(request)
    while one.step():
        pass
    assert len(request.completion().tokens) == 3


def test_one_request_given_twice_leaves_nothing_behind() -> None:
    one = engine()
    request = Request([1, 80, 90], GREEDY)
    with pytest.raises(UserError, match="runs already"):
        one.complete([request, request])
    assert request.stop_reason == "cancelled"
    assert not one.step()
    assert one.stats.pages == 0


def test_what_was_never_taken_is_cancelled_by_itself() -> None:
    """It had the number of the first request, which then waited for ever."""
    one = engine()
    first = one.submit([1, 70], GREEDY)
    never = Request([1, 80, 90], GREEDY)
    one.cancel(never)
    assert (never.stop_reason, first.stop_reason) == ("cancelled", None)
    while one.step():
        pass
    assert len(first.completion().tokens) == 3
    one.cancel(Request([1], GREEDY))  # nothing waits
