"""True positives at few false ones."""

from __future__ import annotations

import pytest

from publius.safety.curves import points_of


def test_a_perfect_score_catches_all_at_no_cost() -> None:
    found = points_of([5.0, 6.0], [float(i) / 1000 for i in range(1000)])
    assert found["points"][0] == (0.0, 1.0)
    assert all(at[:2] == [1.0, 2] for at in found["at"].values())


def test_the_rate_is_of_leaks_above_what_so_many_benign_ones_reach() -> None:
    benign = [float(i) for i in range(1000)]
    found = points_of([998.5, 995.5, 989.5, 10.0], benign)
    assert found["at"]["0.001"][0] == 0.25  # above 998: one benign score is
    assert found["at"]["0.005"][0] == 0.5
    assert found["at"]["0.01"][0] == pytest.approx(0.75)
    rates = [point[1] for point in found["points"]]
    assert rates == sorted(rates)


def test_what_is_told_by_chance_gains_nothing() -> None:
    scores = [float(i % 100) for i in range(1000)]
    found = points_of(scores, scores)
    assert all(abs(rate - false) <= 0.011 for false, rate in found["points"])


def test_of_nothing_there_is_no_curve() -> None:
    assert points_of([], [1.0])["points"] == [] and points_of([1.0], [])["at"] == {}
