"""Laws of the engine: it is the model, only faster."""

from __future__ import annotations

import random
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from publius.inference.engine import Completion, Engine
from publius.inference.native import library as native_library
from publius.inference.native import why_not
from publius.inference.sampling import Sampling
from publius.model.likelihood import logprobs
from publius.model.rope import DynamicRope, LinearRope, Llama3Rope, YarnRope
from publius.testing import byte_tokenizer, tiny_model

TOKENIZER = byte_tokenizer()
BOTH = pytest.mark.parametrize("native", [True, False], ids=["native", "torch"])
MODEL = tiny_model(3)
BIASED = tiny_model(4, qkv_bias=True, o_bias=True, mlp_bias=True)
for _bias in BIASED.parameters():
    if _bias.ndim == 1:
        torch.nn.init.normal_(_bias, 0.3, 0.3, generator=torch.Generator().manual_seed(1))


def prompts_of(lengths: list[int], seed: int = 0, shared: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    prefix = [rng.randrange(13, 269) for _ in range(shared)]
    return [prefix + [rng.randrange(13, 269) for _ in range(n)] for n in lengths]


def full_forward(tokens: list[int], model=MODEL) -> torch.Tensor:
    """Log-probabilities [T, V] of an uncached, unbatched pass."""
    with torch.no_grad():
        return model(torch.tensor([tokens]))[0].float().log_softmax(-1)


@BOTH
@pytest.mark.parametrize("shared", [0, 40])
def test_cached_decoding_is_the_full_forward(shared: int, native: bool) -> None:
    engine = Engine(MODEL, TOKENIZER, max_batch=3, native=native)
    prompts = prompts_of([5, 17, 1, 9, 30, 2, 2], shared=shared)
    for prompt, done in zip(
        prompts, engine.generate(prompts, Sampling(max_tokens=12, temperature=0)), strict=True
    ):
        reference = full_forward(prompt + list(done.tokens))[len(prompt) - 1 : -1]
        assert reference.argmax(-1).tolist() == list(done.tokens)
        expected = [reference[j, token].item() for j, token in enumerate(done.tokens)]
        assert done.logprobs == pytest.approx(expected, abs=1e-4)


VARIANTS: dict[str, dict[str, object]] = {
    "window": {"sliding_window": 9},
    "window of one": {"sliding_window": 1},
    "windows on some layers": {"sliding_window": 5, "window_layers": (1,), "no_rope_layers": (1,)},
    "near and far": {
        "sliding_window": 5,
        "window_layers": (0,),
        "no_rope_layers": (1,),
        "qkv_bias": True,
        "o_bias": True,
    },
    "qwen2": {"qkv_bias": True, "sliding_window": 20, "window_layers": (0,)},
    "qwen3": {"qk_norm": True, "head_dim": 16},
    "biases": {"qkv_bias": True, "o_bias": True, "mlp_bias": True, "no_rope_layers": (0,)},
    "linear": {"rope": LinearRope(factor=4)},
    "dynamic": {"rope": DynamicRope(factor=4), "max_position": 128},
    "yarn": {"rope": YarnRope(factor=4, original_max_position=32)},
    "llama3": {"rope": Llama3Rope(factor=4, original_max_position=32)},
}


@BOTH
@pytest.mark.parametrize(
    "rope", [None, YarnRope(factor=16, original_max_position=256)], ids=["plain", "yarn"]
)
def test_cached_decoding_at_4096_is_the_full_forward(rope: YarnRope | None, native: bool) -> None:
    """To the last position there is, beside a shorter row; sampled, so that the choices are many."""
    model = tiny_model(3, max_position=4096, **({} if rope is None else {"rope": rope}))
    prompts = prompts_of([4090, 3000])
    done = Engine(model, TOKENIZER, native=native).generate(prompts, Sampling(max_tokens=6, seed=1))
    for prompt, completion in zip(prompts, done, strict=True):
        reference = full_forward(prompt + list(completion.tokens), model)[len(prompt) - 1 : -1]
        expected = [reference[j, token].item() for j, token in enumerate(completion.tokens)]
        assert completion.logprobs == pytest.approx(expected, abs=1e-3)


@BOTH
@pytest.mark.parametrize("shared", [0, 40])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_decodes_and_scores_as_its_full_forward(
    variant: str, shared: int, native: bool
) -> None:
    """A window, a rotation or a norm is the same over the cache (after a shared prefix or not) as without."""
    model = tiny_model(3, **VARIANTS[variant])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.3)
    engine = Engine(model, TOKENIZER, max_batch=3, native=native)
    prompts = prompts_of([5, 17, 1, 30, 2], shared=shared)
    done = engine.generate(prompts, Sampling(max_tokens=12, seed=4))
    scored = engine.score(prompts, [c.tokens for c in done])
    for prompt, completion, again in zip(prompts, done, scored, strict=True):
        reference = full_forward(prompt + list(completion.tokens), model)[len(prompt) - 1 : -1]
        expected = [reference[j, token].item() for j, token in enumerate(completion.tokens)]
        assert completion.logprobs == pytest.approx(expected, abs=1e-4)
        assert again == pytest.approx(expected, abs=1e-4)


@settings(max_examples=15)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=9),
    max_batch=st.integers(1, 5),
    shared=st.sampled_from([0, 20]),
    seed=st.integers(0, 100),
    native=st.booleans(),
)
def test_batched_is_single(lengths: list[int], max_batch: int, shared: int, seed: int, native: bool) -> None:
    """Greedy and seeded rows are the same alone as in any batch with any neighbours, in fp32."""
    prompts = prompts_of(lengths, seed, shared)
    rng = random.Random(seed)
    samplings = [
        Sampling(
            max_tokens=rng.randint(1, 15),
            temperature=rng.choice([0.0, 0.7, 1.0]),
            top_k=rng.choice([None, 3, 50]),
            top_p=rng.choice([None, 0.8]),
            seed=i,
        )
        for i in range(len(prompts))
    ]
    together = Engine(MODEL, TOKENIZER, max_batch=max_batch, native=native).generate(prompts, samplings)
    single = Engine(MODEL, TOKENIZER, max_batch=1, native=native)
    for prompt, sampling, batched in zip(prompts, samplings, together, strict=True):
        alone = single.generate([prompt], sampling)[0]
        assert alone.tokens == batched.tokens
        assert alone.stop_reason == batched.stop_reason
        assert alone.logprobs == pytest.approx(batched.logprobs, abs=1e-3)


def test_one_seed_for_all_gives_each_row_its_own_stream() -> None:
    prompt = prompts_of([6])[0]
    sampling = Sampling(max_tokens=10, seed=5)
    five = Engine(MODEL, TOKENIZER, max_batch=2).generate([prompt] * 5, sampling)
    three = Engine(MODEL, TOKENIZER).generate([prompt] * 3, sampling)
    assert [c.tokens for c in five[:3]] == [c.tokens for c in three]
    assert len({c.tokens for c in five}) == 5


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("shared", [0, 24])
@BOTH
def test_trainer_and_engine_agree(dtype: torch.dtype, tolerance: float, shared: int, native: bool) -> None:
    """The trainer's log-probs of sampled tokens are those the engine reported, and those it scores.

    As fresh weights are (scale 1): bf16 carries 8 bits, so the tolerance is for log-probs of a few nats.
    """
    model = tiny_model(1, scale=1.0).to(dtype)
    engine = Engine(model, TOKENIZER, max_batch=4, native=native)
    prompts = prompts_of([3, 11, 7, 20, 1], shared=shared)
    done = engine.generate(prompts, Sampling(max_tokens=20, seed=1))
    scored = engine.score(prompts, [c.tokens for c in done])
    for prompt, completion, again in zip(prompts, done, scored, strict=True):
        tokens = torch.tensor([[*prompt, *completion.tokens]])
        trained = logprobs(model, tokens[:, :-1], tokens[:, 1:])[0, len(prompt) - 1 :]
        assert completion.logprobs == pytest.approx(trained.tolist(), abs=tolerance)
        assert again == pytest.approx(trained.tolist(), abs=tolerance)


@settings(max_examples=15)
@given(
    rows=st.lists(st.tuples(st.integers(1, 30), st.integers(0, 12)), min_size=1, max_size=10),
    shared=st.sampled_from([0, 17, 60]),
    max_batch=st.integers(1, 6),
    native=st.booleans(),
)
def test_score_is_the_full_forward(
    rows: list[tuple[int, int]], shared: int, max_batch: int, native: bool
) -> None:
    prompts = prompts_of([n for n, _ in rows], shared=shared)
    continuations = prompts_of([m for _, m in rows], seed=1)
    scores = Engine(MODEL, TOKENIZER, max_batch=max_batch, native=native).score(prompts, continuations)
    for prompt, continuation, score in zip(prompts, continuations, scores, strict=True):
        reference = full_forward(prompt + continuation)[len(prompt) - 1 :]
        expected = [reference[j, token].item() for j, token in enumerate(continuation)]
        assert score == pytest.approx(expected, abs=1e-4)


def test_streamed_is_generated() -> None:
    engine = Engine(MODEL, TOKENIZER)
    prompt = prompts_of([9])[0]
    sampling = Sampling(max_tokens=15, seed=2)
    assert tuple(engine.stream(prompt, sampling)) == engine.generate([prompt], sampling)[0].tokens


needs_native = pytest.mark.skipif(native_library() is None, reason=f"no native pass: {why_not()}")


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, "int8"], ids=str)
@settings(max_examples=10)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=8),
    max_batch=st.integers(1, 9),
    step_tokens=st.integers(1, 40),
    shared=st.sampled_from([0, 20, 33]),
    speculate=st.sampled_from([0, 3]),
    pages=st.integers(8, 30),
    threads=st.integers(1, 3),
    seed=st.integers(0, 1000),
    biased=st.booleans(),
)
def test_natively_nothing_but_the_prompt_matters_to_the_bit(
    dtype: torch.dtype | Literal["int8"], lengths: list[int], max_batch: int, step_tokens: int, shared: int,
    speculate: int, pages: int, threads: int, seed: int, biased: bool,
) -> None:  # fmt: skip
    """Batches, chunks, reused prefixes, preemption, guesses, threads: no number moves."""
    model = BIASED if biased else MODEL
    prompts = prompts_of(lengths, seed, shared)
    rng = random.Random(seed)
    samplings = [
        Sampling(max_tokens=rng.randint(1, 24), temperature=rng.choice([0.0, 0.3, 1.0]), top_k=5, seed=i)
        for i in range(len(prompts))
    ]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        engine = Engine(
            model, TOKENIZER, dtype=dtype, max_batch=max_batch, step_tokens=step_tokens, speculate=speculate,
            cache_tokens=pages * 16,
        )  # fmt: skip
        done = engine.generate(prompts, samplings)
        again = engine.generate(prompts, samplings)
        scored = engine.score(prompts, [c.tokens for c in done])
    finally:
        torch.set_num_threads(before)
    assert engine.stats.pages == 0
    for prompt, sampling, one, other, score in zip(prompts, samplings, done, again, scored, strict=True):
        alone = Engine(model, TOKENIZER, dtype=dtype, max_batch=1).generate([prompt], sampling)[0]
        assert one == other == alone
        if sampling.temperature == 0:
            assert score == pytest.approx(one.logprobs, abs=1e-5)


@needs_native
def test_long_rows_cut_between_threads_are_the_same_to_the_bit() -> None:
    """One key head and nine thousand tokens: spans of keys are shared out, or not, and put together alike."""
    model = tiny_model(3, max_position=9100, kv_heads=1)
    [prompt], sampling = prompts_of([9000]), Sampling(max_tokens=6, seed=1)
    found: list[Completion] = []
    before = torch.get_num_threads()
    try:
        for threads, step_tokens in ((1, 9000), (2, 1000), (3, 4096)):
            torch.set_num_threads(threads)
            engine = Engine(model, TOKENIZER, max_batch=1, step_tokens=step_tokens)
            found += engine.generate([prompt], sampling)
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]
    reference = full_forward(prompt + list(found[0].tokens), model)[len(prompt) - 1 : -1]
    expected = [reference[j, token].item() for j, token in enumerate(found[0].tokens)]
    assert found[0].logprobs == pytest.approx(expected, abs=1e-3)


@BOTH
def test_guesses_stand_where_text_repeats(native: bool) -> None:
    """A model that repeats itself is guessed right, and says what it would have said."""
    plain, guessing = (Engine(MODEL, TOKENIZER, speculate=speculate, native=native) for speculate in (0, 4))
    prompts, sampling = prompts_of([9, 30, 4]), Sampling(max_tokens=40, temperature=0)
    done = guessing.generate(prompts, sampling)
    assert [c.tokens for c in done] == [c.tokens for c in plain.generate(prompts, sampling)]
    stats = guessing.stats
    assert 0 < stats.accepted <= stats.guessed
    assert stats.steps < plain.stats.steps
