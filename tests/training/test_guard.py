"""Which steps are skipped: what is not finite, and jumps; what is remembered."""

import math

import pytest

from publius.core.errors import UserError
from publius.training.guard import Guard


def steady(count=100, spread=0.1, mean=3.0):
    guard = Guard(8.0)
    for i in range(count):
        assert guard.judge(mean + (spread if i % 2 else -spread), 1.0, "here") is None
    return guard


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_not_finite_is_skipped(bad, what):
    guard = Guard(None)
    reason = guard.judge(*((bad, 1.0) if what == "loss" else (1.0, bad)), "here")
    assert reason == f"the {what} is not finite" and guard.skipped == 1 and guard.recent == []


def test_a_jump_is_eight_deviations_and_a_nat():
    guard = steady()  # mean 3, deviation 0.1: 8 of them are 0.8, so the nat decides
    assert guard.judge(3.99, 1.0, "here") is None
    guard = steady()
    assert "jumped over 4" in (guard.judge(4.01, 1.0, "here") or "")
    guard = steady(spread=0.5)
    assert guard.judge(6.99, 1.0, "here") is None
    guard = steady(spread=0.5)
    assert "jumped over 7" in (guard.judge(7.01, 1.0, "here") or "")
    assert guard.recent == [2.5, 3.5] * 50  # a skipped loss does not move the mean


def test_no_jump_is_looked_for_too_early_or_when_told_not_to():
    assert steady(99).judge(1e9, 1.0, "here") is None
    guard = Guard(None)
    for _ in range(100):
        guard.judge(1.0, 1.0, "here")
    assert guard.judge(1e9, 1.0, "here") is None


def test_falls_and_a_new_level_reached_in_time_are_no_jumps():
    guard = steady()
    assert guard.judge(-50.0, 1.0, "here") is None
    assert len(guard.recent) == 100 and guard.recent[-1] == -50.0


def test_three_in_a_row_are_an_error_that_says_where():
    guard = steady()
    for loss in (9.0, math.nan, 3.0, 9.0, 9.0):
        guard.judge(loss, 1.0, "here")
    with pytest.raises(UserError, match="3 steps in a row") as caught:
        guard.judge(9.0, 1.0, "step 7 of 9")
    assert caught.value.where == "step 7 of 9" and "spike_sigmas" in (caught.value.fix or "")


def test_state_is_all_it_knows():
    one, two = steady(), Guard(8.0)
    one.judge(9.0, 1.0, "here")
    two.restore(one.state())
    assert vars(one) == vars(two)
