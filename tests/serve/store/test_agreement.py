"""Krippendorff's alpha, against the worked examples of its author."""

from __future__ import annotations

import pytest

from publius.serve.store import Agreement, nominal_alpha


def columns(*raters: str) -> list[list[str]]:
    """Units of ratings, from one line for each rater; a dot is no rating."""
    return [[r for r in unit if r != "."] for unit in zip(*(line.split() for line in raters), strict=True)]


def test_two_raters_and_two_values() -> None:
    """Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), example A: 0.095."""
    found = nominal_alpha(columns("0 1 0 0 0 0 0 0 1 0", "1 1 1 0 0 1 0 0 0 0"))
    assert found.alpha == pytest.approx(0.095, abs=5e-4) and found[1:] == (10, 20)


def test_two_raters_and_several_names() -> None:
    """The same paper, example B: 0.692."""
    found = nominal_alpha(columns("a a b b d c c c e d d a", "b a b b b c c c e d d d"))
    assert found.alpha == pytest.approx(0.692, abs=5e-4)


def test_four_raters_who_left_some_out() -> None:
    """The same paper, example C: 0.743, over 11 units with 40 pairable ratings."""
    found = nominal_alpha(
        columns(
            "1 2 3 3 2 1 4 1 2 . . .",
            "1 2 3 3 2 2 4 1 2 5 . 3",
            ". 3 3 3 2 3 4 2 2 5 1 .",
            "1 2 3 3 2 4 4 1 2 5 1 .",
        )
    )
    assert found.alpha == pytest.approx(0.743, abs=5e-4) and found[1:] == (11, 40)


def test_where_nothing_can_be_said_nothing_is() -> None:
    assert nominal_alpha([]) == nominal_alpha([["a"], ["b"]]) == Agreement(None, 0, 0)
    assert nominal_alpha([["a", "a"], ["a", "a"]]) == Agreement(None, 2, 4)
    assert nominal_alpha([["a", "a"], ["b", "b"]]).alpha == 1
