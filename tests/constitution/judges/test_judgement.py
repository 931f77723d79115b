from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from publius.constitution.judges import Abstention, Judgement, ParseFailure, clamped, combine
from publius.constitution.judges.judgement import Reading, judgement_of, logit, sigmoid

FINITE = st.floats(-50, 50)


def test_combine() -> None:
    assert combine(3, -1) == (pytest.approx(sigmoid(1)), False)
    assert combine(-800, -800) == (0.0, True)


@given(FINITE, FINITE)
def test_swapping_the_answers_mirrors_the_verdict(first: float, second: float) -> None:
    """What was "a first" is "b first": the readings change places, and p becomes 1 - p."""
    one = judgement_of(Reading(first, 0.5), Reading(second, 0.6), "p", min_mass=0)
    two = judgement_of(Reading(second, 0.6), Reading(first, 0.5), "p", min_mass=0)
    assert isinstance(one, Judgement) and isinstance(two, Judgement)
    assert one.probability == pytest.approx(1 - two.probability, abs=1e-12)
    assert one.forward == pytest.approx(1 - two.backward, abs=1e-12)


def test_mass() -> None:
    failure = judgement_of(Reading(1, 0.5), Reading(1, 0.001), "p", min_mass=0.01)
    assert failure == ParseFailure("too little probability on either answer", "p", 0.001)


@given(st.floats(0, 1))
def test_logit_is_the_inverse_of_sigmoid(p: float) -> None:
    assert sigmoid(logit(p)) == pytest.approx(p, abs=2e-6)
    assert math.isfinite(logit(p))


def test_clamped() -> None:
    sure = Judgement(0.99, True, 0.99, 0.99, "p")
    assert clamped(sure, (0.4, 0.6)) == sure._replace(probability=0.6)
    assert clamped(sure._replace(probability=0.5), (0.4, 0.6)).probability == 0.5  # pyright: ignore
    assert clamped(sure, None) is sure
    assert clamped(Abstention("no", "p"), (0.4, 0.6)) == Abstention("no", "p")
