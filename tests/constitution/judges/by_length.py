"""A judge for tests: prefers the longer answer; an answer with ? cannot be judged, one with ! is declined."""

from __future__ import annotations

import math

from publius.constitution.judges import Abstention, Judgement, ParseFailure, Ruling, Skipped
from publius.core.messages import text_of


class LengthJudge:
    """Deterministic, and calibrated by nothing but length. Ties are exact."""

    def judge(self, pairs, principles) -> list[Ruling]:
        return [
            self._one(text_of(a), text_of(b), p.id) for (_, a, b), p in zip(pairs, principles, strict=True)
        ]

    @staticmethod
    def _one(a: str, b: str, name: str) -> Ruling:
        for mark, kind in (("?", ParseFailure), ("!", Abstention), ("#", Skipped)):
            if mark in a + b:
                return kind("odd", name)
        p = 1 / (1 + math.exp(len(b) - len(a)))
        return Judgement(p, len(a) != len(b) + 1, p, p, name)
