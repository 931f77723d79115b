"""Ten thousand requests of every kind, in a random order of everything an engine can do.

They come with every kind of sampling, priorities and deadlines, often beginning alike; they are cancelled,
streamed and left, scored, generated and sampled in between, over a cache that is too small for them, and now
and then the weights change. Whatever the order, each says what a fresh engine says to it alone, nothing stays
behind, and every step reads something. All is drawn from a seed, so a failure comes again.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import pytest
import torch

from publius.core.errors import UserError
from publius.inference.engine import Completion, Engine, Request, Sampling
from publius.inference.native import library as native_library
from publius.inference.native import why_not
from publius.model.transformer import Transformer
from publius.testing import byte_tokenizer, tiny_model

TOKENIZER = byte_tokenizer()
PAGES = 9
LONGEST, MOST_NEW = 70, 8
SHAPES: tuple[dict[str, Any], ...] = (
    {},
    {"layers": 1, "qk_norm": True, "head_dim": 10, "sliding_window": 21},
)
KINDS = ("max_tokens", "stop_sequence", "end", "cancelled", "deadline")
LIVE = 24
"""Most requests at once."""
FATAL = 268
"""What a request that must fail holds."""


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """More only wait for each other, at this size. That their number changes nothing is a law of its own."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(eq=False)
class Asked:
    """One request of ours: what was asked, and what has come."""

    prompt: list[int]
    sampling: Sampling
    request: Request | None = None
    stream: Generator[int, None, Completion] | None = None
    streamed: list[int] = field(default_factory=list[int])
    version: int | None = None
    """Of the weights it began with; None when they have changed since."""


class Soak:
    """One engine, what is under way in it, and what has ended and was not compared yet.

    Args:
        seed: of everything.
        native: which pass.
        dtype: of weights.
        fails: now and then a request comes that no model can continue: its last tokens have no numbers.
        options: of the engine.
    """

    def __init__(
        self,
        seed: int,
        *,
        native: bool,
        dtype: Any = None,
        cache_dtype: Any = None,
        fails: bool = False,
        **options: Any,
    ) -> None:
        self.rng = random.Random(seed)
        self.native, self.fails = native, fails
        self.kept = {"native": native, "dtype": dtype, "cache_dtype": cache_dtype}
        self.shape = SHAPES[0]
        self.model = self.new_model(3)
        self.engine = self.made(cache_tokens=PAGES * 16, **options)
        self.begun = self.compared = self.version = self.reused = self.preempted = 0
        self.live: list[Asked] = []
        self.beginnings = [self.ids(n) for n in (8, 16, 20, 32, 33, 48, 60)]
        self.kinds = dict.fromkeys(KINDS, 0)

    def made(self, **options: Any) -> Engine:
        return Engine(self.model, TOKENIZER, **self.kept, **options)

    def new_model(self, seed: int) -> Transformer:
        if not self.fails:
            return tiny_model(seed, **self.shape)
        model = tiny_model(seed, tie_embeddings=False, **self.shape)
        with torch.no_grad():
            model.model.embed_tokens.weight[FATAL] = math.nan
        return model

    # ---- what is asked ----

    def ids(self, count: int) -> list[int]:
        return [self.rng.randrange(13, FATAL) for _ in range(count)]

    def prompt(self) -> list[int]:
        rng = self.rng
        if rng.random() < 0.05:  # alike from end to end
            return list(rng.choice(self.beginnings))
        if rng.random() < 0.1:  # something to guess from
            return self.ids(rng.randint(2, 4)) * rng.randint(2, 6)
        start = rng.choice(self.beginnings)[: rng.randint(1, 60)] if rng.random() < 0.7 else []
        return start + self.ids(rng.randint(0 if start else 1, 10))

    def sampling(self) -> Sampling:
        rng = self.rng
        more: dict[str, Any] = {}
        if rng.random() < 0.25:
            more |= {"top_k": rng.choice([None, 1, 3, 50, 999]), "top_p": rng.choice([None, 0.3, 0.9, 1.0])}
            more |= {"min_p": rng.choice([None, 0.02, 0.5])}
        if rng.random() < 0.15:
            more |= {"repetition_penalty": rng.choice([0.8, 1.3]), "presence_penalty": rng.choice([0, 1.5])}
            more |= {"frequency_penalty": rng.choice([0.0, -0.5, 0.7])}
        if rng.random() < 0.1:
            more["logit_bias"] = {token: rng.choice([-math.inf, 2.0, 9.0]) for token in self.ids(3)}
        if rng.random() < 0.15:
            more["alternatives"] = rng.choice([1, 4])
        if rng.random() < 0.2:
            letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 "
            more["stop"] = (*rng.sample(letters, 25), "th", "e ")
        if rng.random() < 0.1:
            more["stop_ids"] = tuple(self.ids(20))
        if self.fails:  # said by none but those that fail
            more["logit_bias"] = {**more.get("logit_bias", {}), FATAL: -math.inf}
        temperature = rng.choice([0.0, 0.0, 0.3, 1.0, 1.5])
        return Sampling(
            max_tokens=rng.randint(1, MOST_NEW), temperature=temperature, seed=rng.randrange(10_000), **more
        )

    def asked(self) -> Asked:
        self.begun += 1
        return Asked(self.prompt(), self.sampling(), version=self.version)

    # ---- what may happen ----

    def submit(self) -> None:
        one = self.asked()
        seconds = self.rng.choice([None] * 12 + [0.0, 0.003] + [100.0] * 9)
        priority = self.rng.choice([0, 0, 0, 0, 1, 5, -1])
        one.request = self.engine.submit(one.prompt, one.sampling, priority=priority, seconds=seconds)
        self.live.append(one)

    def fail(self) -> None:
        one = self.asked()
        one.prompt = [*one.prompt, FATAL, *self.ids(self.rng.randint(0, 3))]
        one.request = self.engine.submit(one.prompt, one.sampling)
        self.live.append(one)

    def step(self) -> None:
        """A step reads something, or nothing is left."""
        read, steps = self.engine.stats.read, self.engine.stats.steps
        more = self.engine.step()
        assert self.engine.stats.pages <= PAGES
        assert self.engine.stats.read > read or not more
        assert self.engine.stats.steps - steps <= 1
        self.reused = max(self.reused, self.engine.stats.reused)
        self.preempted = max(self.preempted, self.engine.stats.preempted)
        self.settle()

    def cancel(self) -> None:
        if self.live:
            one = self.rng.choice(self.live)
            if one.request is not None:
                self.engine.cancel(one.request)
                self.settle()

    def open_stream(self) -> None:
        one = self.asked()
        one.stream = self.engine.stream(one.prompt, one.sampling)
        self.live.append(one)

    def read_stream(self) -> None:
        streams = [one for one in self.live if one.stream is not None]
        if streams:
            one = self.rng.choice(streams)
            for _ in range(self.rng.randint(1, 4)):
                if not self.read_token(one):
                    return
            if self.rng.random() < 0.2:
                self.leave(one)

    def leave(self, one: Asked) -> None:
        assert one.stream is not None
        one.stream.close()
        self.live.remove(one)
        self.compare_tokens(one, one.streamed, "cancelled")

    def read_token(self, one: Asked) -> bool:
        """Whether one more came."""
        assert one.stream is not None
        try:
            one.streamed.append(next(one.stream))
        except StopIteration as stop:
            self.live.remove(one)
            assert list(stop.value.tokens) == one.streamed
            self.compare(one, stop.value)
            return False
        return True

    def generate(self) -> None:
        some = [self.asked() for _ in range(self.rng.randint(1, 5))]
        done = self.engine.generate([one.prompt for one in some], [one.sampling for one in some])
        for one, completion in zip(some, done, strict=True):
            self.compare(one, completion)

    def samples(self) -> None:
        one = self.asked()
        [group] = self.engine.samples([one.prompt], one.sampling, 3)
        self.compare(one, group[0])

    def score(self) -> None:
        prompts = [self.prompt() for _ in range(self.rng.randint(1, 5))]
        continuations = [self.ids(self.rng.randint(0, 4)) for _ in prompts]
        self.begun += len(prompts)
        fresh = self.made(max_batch=1)
        for prompt, continuation, scores in zip(
            prompts, continuations, self.engine.score(prompts, continuations), strict=True
        ):
            expected = fresh.score([prompt], [continuation])[0]
            assert scores == pytest.approx(expected, abs=1e-5 if self.native else 1e-3)
            self.compared += 1

    def change_weights(self) -> None:
        """In place as an optimizer does, another model of the shape, or another shape when nothing runs."""
        self.settle()
        kind = self.rng.choice(["in place", "load", "shape"])
        if kind == "in place":
            with torch.no_grad():
                for parameter in self.model.parameters():
                    parameter.mul_(1 + self.rng.uniform(-0.05, 0.05))
        elif kind == "load":
            self.model = self.new_model(self.rng.randrange(100))
            self.engine.load(self.model)
        else:
            self.shape = next(shape for shape in SHAPES if shape != self.shape)
            other = self.new_model(5)
            if any(one.request is not None for one in self.live):
                with pytest.raises(UserError, match="while requests run"):
                    self.engine.load(other)
            self.drain()
            self.model = other
            self.engine.load(other)
        self.version += 1
        for one in self.live:
            one.version = None

    # ---- what must hold ----

    def settle(self) -> None:
        """Take out what has ended."""
        for one in [one for one in self.live if one.request is not None and one.request.stop_reason]:
            assert one.request is not None
            self.live.remove(one)
            if FATAL in one.prompt:
                assert one.request.stop_reason in ("error", "cancelled", "deadline")
                assert one.request.tokens == []
                self.compared += 1
            else:
                self.compare(one, one.request.completion())

    def compare(self, one: Asked, done: Completion) -> None:
        """With what a fresh engine says to it alone; what was ended from outside, with its beginning."""
        self.kinds[done.stop_reason] += 1
        assert len(done.logprobs) == len(done.tokens) <= one.sampling.max_tokens
        self.compare_tokens(one, list(done.tokens), done.stop_reason, done)

    def compare_tokens(
        self, one: Asked, tokens: list[int], reason: str, done: Completion | None = None
    ) -> None:
        self.compared += 1
        if one.version is None:
            return
        assert one.version == self.version
        alone = self.made(max_batch=1).generate([one.prompt], [one.sampling])[0]
        count = len(tokens)
        assert tuple(tokens) == alone.tokens[:count], one
        if done is None:
            return
        if self.native:
            assert done.logprobs == alone.logprobs[:count], one
            assert done.alternatives == alone.alternatives[:count], one
        else:
            assert done.logprobs == pytest.approx(alone.logprobs[:count], abs=1e-3), one
        if reason not in ("cancelled", "deadline"):
            assert (count, reason, done.stop_sequence) == (
                len(alone.tokens), alone.stop_reason, alone.stop_sequence,
            ), one  # fmt: skip

    def drain(self) -> None:
        """To the end of everything, in as many steps as there can be of tokens, and nothing is left."""
        for one in [one for one in self.live if one.stream is not None]:
            while self.read_token(one):
                pass
        bound = LIVE * (LONGEST + MOST_NEW) * 2
        while self.live:
            self.step()
            bound -= 1
            assert bound > 0, "no end in sight"
        assert not self.engine.step()
        assert self.engine.stats.pages == 0

    def give_up(self) -> None:
        """Streams are left, requests are cancelled or late: nothing runs on unseen."""
        late = self.rng.random() < 0.5
        for one in [one for one in self.live if one.stream is not None]:
            self.leave(one)
        for one in self.live:
            assert one.request is not None
            if not late or one.request.deadline is None:
                self.engine.cancel(one.request)
        with mock.patch("time.monotonic", return_value=math.inf if late else time.monotonic()):
            assert not self.engine.step()
        assert self.engine.stats.pages == 0
        self.settle()
        assert not self.live

    def run(self, requests: int) -> None:
        acts = {
            self.submit: 40, self.step: 40, self.cancel: 3, self.open_stream: 4, self.read_stream: 12,
            self.generate: 1, self.samples: 1, self.score: 1, self.change_weights: 0.2, self.drain: 0.5,
            self.give_up: 0.6, self.fail: 3 if self.fails else 0,
        }  # fmt: skip
        choices, weights = list(acts), list(acts.values())
        while self.begun < requests:
            if len(self.live) >= LIVE:
                self.step()
                self.read_stream()
            else:
                self.rng.choices(choices, weights)[0]()
        self.drain()
        assert self.compared == self.begun

    def check_that_all_happened(self) -> None:
        """Else the run shows less than it says."""
        assert self.reused > 0
        assert self.preempted > 0
        assert all(self.kinds.values())


NATIVE = {
    "plain": {"max_batch": 6},
    "guesses": {"max_batch": 6, "speculate": 3},
    "small-cache-numbers": {"max_batch": 5, "speculate": 1, "cache_dtype": "int8"},
    "small-pieces": {"max_batch": 4, "step_tokens": 7, "speculate": 2, "dtype": torch.bfloat16},
    "int8": {"max_batch": 9, "step_tokens": 50, "dtype": "int8"},
    "smaller-model": {"max_batch": 8, "speculate": 4, "draft": tiny_model(3, layers=1)},
}


@pytest.mark.skipif(native_library() is None, reason=f"no native pass: {why_not()}")
@pytest.mark.parametrize("kind", NATIVE)
def test_natively_2000_requests_to_the_bit(kind: str) -> None:
    soak = Soak(len(kind), native=True, **NATIVE[kind])
    soak.run(2000)
    soak.check_that_all_happened()


@pytest.mark.parametrize("speculate", [0, 3])
def test_with_pytorch_250_requests(speculate: int) -> None:
    soak = Soak(speculate, native=False, max_batch=5, step_tokens=40, speculate=speculate)
    soak.run(250)
    soak.check_that_all_happened()
