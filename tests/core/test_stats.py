"""Intervals against known values."""

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from publius.core.stats import (
    auroc,
    binomial_upper,
    bootstrap,
    calibration,
    calibration_error,
    mean_estimate,
    t_estimate,
    wilson,
)


def test_wilson_against_published_values():
    # Newcombe 1998, table I: 81/263, 15/148, 0/20, 1/29 (method 3, the score interval without correction)
    for successes, n, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
    ]:
        estimate = wilson(successes, n)
        assert estimate.value == successes / n and estimate.n == n
        assert estimate.low == pytest.approx(low, abs=5e-5)
        assert estimate.high == pytest.approx(high, abs=5e-5)
    assert wilson(1, 29).high == pytest.approx(0.1718, abs=5e-5)


def test_no_observations_say_nothing():
    assert math.isnan(wilson(0, 0).value)
    assert wilson(0, 0)[1:] == (0, 0.0, 1.0)
    assert mean_estimate([])[1:] == (0, -math.inf, math.inf)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_its_value_and_mirrors(pair):
    successes, n = pair
    one, other = wilson(successes, n), wilson(n - successes, n)
    assert 0 <= one.low <= one.value + 1e-12 and one.value - 1e-12 <= one.high <= 1
    assert one.low == pytest.approx(1 - other.high) and one.high == pytest.approx(1 - other.low)


def test_mean_estimate():
    values = [1.0, 2.0, 4.0, 9.0]
    half = 1.959964 * statistics.stdev(values) / 2
    assert mean_estimate(values) == pytest.approx((4.0, 4, 4.0 - half, 4.0 + half))
    assert mean_estimate([3.0]) == (3.0, 1, 3.0, 3.0)
    assert mean_estimate([3.0]).as_dict() == {"value": 3.0, "n": 1, "low": 3.0, "high": 3.0}


def test_bootstrap_is_seeded_and_near_the_normal_interval():
    rng = random.Random(1)
    values = [rng.gauss(5, 2) for _ in range(200)]
    estimate = bootstrap(values, statistics.fmean, seed=3)
    normal = mean_estimate(values)
    assert estimate == bootstrap(values, statistics.fmean, seed=3)
    assert estimate.value == pytest.approx(normal.value)
    assert estimate.low == pytest.approx(normal.low, abs=0.08)
    assert estimate.high == pytest.approx(normal.high, abs=0.08)


def test_t_interval_of_a_few_seeds():
    """Three values: Student's quantile for two degrees of freedom is 4.3027 (any table)."""
    found = t_estimate([1.0, 2.0, 3.0])
    assert found.value == 2.0 and found.n == 3
    assert found.high - 2.0 == pytest.approx(4.3027 / math.sqrt(3), abs=1e-3)
    many = t_estimate([float(i % 2) for i in range(1000)])
    assert many.high - many.value == pytest.approx(1.9623 * 0.50025 / math.sqrt(1000), abs=1e-4)
    eleven = t_estimate([float(i) for i in range(12)])
    assert eleven.high - eleven.value == pytest.approx(2.2010 * math.sqrt(13 / 12), abs=1e-3)
    alone = t_estimate([5.0])
    assert alone.value == 5.0 and alone.low == -math.inf and alone.high == math.inf


def test_calibration_bins_by_what_was_said():
    table = calibration([(0.05, False), (0.07, True), (0.93, True), (1.0, True)])
    assert [(round(b.confidence, 3), b.observed, b.n) for b in table] == [(0.06, 0.5, 2), (0.965, 1.0, 2)]
    assert [(b.low, b.high) for b in table] == [(0.0, 0.1), (pytest.approx(0.9), pytest.approx(1.0))]
    assert all(b.observed_low <= b.observed <= b.observed_high for b in table)
    assert calibration([]) == [] and math.isnan(calibration_error([]))
    assert [b.n for b in calibration([(0.5, True), (0.549, True), (0.551, False)], low=0.5)] == [2, 1]


@given(st.lists(st.tuples(st.floats(0.5, 1), st.booleans()), min_size=1))
def test_calibration_error_is_the_tables(said):
    table = calibration(said, low=0.5)
    gap = sum(b.n * abs(b.confidence - b.observed) for b in table) / len(said)
    assert calibration_error(said, low=0.5) == pytest.approx(gap, abs=1e-9)
    assert sum(b.n for b in table) == len(said)


def test_the_upper_bound_is_exact() -> None:
    """No failure in n bounds the rate by 1 - 0.05^(1/n); known values of Clopper and Pearson."""
    for n in (59, 299, 598, 5990):
        assert binomial_upper(0, n) == pytest.approx(1 - 0.05 ** (1 / n), rel=1e-9)
    assert binomial_upper(5, 100) == pytest.approx(0.10225, abs=1e-5)
    assert binomial_upper(3, 3) == binomial_upper(0, 0) == 1.0


def test_the_area_counts_pairs_in_order() -> None:
    assert auroc([3.0, 2.0], [1.0, 2.0, 0.0]).value == pytest.approx(5.5 / 6)
    assert auroc([1.0], [1.0]).value == 0.5
    assert math.isnan(auroc([], [1.0]).value)
    apart = auroc([2.0] * 50, [1.0] * 500)
    assert apart.value == 1.0 and apart.n == 550 and 0.9 < apart.low < 1


def test_the_interval_of_the_area_holds_the_truth() -> None:
    rng, truth, inside = random.Random(0), 0.7602, 0  # of two normals one apart
    for _ in range(200):
        found = auroc([rng.gauss(1, 1) for _ in range(60)], [rng.gauss(0, 1) for _ in range(60)])
        inside += found.low <= truth <= found.high
    assert inside >= 182
