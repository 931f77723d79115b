"""Greedy tokens are those of transformers, for every family and however the engine comes to them.

The reference is the plainest there is: an argmax over a full forward of transformers for every token, fp32,
no cache. Two programs round differently, so where the reference's two likeliest tokens are less than `NEAR`
apart in logits the choice is open, and nothing of that row is compared from there on; `LEAST` of all tokens
must have been compared all the same.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from publius.inference.engine import Completion, Engine, Sampling
from publius.inference.native import library as native_library
from publius.model.checkpoint import load_model
from publius.model.transformer import Transformer
from publius.testing import byte_tokenizer

TOKENIZER = byte_tokenizer()
BOTH = pytest.mark.parametrize("native", [True, False], ids=["native", "torch"])
NEAR, LEAST = 1e-3, 0.95
NEW = 10
GREEDY = Sampling(max_tokens=NEW, temperature=0)

SHAPE: dict[str, Any] = {
    "vocab_size": 269, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 0,
    "initializer_range": 0.3, "tie_word_embeddings": False,
}  # fmt: skip
TIED = SHAPE | {"tie_word_embeddings": True}
LONG = SHAPE | {"max_position_embeddings": 2048}
LINEAR = {"rope_type": "linear", "factor": 3.0, "rope_theta": 1e4}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 1e4}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32, "rope_theta": 5e5,
}  # fmt: skip
FAMILIES = {
    "llama": LlamaConfig(**TIED),
    "llama-mha-biases": LlamaConfig(**SHAPE | {"num_key_value_heads": 4}, attention_bias=True, mlp_bias=True),
    "llama-mqa-linear": LlamaConfig(
        **SHAPE | {"num_key_value_heads": 1}, rope_parameters=LINEAR, head_dim=16
    ),
    "llama-llama3": LlamaConfig(**TIED, rope_parameters=LLAMA3),
    "mistral-window": MistralConfig(**SHAPE, sliding_window=7),
    "mistral-yarn": MistralConfig(**SHAPE, sliding_window=40, rope_parameters=YARN, head_dim=16),
    "qwen2": Qwen2Config(**TIED),
    "qwen2-windows": Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=5, max_window_layers=1),
    "qwen3": Qwen3Config(**SHAPE, head_dim=16),
    "qwen3-yarn": Qwen3Config(**TIED, head_dim=8, rope_parameters=YARN),
    "smollm3": SmolLM3Config(
        **TIED, use_sliding_window=True, sliding_window=17, no_rope_layers=[1, 0], attention_bias=True
    ),
}
LONG_FAMILIES = {
    "llama-llama3": LlamaConfig(**LONG, rope_parameters=LLAMA3 | {"original_max_position_embeddings": 256}),
    "mistral-yarn": MistralConfig(
        **LONG, sliding_window=600, rope_parameters=YARN | {"original_max_position_embeddings": 512}
    ),
}


class Said(NamedTuple):
    """What transformers says after a prompt, as far as it is certain."""

    tokens: list[int]
    logprobs: list[float]
    whole: bool
    """Whether that is all of it."""


class Case(NamedTuple):
    """A checkpoint that was imported, and what transformers makes of some prompts."""

    model: Transformer
    theirs: Any
    prompts: list[list[int]]
    said: list[Said]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """More only wait for each other, at this size."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def random_model(config: Any) -> Any:
    """Every number random: norms and biases too, which a fresh model leaves at 1 and 0."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for value in model.parameters():
            if value.ndim == 1:
                value.add_(torch.randn_like(value) * 0.3)
    return model


@torch.no_grad()
def reference(theirs: Any, prompts: Sequence[Sequence[int]], new: int) -> list[Said]:
    """An argmax after a full forward for every token; rows are filled up on the right, which none sees."""
    rows = [list(prompt) for prompt in prompts]
    said = [Said([], [], False) for _ in prompts]
    open_rows = list(range(len(rows)))
    for _ in range(new):
        width = max(len(rows[i]) for i in open_rows)
        tokens = torch.tensor([rows[i] + [0] * (width - len(rows[i])) for i in open_rows])
        last = torch.tensor([len(rows[i]) - 1 for i in open_rows])
        states = theirs.model(tokens).last_hidden_state[torch.arange(len(open_rows)), last]
        logits = theirs.lm_head(states)
        top = logits.topk(2).values
        for i, token, logp, gap in zip(
            tuple(open_rows),
            logits.argmax(-1).tolist(),
            logits.log_softmax(-1).max(-1).values.tolist(),
            (top[:, 0] - top[:, 1]).tolist(),
            strict=True,
        ):
            if gap < NEAR:
                open_rows.remove(i)
                continue
            rows[i].append(token)
            said[i].tokens.append(token)
            said[i].logprobs.append(logp)
            if token == TOKENIZER.end_id or len(said[i].tokens) == new:
                said[i] = said[i]._replace(whole=True)
                open_rows.remove(i)
        if not open_rows:
            break
    return said


def make_case(config: Any, folder: Any, prompts: list[list[int]], new: int) -> Case:
    theirs = random_model(config)
    theirs.save_pretrained(folder)
    said = reference(theirs, prompts, new)
    assert sum(len(one.tokens) for one in said) >= LEAST * new * len(prompts)
    assert len({tuple(one.tokens) for one in said}) > len(prompts) / 2  # or there was nothing to tell apart
    return Case(load_model(folder), theirs, prompts, said)


def some_prompts() -> list[list[int]]:
    """64 of them: 1 to 70 tokens, whole pages and one more, shared beginnings, one twice, repetitions."""
    rng = random.Random(0)

    def ids(count: int) -> list[int]:
        return [rng.randrange(13, 269) for _ in range(count)]

    shared = ids(48)
    prompts = [ids(n) for n in (1, 1, 2, 15, 16, 17, 31, 32, 33, 48, 64, 70)]
    prompts += [shared[:n] for n in (16, 17, 32, 47, 48)] + [list(shared)]
    prompts += [shared[: rng.choice([16, 33, 48])] + ids(rng.randint(1, 20)) for _ in range(22)]
    prompts += [ids(rng.randint(2, 5)) * 6 for _ in range(8)]
    return prompts + [ids(rng.randint(1, 40)) for _ in range(64 - len(prompts))]


PROMPTS = some_prompts()


@pytest.fixture(scope="module", params=FAMILIES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    yield make_case(FAMILIES[request.param], tmp_path_factory.mktemp("theirs"), PROMPTS, NEW)


def check(done: Sequence[Completion], said: Sequence[Said]) -> None:
    """Tokens and their log-probabilities, as far as the reference is certain."""
    for number, (ours, theirs) in enumerate(zip(done, said, strict=True)):
        count = len(theirs.tokens)
        assert list(ours.tokens[:count]) == theirs.tokens, f"row {number}"
        assert list(ours.logprobs[:count]) == pytest.approx(theirs.logprobs, abs=1e-3), f"row {number}"
        if theirs.whole:
            assert len(ours.tokens) == count, f"row {number}"


def engine_of(case: Case, native: bool, **more: Any) -> Engine:
    engine = Engine(case.model, TOKENIZER, native=native, **more)
    assert engine.native == (native and native_library() is not None)
    return engine


def test_the_reference_is_what_transformers_generates(case: Case) -> None:
    """Its own cached generation says the same, so the loop above is no invention of ours."""
    for prompt, said in zip(case.prompts[10:50:13], case.said[10:50:13], strict=True):
        made = case.theirs.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            max_new_tokens=NEW,
            do_sample=False,
            eos_token_id=TOKENIZER.end_id,
        )[0, len(prompt) :].tolist()
        assert made[: len(said.tokens)] == said.tokens


@BOTH
def test_one_by_one(case: Case, native: bool) -> None:
    """Each alone, and each beginning known from those before."""
    engine = engine_of(case, native, max_batch=1)
    check(engine.generate(case.prompts[::2], GREEDY), case.said[::2])
    assert engine.stats.reused > 0


@BOTH
@pytest.mark.parametrize("max_batch", [3, 64])
def test_together_and_again(case: Case, max_batch: int, native: bool) -> None:
    """A batch of 64 (or three at once), and then the same again from the prefix cache."""
    engine = engine_of(case, native, max_batch=max_batch, cache_tokens=8192)
    check(engine.generate(case.prompts, GREEDY), case.said)
    read = engine.stats.read
    check(engine.generate(case.prompts, GREEDY), case.said)
    assert engine.stats.read - read < read
    assert engine.stats.pages == 0


@BOTH
def test_in_small_pieces(case: Case, native: bool) -> None:
    """Prompts are read eleven tokens a step, beside rows that decode."""
    engine = engine_of(case, native, max_batch=5, step_tokens=11)
    check(engine.generate(case.prompts[1::2], GREEDY), case.said[1::2])


@BOTH
def test_with_too_little_room(case: Case, native: bool) -> None:
    """Requests give their pages up, and are read again."""
    engine = engine_of(case, native, max_batch=8, cache_tokens=12 * 16)
    check(engine.generate(case.prompts, GREEDY), case.said)
    assert engine.stats.preempted > 0
    assert engine.stats.pages == 0


@BOTH
def test_guessed(case: Case, native: bool) -> None:
    """Some guesses stand, some do not."""
    engine = engine_of(case, native, speculate=4)
    check(engine.generate(case.prompts, GREEDY), case.said)
    assert 0 < engine.stats.accepted < engine.stats.guessed


@BOTH
def test_guessed_by_another_model(case: Case, native: bool) -> None:
    """One that is nearly the same, so that it is often right."""
    other = copy.deepcopy(case.model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in other.parameters():
            value.add_(torch.randn(value.shape, generator=generator) * 0.02)
    engine = engine_of(case, native, speculate=3, draft=other)
    check(engine.generate(case.prompts[::2], GREEDY), case.said[::2])
    assert 0 < engine.stats.accepted < engine.stats.guessed


@BOTH
def test_several_of_each(case: Case, native: bool) -> None:
    """Greedily, several samples are one, read once."""
    engine = engine_of(case, native)
    groups = engine.samples(case.prompts[5:25], GREEDY, 3)
    for number in range(3):
        check([group[number] for group in groups], case.said[5:25])


@BOTH
def test_all_at_once(case: Case, native: bool) -> None:
    """Small pieces, little room, guesses and a batch that is not full, all in one engine, twice."""
    engine = engine_of(case, native, max_batch=7, step_tokens=23, cache_tokens=14 * 16, speculate=4)
    for _ in range(2):
        check(engine.generate(case.prompts[::-1], GREEDY), case.said[::-1])
    assert engine.stats.pages == 0


LENGTHS = (1, 511, 512, 513, 1024, 2000)


@pytest.fixture(scope="module", params=LONG_FAMILIES)
def long_case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    rng = random.Random(1)
    longest = [rng.randrange(13, 269) for _ in range(LENGTHS[-1])]
    prompts = [longest[:n] for n in LENGTHS] + [[*longest[:700], *longest[:40]]]
    yield make_case(LONG_FAMILIES[request.param], tmp_path_factory.mktemp("theirs"), prompts, 5)


@BOTH
@pytest.mark.parametrize("step_tokens", [1024, 300])
def test_prompts_of_2000_tokens(long_case: Case, step_tokens: int, native: bool) -> None:
    """One the beginning of the other; then again, with all but the last page known."""
    engine = engine_of(long_case, native, step_tokens=step_tokens, speculate=2)
    sampling = Sampling(max_tokens=5, temperature=0)
    for _ in range(2):
        check(engine.generate(long_case.prompts, sampling), long_case.said)
    assert engine.stats.reused > 2000
