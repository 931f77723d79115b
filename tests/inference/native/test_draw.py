"""Tokens drawn in C++ are those the plain sampler draws, and what it reports of them is the same."""

from __future__ import annotations

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from publius.inference.native import can_draw, draw_rows, library, why_not
from publius.inference.sampler import log_probs, pick
from publius.inference.sampling import Sampling

pytestmark = pytest.mark.skipif(library() is None, reason=f"no native pass: {why_not()}")
SIZES = (1, 2, 15, 16, 17, 31, 33, 269, 1000, 4097)
LAST = math.nextafter(1.0, 0.0)


def logits_of(rows: int, size: int, scale: float, seed: int) -> Tensor:
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(seed)) * scale


def check(logits_BV: Tensor, temperatures: list[float], uniforms: list[float]) -> None:
    """Against the plain sampler. Another token may come only where the number lies on the edge of both."""
    samplings = [Sampling(temperature=temperature) for temperature in temperatures]
    logp_BV = log_probs(logits_BV, samplings)
    greedy_B = torch.tensor([temperature == 0 for temperature in temperatures])
    tokens_B, _ = pick(logp_BV, torch.tensor(uniforms, dtype=torch.float64), greedy_B)
    cdf_BV = logp_BV.double().exp().cumsum(-1)
    for row, (token, logp) in enumerate(draw_rows(logits_BV, temperatures, uniforms)):
        scale = float(logits_BV[row].abs().max()) / (temperatures[row] or 1.0)
        assert logp == pytest.approx(float(logp_BV[row, token]), abs=2e-6 * max(10.0, scale))
        expected = int(tokens_B[row])
        if token == expected:
            continue
        assert not greedy_B[row]
        edges_V = cdf_BV[row, min(token, expected) : max(token, expected)] / cdf_BV[row, -1]
        assert (edges_V - uniforms[row]).abs().max() < 1e-5


@settings(max_examples=60)
@given(
    rows=st.integers(1, 40),
    size=st.sampled_from(SIZES),
    scale=st.sampled_from([0.0, 0.1, 1.0, 6.0, 40.0]),
    seed=st.integers(0, 10_000),
)
def test_as_the_plain_sampler(rows: int, size: int, scale: float, seed: int) -> None:
    rng = random.Random(seed)
    temperatures = [rng.choice([0.0, 0.0, 0.05, 0.7, 1.0, 1.0, 3.0]) for _ in range(rows)]
    uniforms = [rng.choice([rng.random(), rng.random(), rng.random(), 0.0, LAST]) for _ in range(rows)]
    check(logits_of(rows, size, scale, seed), temperatures, uniforms)


def test_many_rows() -> None:
    """Enough that every part of the distribution is met."""
    for seed, size in enumerate(SIZES):
        rng = random.Random(seed)
        logits = logits_of(500, size, 3.0, seed)
        check(logits, [rng.choice([0.5, 1.0, 2.0]) for _ in range(500)], [rng.random() for _ in range(500)])


def test_it_follows_the_distribution() -> None:
    logits = torch.tensor([0.5, 0.25, 0.15, 0.1]).log().repeat(40_000, 1)
    u = torch.rand(40_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).tolist()
    drawn = torch.tensor([token for token, _ in draw_rows(logits, [1.0] * 40_000, u)])
    rates = (drawn.bincount(minlength=4) / 40_000).tolist()
    assert rates == pytest.approx([0.5, 0.25, 0.15, 0.1], abs=0.01)


@pytest.mark.parametrize("size", SIZES)
def test_a_row_is_drawn_alike_wherever_it_stands(size: int) -> None:
    """To the bit: alone, in a batch, in the columns of a wider matrix."""
    wide = logits_of(20, size + 5, 2.0, 1)
    rng = random.Random(size)
    temperatures, uniforms = (
        [rng.choice([0.0, 0.6, 1.0]) for _ in range(20)],
        [rng.random() for _ in range(20)],
    )
    together = draw_rows(wide[:, 3 : size + 3], temperatures, uniforms)
    for row, one in enumerate(together):
        alone = wide[row : row + 1, 3 : size + 3].clone()
        assert draw_rows(alone, [temperatures[row]], [uniforms[row]]) == [one]


@pytest.mark.parametrize("size", [2, 16, 40, 269])
def test_greedy_ties_fall_to_the_lower_id(size: int) -> None:
    for first in range(0, size - 1, max(1, size // 9)):
        logits = logits_of(1, size, 1.0, size).clamp(max=2.0)
        logits[0, first] = logits[0, first + 1] = logits[0, -1] = 3.0
        [(token, logp)] = draw_rows(logits, [0.0], [0.99])
        assert token == first
        assert logp == pytest.approx(float(logits.log_softmax(-1)[0, first]), abs=1e-5)


def test_nan_gives_nan_and_leaves_the_others_alone() -> None:
    for size in (1, 5, 16, 269):
        for place in {0, size // 2, size - 1}:
            logits = logits_of(3, size, 1.0, size)
            expected = draw_rows(logits, [1.0, 1.0, 0.0], [0.3] * 3)
            logits[1, place] = math.nan
            for temperature in (0.0, 1.0):
                drawn = draw_rows(logits, [1.0, temperature, 0.0], [0.3] * 3)
                assert math.isnan(drawn[1][1])
                assert 0 <= drawn[1][0] < size
                assert [drawn[0], drawn[2]] == [expected[0], expected[2]]


def test_what_is_no_distribution_gives_nan() -> None:
    for value in (-math.inf, math.inf):
        for temperature in (0.0, 1.0):
            [(_, logp)] = draw_rows(torch.full((1, 20), value), [temperature], [0.5])
            assert math.isnan(logp)
    one = torch.zeros(1, 20)
    one[0, 7] = math.inf
    assert math.isnan(draw_rows(one, [1.0], [0.5])[0][1])


@settings(max_examples=60)
@given(
    size=st.sampled_from(SIZES),
    share=st.floats(0, 1),
    temperature=st.sampled_from([0.0, 0.3, 1.0, 50.0]),
    seed=st.integers(0, 10_000),
)
def test_what_is_forbidden_is_never_drawn(size: int, share: float, temperature: float, seed: int) -> None:
    """Not at the ends of the distribution either."""
    rng = random.Random(seed)
    allowed = {rng.randrange(size)} | {token for token in range(size) if rng.random() > share}
    logits = logits_of(1, size, 2.0, seed)
    logits[0, [token for token in range(size) if token not in allowed]] = -math.inf
    uniforms = [0.0, LAST, *(rng.random() for _ in range(30))]
    drawn = draw_rows(logits.repeat(32, 1), [temperature] * 32, uniforms)
    assert {token for token, _ in drawn} <= allowed
    assert all(math.isfinite(logp) for _, logp in drawn)
    check(logits.repeat(32, 1), [temperature] * 32, uniforms)


def test_the_only_one_allowed_is_certain() -> None:
    logits = torch.full((1, 269), -math.inf)
    logits[0, 200] = -50.0
    for uniform in (0.0, 0.5, LAST):
        assert draw_rows(logits, [0.7], [uniform]) == [(200, 0.0)]


def test_the_ends_are_the_first_and_the_last_that_may_be() -> None:
    logits = torch.zeros(2, 37)
    logits[:, :5] = logits[:, 30:] = -math.inf
    assert [token for token, _ in draw_rows(logits, [1.0, 1.0], [0.0, LAST])] == [5, 29]


def test_what_it_takes() -> None:
    assert can_draw(torch.zeros(2, 5))
    assert can_draw(torch.zeros(2, 8)[:, :5])
    assert not can_draw(torch.zeros(2, 5, dtype=torch.bfloat16))
    assert not can_draw(torch.zeros(5, 2).T)
    assert not can_draw(torch.zeros(2, 5, device="meta"))
    assert draw_rows(torch.zeros(0, 5), [], []) == []
