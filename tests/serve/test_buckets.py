"""Token buckets: never more than the limit, and what was told to wait is let in when it comes back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from publius.serve.buckets import Bucket

steps = st.lists(st.tuples(st.floats(-5, 120, allow_nan=False), st.integers(1, 50)), min_size=1, max_size=60)


@given(per_minute=st.integers(1, 1000), steps=steps)
def test_no_stretch_of_time_lets_through_more_than_a_bucket_and_its_refill(per_minute, steps):
    bucket, now, let_in = Bucket(per_minute, 0.0), 0.0, []
    for pause, amount in steps:
        now += abs(pause)
        amount = min(amount, per_minute)
        if bucket.wait(amount, now) == 0:
            bucket.spend(amount, now)
            let_in.append((now, amount))
    for first, (start, _) in enumerate(let_in):
        through = 0
        for end, amount in let_in[first:]:
            through += amount
            assert through <= per_minute + (end - start) * per_minute / 60 + 0.01


@given(per_minute=st.integers(1, 100_000), steps=steps, amount=st.integers(1, 200_000))
def test_who_waits_as_long_as_told_is_let_in(per_minute, steps, amount):
    bucket, now = Bucket(per_minute, 0.0), 0.0
    for pause, spent in steps:
        now += abs(pause)
        bucket.spend(spent, now)  # into debt, as replies do whose length nobody knew
    wait = bucket.wait(amount, now)
    if wait * per_minute > 1:
        assert bucket.wait(amount, now + wait / 2) > 0
    assert wait >= 0 and bucket.wait(amount, now + wait) == 0


@given(per_minute=st.integers(1, 1000), steps=steps)
def test_a_bucket_never_overflows_and_is_full_when_it_says(per_minute, steps):
    bucket, now = Bucket(per_minute, 0.0), 0.0
    for pause, spent in steps:
        now += pause
        assert bucket.level(now) <= per_minute
        bucket.spend(spent, now)
    latest = max(now, bucket.full_at(now))
    assert bucket.level(latest + 1000) == pytest.approx(per_minute)
    assert 0 <= bucket.remaining(now) <= per_minute


def test_time_that_goes_back_refills_nothing():
    bucket = Bucket(60, 1000.0)
    bucket.spend(60, 1000.0)
    assert bucket.level(10.0) == 0 and bucket.level(1001.0) == 1
