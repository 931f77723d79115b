"""The sampler against distributions worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from publius.core.errors import UserError
from publius.inference.request import Request
from publius.inference.sampler import adjusted, likeliest, log_probs, pick, row_uniforms
from publius.inference.sampling import Sampling

P = torch.tensor([[0.5, 0.25, 0.15, 0.1]])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("top_k", 0),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("min_p", 0.0),
        ("min_p", 1.1),
        ("repetition_penalty", 0.0),
        ("presence_penalty", math.inf),
        ("frequency_penalty", math.nan),
        ("logit_bias", {3: math.nan}),
        ("alternatives", -1),
        ("stop", ("",)),
        ("stop", "text"),
    ],
)
def test_bad_values_name_their_field(field: str, value: object) -> None:
    with pytest.raises(UserError, match=f"Sampling.{field}"):
        Sampling(**{field: value})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(), [0.5, 0.25, 0.15, 0.1]),
        (Sampling(temperature=0), [0.5, 0.25, 0.15, 0.1]),
        (Sampling(temperature=0, top_k=1), [0.5, 0.25, 0.15, 0.1]),
        (Sampling(temperature=0.5), [0.25 / 0.345, 0.0625 / 0.345, 0.0225 / 0.345, 0.01 / 0.345]),
        (Sampling(top_k=2), [2 / 3, 1 / 3, 0, 0]),
        (Sampling(top_k=99), [0.5, 0.25, 0.15, 0.1]),
        (Sampling(top_p=0.5), [1, 0, 0, 0]),
        (Sampling(top_p=0.6), [2 / 3, 1 / 3, 0, 0]),
        (Sampling(top_p=1.0), [0.5, 0.25, 0.15, 0.1]),
        (Sampling(top_k=3, top_p=0.8), [2 / 3, 1 / 3, 0, 0]),  # of the three kept: .556, .833
        (Sampling(top_p=1e-9), [1, 0, 0, 0]),
        (Sampling(min_p=0.4), [2 / 3, 1 / 3, 0, 0]),
        (Sampling(min_p=1.0), [1, 0, 0, 0]),
        (Sampling(temperature=0.5, min_p=0.2), [0.25 / 0.3125, 0.0625 / 0.3125, 0, 0]),
    ],
)
def test_distribution(sampling: Sampling, expected: list[float]) -> None:
    got = log_probs(P.log(), [sampling]).exp()[0].tolist()
    assert got == pytest.approx(expected, abs=1e-6)


def test_plain_is_exactly_log_softmax_and_rows_do_not_mix() -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    mixed = log_probs(logits.clone(), [Sampling(), Sampling(top_k=2, temperature=0.3), Sampling()])
    reference = logits.log_softmax(-1)
    assert torch.equal(mixed[0], reference[0])
    assert torch.equal(mixed[2], reference[2])
    assert mixed[1].isfinite().sum() == 2


def test_ties_fall_to_the_lower_id() -> None:
    got = log_probs(torch.zeros(1, 5), [Sampling(top_k=2)]).exp()[0]
    assert got.tolist() == pytest.approx([0.5, 0.5, 0, 0, 0])


@settings(max_examples=50)
@given(u=st.floats(0, 1, exclude_max=True))
def test_pick_inverts_the_distribution(u: float) -> None:
    assume(min(abs(u - 0.5), abs(u - 0.75)) > 1e-6)  # exp(log(0.5)) is only nearly 0.5
    logp = torch.tensor([[0.0, 0.5, 0.0, 0.25, 0.25, 0.0]]).log()
    tokens, chosen = pick(logp, torch.tensor([u], dtype=torch.float64), torch.tensor([False]))
    assert tokens.item() == (1 if u < 0.5 else 3 if u < 0.75 else 4)
    assert chosen.item() == logp[0, int(tokens)].item()


def test_pick_follows_the_distribution() -> None:
    u = torch.rand(20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tokens, _ = pick(P.log().expand(20_000, -1), u, torch.zeros(20_000, dtype=torch.bool))
    rates = tokens.bincount(minlength=4) / 20_000
    assert rates.tolist() == pytest.approx(P[0].tolist(), abs=0.015)


def test_greedy_takes_the_likeliest_whatever_the_uniform() -> None:
    tokens, chosen = pick(P.log(), torch.tensor([0.99], dtype=torch.float64), torch.tensor([True]))
    assert tokens.item() == 0
    assert chosen.item() == pytest.approx(math.log(0.5))


def test_uniforms_depend_on_seed_and_index_only() -> None:
    seeded = Sampling(max_tokens=30, seed=7)
    torch.manual_seed(0)
    first = row_uniforms(seeded, 2)
    torch.manual_seed(1)
    assert torch.equal(first, row_uniforms(seeded, 2))
    assert not torch.equal(first, row_uniforms(seeded, 3))
    assert not torch.equal(first, row_uniforms(Sampling(max_tokens=30, seed=8), 2))
    # asking for fewer tokens gives the beginning of the same stream
    assert torch.equal(first[:9], row_uniforms(Sampling(max_tokens=9, seed=7), 2))


def test_without_a_seed_the_global_generator_decides() -> None:
    torch.manual_seed(3)
    first = row_uniforms(Sampling(max_tokens=5), 0)
    assert not torch.equal(first, row_uniforms(Sampling(max_tokens=5), 0))
    torch.manual_seed(3)
    assert torch.equal(first, row_uniforms(Sampling(max_tokens=5), 0))


def test_penalties_and_biases() -> None:
    logits = torch.tensor([2.0, -1.0, 1.0, 0.5, 0.0])

    def after(said: list[int], **fields: object) -> list[float]:
        request = Request([0, 1], Sampling(**fields))  # pyright: ignore[reportArgumentType]
        return adjusted(logits, request, said).tolist()

    assert after([], repetition_penalty=2.0) == [1.0, -2.0, 1.0, 0.5, 0.0]
    assert after([2, 2], repetition_penalty=2.0) == [1.0, -2.0, 0.5, 0.5, 0.0]
    assert after([2, 2, 3], presence_penalty=0.5) == [2.0, -1.0, 0.5, 0.0, 0.0]
    assert after([2, 2, 3], frequency_penalty=0.5) == [2.0, -1.0, 0.0, 0.0, 0.0]
    assert after([], logit_bias={4: 3.0, 0: -math.inf, 99: 1.0}) == [-math.inf, -1.0, 1.0, 0.5, 3.0]
    assert logits.tolist() == [2.0, -1.0, 1.0, 0.5, 0.0]


def test_likeliest() -> None:
    found = likeliest(P.log()[0], 2)
    assert [token for token, _ in found] == [0, 1]
    assert [value for _, value in found] == pytest.approx([math.log(0.5), math.log(0.25)])
    assert len(likeliest(P.log()[0], 99)) == 4
