"""Guessing what comes next, to read several tokens in one step.

A guess costs little where weights are what a step waits for, and it never changes a text: each guessed place
is drawn from as it would have been, with the row's own number, and a guess stands only when it is what was
drawn (the coupling that makes Leviathan et al. 2023, arXiv 2211.17192, exact for greedy, made so for sampling
by the fixed number of each place).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Protocol

from publius.inference.request import Request

__all__ = ["ModelDraft", "prompt_lookup"]

_LONGEST, _SHORTEST = 4, 2


def prompt_lookup(asked: Sequence[tuple[Request, int]]) -> list[list[int]]:
    """What followed the last place where each text ended as it ends now; empty when it never did.

    The longest match of two to four tokens wins, the latest of those (Saxena 2023, prompt lookup decoding).
    """
    return [_looked_up(request.ids(0, request.length), count) for request, count in asked]


def _looked_up(tokens: list[int], count: int) -> list[int]:
    for size in range(min(_LONGEST, len(tokens) - 1), _SHORTEST - 1, -1):
        tail = tokens[-size:]
        for start in range(len(tokens) - size - 1, -1, -1):
            if tokens[start] == tail[0] and tokens[start : start + size] == tail:
                return tokens[start + size : start + size + count]
    return []


class _Drafting(Protocol):
    """What is needed of the smaller model's engine."""

    @property
    def context(self) -> int: ...

    def attempt(self, requests: Sequence[Request]) -> None: ...


class ModelDraft:
    """What a smaller model of the same tokenizer would say, drawn with each row's own numbers.

    The same number at the same place makes two like distributions draw the same token, so that sampled rows
    are guessed nearly as well as greedy ones. The engine's prefix cache keeps what it has read.

    Args:
        engine: runs it.
        vocabulary: ids of the model that is guessed for: the sizes of a family pad theirs differently.
    """

    def __init__(self, engine: _Drafting, vocabulary: int) -> None:
        self._engine, self._vocabulary = engine, vocabulary

    def __call__(self, asked: Sequence[tuple[Request, int]]) -> list[list[int]]:
        """Guesses for each (request, at most so many); none where the smaller model cannot go on."""
        inner: list[Request | None] = []
        for request, count in asked:
            fits = request.length + count <= self._engine.context and request.uniforms is not None
            inner.append(self._like(request, count) if fits else None)
        self._engine.attempt([request for request in inner if request is not None])
        return [self._usable(request) if request is not None else [] for request in inner]

    def _usable(self, request: Request) -> list[int]:
        if request.error is not None:
            return []
        return [*takewhile(lambda token: token < self._vocabulary, request.tokens)]

    @staticmethod
    def _like(request: Request, count: int) -> Request:
        assert request.uniforms is not None
        sampling = replace(request.sampling, max_tokens=count, stop=(), alternatives=0)
        said = len(request.tokens)
        numbers = request.uniforms[said : said + count]
        return Request(request.ids(0, request.length), sampling, uniforms=numbers)
