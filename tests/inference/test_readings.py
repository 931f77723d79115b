"""A probe reads the state each token is drawn from: the model's own, however the engine came there."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from publius.core.errors import UserError
from publius.inference.engine import Engine
from publius.inference.readings import Probe, states_of
from publius.inference.request import Request
from publius.inference.sampling import Sampling
from publius.testing import byte_tokenizer, tiny_model

TOKENIZER = byte_tokenizer()
BOTH = pytest.mark.parametrize("native", [True, False], ids=["native", "torch"])
LAYERS = 3
MODEL = tiny_model(3, layers=LAYERS)


def probe(outputs: int = 2, layers: tuple[int, ...] = (), seed: int = 0, width: int = 32) -> Probe:
    wide = (len(layers) + 1) * width + 1
    return Probe(np.random.default_rng(seed).normal(size=(outputs, wide)).astype(np.float32), layers)


def expected(request: Request, model=MODEL) -> np.ndarray:
    """By the model's own forward over the whole text."""
    assert request.probe is not None
    row = torch.tensor([[*request.prompt, *request.tokens]])
    states = states_of(model, row, request.probe.layers)[0][len(request.prompt) - 1 : -1].numpy()
    return states @ request.probe.weights[:, :-1].T + request.probe.weights[:, -1]


def check(request: Request, model=MODEL) -> None:
    assert request.readings.shape == (len(request.tokens), 0 if request.probe is None else len(request.probe))
    if request.probe is not None:
        assert np.abs(request.readings - expected(request, model)).max() <= 1e-4


def prompt_of(rng: random.Random, length: int) -> list[int]:
    return [rng.randrange(13, 269) for _ in range(length)]


@settings(max_examples=25)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=7),
    shared=st.sampled_from([0, 20, 48]),
    max_batch=st.integers(1, 4),
    chunk=st.sampled_from([1, 7, 1024]),
    cache=st.sampled_from([None, 160]),
    speculate=st.sampled_from([0, 3]),
    layers=st.sampled_from([(), (1,), (1, 2)]),
    seed=st.integers(0, 1000),
    native=st.booleans(),
)
def test_same_readings(
    lengths: list[int], shared: int, max_batch: int, chunk: int, cache: int | None, speculate: int,
    layers: tuple[int, ...], seed: int, native: bool,
) -> None:  # fmt: skip
    """Under shared prefixes, n > 1, chunks, preemption, guesses and company, with probes or without."""
    rng = random.Random(seed)
    prefix = prompt_of(rng, shared)
    prompts = [prefix + prompt_of(rng, length) for length in lengths]
    prompts += prompts[:2]  # n > 1
    engine = Engine(
        MODEL, TOKENIZER, max_batch=max_batch, step_tokens=chunk, cache_tokens=cache, speculate=speculate,
        native=native,
    )  # fmt: skip
    known = [None, probe(2, layers), probe(1, (), 1)]
    requests = [
        Request(
            prompt,
            Sampling(max_tokens=rng.choice([1, 5, 24]), temperature=rng.choice([0.0, 0.3]), seed=seed),
            stream=i,
            priority=rng.randrange(2),
            probe=known[(i + seed) % 3],
        )
        for i, prompt in enumerate(prompts)
    ]
    engine.complete(requests)
    for request in requests:
        check(request)


@BOTH
def test_a_reused_prefix_a_preempted_row_and_a_rejected_guess_read_alike(native: bool) -> None:
    """The conditions of the property above do arise."""
    rng = random.Random(1)
    prefix = prompt_of(rng, 64)
    tight = Engine(MODEL, TOKENIZER, max_batch=6, cache_tokens=192, speculate=3, native=native)
    requests = [
        Request([*prefix, *prompt_of(rng, 3)], Sampling(max_tokens=60, temperature=0.0), probe=probe())
        for _ in range(6)
    ]
    tight.complete(requests)
    stats = tight.stats
    assert stats.reused > 0 and stats.preempted > 0 and stats.guessed > stats.accepted
    for request in requests:
        check(request)


def test_a_natively_read_row_does_not_depend_on_its_company_to_the_bit() -> None:
    rng = random.Random(2)
    prompts = [prompt_of(rng, length) for length in (3, 30, 17)]
    engine = Engine(MODEL, TOKENIZER)
    if not engine.native:
        pytest.skip("no native pass here")
    one = probe(3, (1,))

    def read(engine: Engine, prompts: list[list[int]]) -> list[np.ndarray]:
        asked = [Request(p, Sampling(max_tokens=20, seed=5), probe=one) for p in prompts]
        engine.complete(asked)
        return [request.readings for request in asked]

    together = read(engine, prompts)
    for prompt, found in zip(prompts, together, strict=True):
        assert np.array_equal(read(Engine(MODEL, TOKENIZER, step_tokens=4), [prompt])[0], found)


@BOTH
def test_what_is_said_is_the_same_with_a_probe(native: bool) -> None:
    sampling = Sampling(max_tokens=20, seed=1)
    plain, read = Request([5, 20, 30], sampling), Request([5, 20, 30], sampling, probe=probe(2, (2,)))
    for one in (plain, read):  # each by an engine that has read nothing, so that both read the same rows
        Engine(MODEL, TOKENIZER, native=native).complete([one])
    assert plain.tokens == read.tokens and plain.logprobs == read.logprobs
    assert plain.readings.shape == (len(plain.tokens), 0)


@BOTH
def test_bf16_reads_what_its_own_pass_computed(native: bool) -> None:
    engine = Engine(MODEL, TOKENIZER, native=native, dtype=torch.bfloat16)
    request = Request([5, 20, 30], Sampling(max_tokens=20, seed=1), probe=probe(2, (1,)))
    engine.complete([request])
    size = float(np.abs(expected(request)).max())
    assert np.abs(request.readings - expected(request)).max() <= 0.05 * size


def test_readings_grow_with_the_tokens_of_a_request_that_runs() -> None:
    engine = Engine(MODEL, TOKENIZER)
    request = engine.submit([5, 20, 30], Sampling(max_tokens=9, temperature=0.0), probe=probe())
    assert request.readings.shape == (0, 2)
    while engine.step():
        check(request)
    check(request)


def test_other_weights_are_read_from_then_on() -> None:
    engine = Engine(MODEL, TOKENIZER)
    other = tiny_model(4, layers=LAYERS)
    request = Request([5, 20, 30], Sampling(max_tokens=6, seed=1), probe=probe())
    engine.complete([request])
    engine.load(other)
    again = Request([5, 20, 30], Sampling(max_tokens=6, seed=1), probe=probe())
    engine.complete([again])
    check(again, other)


def test_probes_beside_each_other_say_what_each_says() -> None:
    parts = [probe(2, (1,), 1), probe(1, (), 2), probe(3, (2,), 3)]
    whole = Probe.beside(parts)
    assert whole is not None and whole.layers == (1, 2) and len(whole) == 6
    engine, sampling = Engine(MODEL, TOKENIZER), Sampling(max_tokens=8, seed=3)
    asked = [Request([5, 20, 30], sampling, probe=one) for one in (whole, *parts)]
    engine.complete(asked)
    beside = np.concatenate([request.readings for request in asked[1:]], 1)
    assert np.abs(asked[0].readings - beside).max() <= 1e-4
    assert Probe.beside([]) is None


@pytest.mark.parametrize(
    "wrong",
    [
        Probe(np.zeros((1, 32), np.float32)),
        Probe(np.zeros((1, 65), np.float32)),
        Probe(np.zeros((1, 65), np.float32), (LAYERS,)),
        Probe(np.zeros((1, 97), np.float32), (2, 1)),
        Probe(np.full((1, 33), np.nan, np.float32)),
    ],
)
def test_a_probe_of_another_model_is_refused(wrong: Probe) -> None:
    engine = Engine(MODEL, TOKENIZER)
    with pytest.raises(UserError, match="probe"):
        engine.submit([5], Sampling(max_tokens=2), probe=wrong)
    assert not engine.step()
