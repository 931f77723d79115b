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
    clustered,
    clustered_rate,
    clustered_ratio,
    mean_estimate,
    paired_difference,
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


def _clustered_sample(rng, groups, size, spread):
    """Answers whose chance of being right is shared within a group; the truth is 0.3 over all groups."""
    hits, labels = [], []
    for group in range(groups):
        chance = rng.betavariate(0.3 / spread, 0.7 / spread)
        hits += [float(rng.random() < chance) for _ in range(size)]
        labels += [group] * size
    return hits, labels


def test_clustered_intervals_hold_the_truth_where_plain_ones_do_not():
    """600 simulated benchmarks of 40 passages with 10 questions each; 95% is promised."""
    rng = random.Random(5)
    held = {"plain": 0, "mean": 0, "rate": 0}
    for _ in range(600):
        hits, labels = _clustered_sample(rng, 40, 10, 0.5)
        found = {
            "plain": wilson(round(sum(hits)), 400),
            "mean": clustered(hits, labels),
            "rate": clustered_rate(hits, labels),
        }
        for name, e in found.items():
            held[name] += e.low <= 0.3 <= e.high
    assert held["plain"] / 600 < 0.80
    assert held["mean"] / 600 >= 0.92 and 0.93 <= held["rate"] / 600 <= 0.98, held


def test_few_clusters_and_rare_hits_are_still_covered():
    rng = random.Random(6)
    held = 0
    for _ in range(600):
        hits, labels = _clustered_sample(rng, 8, 12, 0.2)
        e = clustered_rate(hits, labels)
        held += e.low <= 0.3 <= e.high
    assert held / 600 >= 0.93


def test_clusters_of_one_are_independent_items():
    values = [0.0, 1.0, 1.0, 0.0, 1.0] * 40
    alone, plain = clustered(values), mean_estimate(values)
    assert alone.value == plain.value and alone.n == 200
    assert alone.high - alone.low == pytest.approx((plain.high - plain.low) * 1.9720 / 1.959964, rel=1e-4)
    assert clustered_rate([v > 0 for v in values]) == wilson(120, 200)
    assert clustered_rate([v > 0 for v in values], list(range(200))) == wilson(120, 200)


def test_what_is_said_twice_counts_once():
    """Miller 2024: copying every question must not narrow the interval."""
    rng = random.Random(2)
    values = [float(rng.random() < 0.6) for _ in range(100)]
    twice, labels = values * 2, list(range(100)) * 2
    once = clustered(values)
    assert clustered(twice, labels)[2:] == pytest.approx(once[2:]) and clustered(twice, labels).n == 200
    assert clustered_rate(twice, labels).low <= wilson(round(sum(values)), 100).low + 1e-9


def test_clustered_at_the_edges():
    assert math.isnan(clustered([]).value) and clustered([]).n == 0
    assert clustered_rate([])[1:] == (0, 0.0, 1.0)
    one = clustered([1.0, 0.0], ["a", "a"])
    assert one.value == 0.5 and one.low == -math.inf and one.high == math.inf
    assert clustered_rate([1, 0], ["a", "a"])[1:] == (2, 0.0, 1.0)
    sure = clustered_rate([True] * 60, [i // 6 for i in range(60)])
    assert sure.value == 1.0 and sure.low < wilson(10, 10).low + 1e-9, "ten clusters that agree are worth ten"
    with pytest.raises(ValueError, match="2 values in 1 clusters"):
        clustered([0.0, 1.0], ["a"])


def test_a_ratio_over_those_that_count():
    above, below = [1.0, -1.0, 0.0, 1.0, 1.0], [1.0, 1.0, 0.0, 1.0, 1.0]
    e = clustered_ratio(above, below)
    assert e.value == 0.5 and e.n == 4
    rng = random.Random(8)
    held = 0
    for _ in range(400):  # the truth: of those that count, 0.7 up and 0.3 down
        counts = [float(rng.random() < 0.6) for _ in range(200)]
        signs = [c * (1 if rng.random() < 0.7 else -1) for c in counts]
        found = clustered_ratio(signs, counts)
        held += found.low <= 0.4 <= found.high
    assert held / 400 >= 0.92
    assert math.isnan(clustered_ratio([0.0], [0.0]).value)


def test_pairs_are_told_apart_where_two_intervals_overlap():
    rng = random.Random(4)
    held = narrower = 0
    for _ in range(400):
        hard = [rng.random() for _ in range(300)]
        first = [float(rng.random() < h) for h in hard]
        second = [
            max(a, float(rng.random() < 0.1)) for a in first
        ]  # right wherever the first was: 0.05 better
        found = paired_difference(first, second)
        held += found.low <= 0.05 <= found.high
        apart = clustered(first), clustered(second)
        narrower += found.high - found.low < sum(e.high - e.low for e in apart) / 2
    assert held / 400 >= 0.92 and narrower == 400
    same = paired_difference([1.0, 0.0], [1.0, 0.0])
    assert same[:2] == (0.0, 2) and same.low < -1 < 1 < same.high, "two that agree are no proof"
    assert paired_difference([1.0, 0.0] * 500, [1.0, 0.0] * 500).high == pytest.approx(
        1.9623 / 1000, rel=1e-3
    )
    ratio = paired_difference([1.0, 0.0], [1.0, 1.0], below=([1.0, 1.0], [1.0, 1.0]))
    assert ratio.value == 0.5
    with pytest.raises(ValueError, match="not pairs"):
        paired_difference([1.0], [])


def test_hits_may_be_shares_of_one() -> None:
    """A mark of a half is no whole hit, clusters or none."""
    found = clustered_rate([0.5, 0.5, 0.5])
    assert found.value == 0.5 and found.low < 0.5 < found.high
    assert clustered_rate([0.5]).value == 0.5
    assert clustered_rate([1.0, 0.0, 1.0]) == wilson(2, 3)


def test_one_score_on_a_side_says_little_of_the_area() -> None:
    """With one positive the area is where that one fell: its true value may be anywhere near."""
    found = auroc([0.85], [i / 100 for i in range(100)])
    assert found.value == pytest.approx(0.855) and found.high - found.low > 0.8
    tied = auroc([1.0] * 3, [1.0] * 3)
    assert tied.value == 0.5 and tied.low + tied.high == pytest.approx(1)


def test_a_bootstrap_interval_holds_its_value() -> None:
    """Of a calibrated judge the error is small, and that of every draw larger."""
    rng = random.Random(0)
    for _ in range(40):
        said = [(p, float(rng.random() < p)) for p in (0.5 + 0.5 * rng.random() for _ in range(200))]
        found = bootstrap(said, lambda some: calibration_error(some, low=0.5), draws=200)
        assert found.low <= found.value <= found.high
