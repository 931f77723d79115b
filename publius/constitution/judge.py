"""The judge: which of two answers does a principle prefer, read from log-probabilities.

A language model sees the conversation, the principle and both answers, and the log-probabilities of
the two answer tokens are read, never text. Each pair is asked in both orders and averaged in logit
space, so a liking for the first option cancels. When the model puts almost no mass on either answer
the result is a `ParseFailure`, which is data, never a silent 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from pydantic import Field

from publius.constitution.principles import Constitution, ConstitutionField, Principle
from publius.constitution.styles import Case, StyleName, make_style, visible
from publius.core.config import Config
from publius.core.errors import UserError
from publius.core.messages import Conversation, Message
from publius.inference.engine import Engine
from publius.inference.sampling import Sampling
from publius.tokenizer.tokenizer import Tokenizer

__all__ = ["Judge", "JudgeConfig", "Judgement", "Pair", "ParseFailure", "combine"]

Pair = tuple[Conversation, Message, Message]


class JudgeConfig(Config):
    """How a judge is asked.

    Attributes:
        shots: most examples shown; fewer are shown when the prompt would not fit the context.
        chain_of_thought: reason first, then answer; labels are then clamped (constitution.clamp).
        samples: chains of thought averaged per order.
        min_mass: a judgement needs at least this much probability on the two answers together.
    """

    constitution: ConstitutionField = Field(default="default", validate_default=True)  # pyright: ignore[reportAssignmentType]
    style: StyleName = "raw"
    shots: int = Field(default=8, ge=0)
    chain_of_thought: bool = False
    thought_tokens: int = Field(default=128, ge=1)
    samples: int = Field(default=1, ge=1)
    min_mass: float = Field(default=0.01, ge=0, le=1)
    seed: int = 0


class Judgement(NamedTuple):
    """One verdict.

    Attributes:
        probability: P(a better than b), both orders averaged in logit space.
        consistent: both orders prefer the same answer.
        forward: P(a better) with a shown first.
        backward: P(a better) with a shown second.
        reason: the chain of thought of the forward order, empty without one.
    """

    probability: float
    consistent: bool
    forward: float
    backward: float
    principle_id: str
    reason: str = ""


class ParseFailure(NamedTuple):
    """No verdict could be read, and why. `mass` is the smaller mass on the two answers over the orders."""

    problem: str
    principle_id: str
    mass: float = 0.0


class _Reading(NamedTuple):
    logit: float  # log p(first option) - log p(second option)
    mass: float  # p(first option) + p(second option)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def combine(forward: float, backward: float) -> tuple[float, bool]:
    """Average two logits of "a better" into (probability, whether the orders agree)."""
    return _sigmoid((forward + backward) / 2), (forward > 0) == (backward > 0)


class Judge:
    """Asks `engine`'s model. One principle per pair; both orders; soft labels.

    Args:
        context: longest prompt in tokens; default the model's positions less room for what is generated.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        constitution: Constitution,
        style: StyleName = "raw",
        *,
        context: int | None = None,
        shots: int = 8,
        chain_of_thought: bool = False,
        thought_tokens: int = 128,
        samples: int = 1,
        min_mass: float = 0.01,
        seed: int = 0,
    ) -> None:
        self._engine, self.constitution = engine, constitution
        self._answers = _distinct(*(tokenizer.encode(text) for text in constitution.answers))
        reserve = len(self._answers[0]) + (thought_tokens if chain_of_thought else 0)
        self._context = (context or engine.model.config.max_position) - reserve
        self._style = make_style(style, constitution, tokenizer, self._context, shots)
        self._tokenizer, self._reserve = tokenizer, reserve
        self._thinks, self._thought_tokens, self._samples = chain_of_thought, thought_tokens, samples
        self._min_mass, self._seed = min_mass, seed

    @classmethod
    def from_config(cls, engine: Engine, tokenizer: Tokenizer, config: JudgeConfig) -> Judge:
        """A judge as `config` says."""
        return cls(
            engine,
            tokenizer,
            config.constitution,
            config.style,
            shots=config.shots,
            chain_of_thought=config.chain_of_thought,
            thought_tokens=config.thought_tokens,
            samples=config.samples,
            min_mass=config.min_mass,
            seed=config.seed,
        )

    def judge(self, pairs: Sequence[Pair], principles: Sequence[Principle]) -> list[Judgement | ParseFailure]:
        """One verdict per pair, in order; `principles[i]` is asked of `pairs[i]`."""
        if len(pairs) != len(principles):
            raise ValueError(f"{len(pairs)} pairs but {len(principles)} principles")
        cases: list[Case] = []
        for (conversation, a, b), principle in zip(pairs, principles, strict=True):
            question = principle.comparison_question
            cases += [
                Case(conversation, visible(a), visible(b), question),
                Case(conversation, visible(b), visible(a), question),
            ]
        readings, reasons = (
            self._read_with_thoughts(cases) if self._thinks else (self._read_plain(cases), None)
        )
        return [
            self._verdict(readings[2 * i], readings[2 * i + 1], p, reasons[2 * i] if reasons else "")
            for i, p in enumerate(principles)
        ]

    def _verdict(
        self, ab: _Reading | None, ba: _Reading | None, principle: Principle, reason: str
    ) -> Judgement | ParseFailure:
        if ab is None or ba is None:
            return ParseFailure("the prompt does not fit the judge's context", principle.id)
        mass = min(ab.mass, ba.mass)
        if mass < self._min_mass:
            return ParseFailure("too little probability on either answer", principle.id, mass)
        forward, backward = ab.logit, -ba.logit
        probability, consistent = combine(forward, backward)
        if self._thinks:
            low, high = self.constitution.clamp
            probability = min(max(probability, low), high)
        return Judgement(probability, consistent, _sigmoid(forward), _sigmoid(backward), principle.id, reason)

    def _read_plain(self, cases: Sequence[Case]) -> list[_Reading | None]:
        return self._read([self._style.comparison(case) for case in cases])

    def _read_with_thoughts(self, cases: Sequence[Case]) -> tuple[list[_Reading | None], list[str]]:
        repeated = [case for case in cases for _ in range(self._samples)]
        prompts = [self._style.reasoning(case) for case in repeated]
        # a prompt that does not fit is replaced by a stub here, and counted when the conclusion is read
        sendable = [p if len(p) <= self._context else p[: self._context] for p in prompts]
        temperature = self.constitution.temperature
        sampling = [
            Sampling(
                max_tokens=self._thought_tokens,
                temperature=temperature,
                stop=self._style.stops,
                stop_ids=(self._tokenizer.end_id,),
                seed=self._seed * 1_000_003 + i,
            )
            for i in range(len(sendable))
        ]
        thoughts = [
            _cut(self._tokenizer.decode(list(c.tokens), skip_special=True), self._style.stops)
            for c in self._engine.generate(sendable, sampling)
        ]
        conclusions = [self._style.conclusion(c, t) for c, t in zip(repeated, thoughts, strict=True)]
        limit = self._context + self._thought_tokens
        each = self._read(conclusions, limit)
        n = self._samples
        return [_average(each[i : i + n]) for i in range(0, len(each), n)], thoughts[::n]

    def _read(self, prompts: Sequence[list[int]], limit: int | None = None) -> list[_Reading | None]:
        """The two answers' log-probabilities after each prompt; None where the prompt is too long."""
        fits = [i for i, p in enumerate(prompts) if len(p) <= (limit or self._context)]
        first, second = self._answers
        scores = self._engine.score(
            [prompts[i] for i in fits for _ in (0, 1)], [ids for _ in fits for ids in (first, second)]
        )
        readings: list[_Reading | None] = [None] * len(prompts)
        for k, i in enumerate(fits):
            a, b = sum(scores[2 * k]), sum(scores[2 * k + 1])
            readings[i] = _Reading(a - b, math.exp(a) + math.exp(b))
        return readings


def _distinct(first: list[int], second: list[int]) -> tuple[list[int], list[int]]:
    """Both answers up to and including the first token that tells them apart."""
    for i, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return first[: i + 1], second[: i + 1]
    raise UserError(
        "the constitution's two answers are the same, or one begins the other",
        where="constitution: answers",
        fix="use answers such as ` (A)` and ` (B)`",
    )


def _cut(text: str, stops: Sequence[str]) -> str:
    for stop in stops:
        text = text.split(stop, 1)[0]
    return text


def _average(readings: Sequence[_Reading | None]) -> _Reading | None:
    found = [r for r in readings if r is not None]
    if not found:
        return None
    probability = sum(_sigmoid(r.logit) for r in found) / len(found)
    probability = min(max(probability, 1e-6), 1 - 1e-6)
    return _Reading(math.log(probability / (1 - probability)), sum(r.mass for r in found) / len(found))
