"""What the engine keeps of the last layer's input: the model's own, however the engine came there."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from publius.inference.engine import Engine
from publius.inference.native import library
from publius.inference.readings import Probe
from publius.inference.request import Request
from publius.inference.sampling import Sampling
from publius.safety.rereading import stream_before
from publius.testing import byte_tokenizer, tiny_model

TOKENIZER = byte_tokenizer()
MODEL = tiny_model(3, layers=3)
PROBE = Probe(np.random.default_rng(0).normal(size=(1, 33)).astype(np.float32))
pytestmark = pytest.mark.skipif(library() is None, reason="only the native pass keeps it")


def asked(seed: int, length: int, *, new: int = 24, probe: Probe | None = PROBE) -> Request:
    rng = random.Random(seed)
    prompt = [rng.randrange(13, 269) for _ in range(length)]
    return Request(prompt, Sampling(max_tokens=new, temperature=0.0, stop_ids=()), probe=probe)


def kept(request: Request) -> np.ndarray:
    """Of every place that a token was drawn from, and before."""
    assert request.trunk is not None
    return request.trunk.values_TD[: request.length - 1].copy()


def alone(request: Request) -> np.ndarray:
    one = Request(request.prompt, request.sampling, probe=PROBE)
    Engine(MODEL, TOKENIZER, max_batch=1, trunk=True).complete([one])
    assert one.tokens == request.tokens
    return kept(one)


def test_it_is_what_the_last_block_gets() -> None:
    request = asked(0, 40)
    Engine(MODEL, TOKENIZER, trunk=True).complete([request])
    with torch.no_grad():
        row = torch.tensor([[*request.prompt, *request.tokens]])
        wanted = stream_before(MODEL, row)[0, :-1].numpy()
    np.testing.assert_allclose(kept(request), wanted, atol=1e-4)


@settings(max_examples=20)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=5),
    shared=st.sampled_from([0, 16, 48]),
    max_batch=st.integers(1, 4),
    chunk=st.sampled_from([4, 7, 1024]),
    cache=st.sampled_from([None, 160]),
    speculate=st.sampled_from([0, 3]),
    plain=st.booleans(),
)
def test_company_chunks_prefixes_preemption_and_guesses_change_no_bit(
    lengths: list[int],
    shared: int,
    max_batch: int,
    chunk: int,
    cache: int | None,
    speculate: int,
    plain: bool,
) -> None:
    engine = Engine(
        MODEL, TOKENIZER, max_batch=max_batch, step_tokens=chunk, cache_tokens=cache, speculate=speculate,
        trunk=True,
    )  # fmt: skip
    start = asked(9, shared, new=1).prompt
    if plain and shared:  # pages that were filled for a request without a probe have it too
        engine.complete([asked(9, shared, new=1, probe=None)])
    requests = [asked(seed, length) for seed, length in enumerate(lengths)]
    for request in requests:
        request.prompt = [*start, *request.prompt]
    engine.complete(requests)
    for request in requests:
        assert np.array_equal(kept(request), alone(request))


def test_who_has_no_probe_or_no_such_engine_has_none() -> None:
    one, other = asked(1, 20, probe=None), asked(1, 20)
    Engine(MODEL, TOKENIZER, trunk=True).complete([one])
    Engine(MODEL, TOKENIZER).complete([other])
    assert one.trunk is None and other.trunk is None
    torch_only = asked(1, 20)
    Engine(MODEL, TOKENIZER, native=False, trunk=True).complete([torch_only])
    assert torch_only.trunk is None
    assert np.array_equal(one.tokens, other.tokens)


def test_what_a_probe_says_is_the_same_to_the_bit_read_in_the_pass_or_from_states() -> None:
    """Two different probes in one step are read from the states, one alone in the pass."""
    deep = Probe(np.random.default_rng(1).normal(size=(2, 65)).astype(np.float32), (1,))
    together = [asked(1, 30), asked(2, 20, probe=deep), asked(3, 5, probe=None)]
    Engine(MODEL, TOKENIZER).complete(together)
    for request in together[:2]:
        one = Request(request.prompt, request.sampling, probe=request.probe)
        Engine(MODEL, TOKENIZER).complete([one])
        assert np.array_equal(one.readings, request.readings) and np.isfinite(one.readings).all()
