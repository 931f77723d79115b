"""A judge on our own engine: the log-probabilities of the two answer tokens are read, never text."""

from __future__ import annotations

import math
from collections.abc import Sequence

from publius.constitution.judges.asking import cases_of
from publius.constitution.judges.config import JudgeConfig
from publius.constitution.judges.judgement import (
    Pair,
    ParseFailure,
    Reading,
    Ruling,
    judgement_of,
    logit,
    sigmoid,
)
from publius.constitution.principles import Constitution, Principle
from publius.constitution.raw_text import Case
from publius.constitution.styles import StyleName, make_style
from publius.core.errors import UserError
from publius.inference.engine import Engine
from publius.inference.sampling import Sampling
from publius.tokenizer.tokenizer import Tokenizer

__all__ = ["EngineJudge"]


class EngineJudge:
    """Asks `engine`'s model. One principle per pair; both orders; soft, unclamped labels.

    With `chain_of_thought` the model reasons first; of several `samples` the probabilities are averaged in
    each order. When it puts almost no mass on either answer the verdict is a `ParseFailure`.

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
        self._engine, self._constitution = engine, constitution
        self._answers = _answer_tokens(*(tokenizer.encode_on(text) for text in constitution.answers))
        reserve = max(map(len, self._answers))
        if chain_of_thought:
            reserve += thought_tokens + len(tokenizer.encode(constitution.layout.conclusion))
        self._context = (context or engine.model.config.max_position) - reserve
        self._room = self._context + reserve
        self._style = make_style(style, constitution, tokenizer, self._context, shots)
        self._tokenizer = tokenizer
        self._thinks, self._thought_tokens, self._samples = chain_of_thought, thought_tokens, samples
        self._min_mass, self._seed = min_mass, seed

    @classmethod
    def from_config(cls, engine: Engine, tokenizer: Tokenizer, config: JudgeConfig) -> EngineJudge:
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

    def judge(self, pairs: Sequence[Pair], principles: Sequence[Principle]) -> list[Ruling]:
        """One verdict per pair, in order; `principles[i]` is asked of `pairs[i]`."""
        cases = cases_of(pairs, principles)
        if self._thinks:
            readings, reasons = self._read_with_thoughts(cases)
        else:
            readings, reasons = (
                self._read([self._style.comparison(case) for case in cases]),
                [""] * len(cases),
            )
        return [
            self._verdict(readings[2 * i], readings[2 * i + 1], p, reasons[2 * i])
            for i, p in enumerate(principles)
        ]

    def _verdict(self, ab: Reading | None, ba: Reading | None, principle: Principle, reason: str) -> Ruling:
        if ab is None or ba is None:
            return ParseFailure("the prompt does not fit the judge's context", principle.id)
        return judgement_of(ab, ba, principle.id, min_mass=self._min_mass, reason=reason)

    def _read_with_thoughts(self, cases: Sequence[Case]) -> tuple[list[Reading | None], list[str]]:
        repeated = [case for case in cases for _ in range(self._samples)]
        prompts = [self._style.reasoning(case) for case in repeated]
        fits = [i for i, prompt in enumerate(prompts) if len(prompt) <= self._context]
        # the seed goes by place, so that a prompt that does not fit changes no other thought
        sampling = [
            Sampling(
                max_tokens=self._thought_tokens,
                temperature=self._constitution.temperature,
                stop=self._style.stops,
                stop_ids=(self._tokenizer.end_id,),
                seed=self._seed * 1_000_003 + i,
            )
            for i in fits
        ]
        written = self._engine.generate([prompts[i] for i in fits], sampling) if fits else []
        thoughts = [""] * len(prompts)
        for i, completion in zip(fits, written, strict=True):
            text = self._tokenizer.decode(list(completion.tokens), skip_special=True)
            thoughts[i] = _cut(text, self._style.stops)
        found = self._read([self._style.conclusion(repeated[i], thoughts[i]) for i in fits])
        each: list[Reading | None] = [None] * len(prompts)
        for i, reading in zip(fits, found, strict=True):
            each[i] = reading
        n = self._samples
        return [_average(each[i : i + n]) for i in range(0, len(each), n)], thoughts[::n]

    def _read(self, prompts: Sequence[list[int]]) -> list[Reading | None]:
        """The two answers' log-probabilities after each prompt; None where the prompt is too long."""
        first, second = self._answers
        longest = self._room - max(len(first), len(second))
        fits = [i for i, p in enumerate(prompts) if len(p) <= longest]
        scores = self._engine.score(
            [prompts[i] for i in fits for _ in (0, 1)], [ids for _ in fits for ids in (first, second)]
        )
        readings: list[Reading | None] = [None] * len(prompts)
        for k, i in enumerate(fits):
            a, b = sum(scores[2 * k]), sum(scores[2 * k + 1])
            readings[i] = Reading(a - b, math.exp(a) + math.exp(b))
        return readings


def _answer_tokens(first: list[int], second: list[int]) -> tuple[list[int], list[int]]:
    """What is scored of both answers.

    Where they differ in one token at the same place, up to and including it: what follows is the same.
    Where the tokenizer cuts them differently, both whole: a token that could also begin something else is
    no answer.
    """
    for i, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            alike = first[i + 1 :] == second[i + 1 :]
            return (first[: i + 1], second[: i + 1]) if alike else (first, second)
    raise UserError(
        "the constitution's two answers are the same, or one begins the other",
        where="constitution: answers",
        fix="use answers such as ` (A)` and ` (B)`",
    )


def _cut(text: str, stops: Sequence[str]) -> str:
    for stop in stops:
        text = text.split(stop, 1)[0]
    return text


def _average(readings: Sequence[Reading | None]) -> Reading | None:
    """Probabilities averaged over the samples that could be read."""
    found = [r for r in readings if r is not None]
    if not found:
        return None
    mean = sum(sigmoid(r.logit) for r in found) / len(found)
    return Reading(logit(mean), sum(r.mass for r in found) / len(found))
