"""What a judge is, and what it says: a judgement, or one of three ways of giving none.

Every judge is asked in both orders and averaged in logit space, so a liking for the first option cancels.
What gives no judgement is data, counted by kind, never a silent 0 and never a pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from publius.constitution.principles import Principle
from publius.core.messages import Conversation, Message

__all__ = [
    "Abstention",
    "Judge",
    "Judgement",
    "Pair",
    "ParseFailure",
    "Reading",
    "Ruling",
    "Skipped",
    "clamped",
    "combine",
    "judgement_of",
    "logit",
    "sigmoid",
]

Pair = tuple[Conversation, Message, Message]
"""A conversation that ends with the user, answer a and answer b."""

_SURE = 1e-6
"""Probabilities are kept this far from 0 and 1 before their logit is taken."""


class Judgement(NamedTuple):
    """One verdict.

    Attributes:
        probability: P(a better than b), both orders averaged in logit space.
        consistent: both orders prefer the same answer.
        forward: P(a better) with a shown first.
        backward: P(a better) with a shown second.
        reason: the chain of thought of the forward order, empty without one.
        votes: of a panel, each member's probability.
    """

    probability: float
    consistent: bool
    forward: float
    backward: float
    principle_id: str
    reason: str = ""
    votes: tuple[float, ...] = ()


class ParseFailure(NamedTuple):
    """No verdict could be read, and why. `mass` is the smaller mass on the two answers over the orders."""

    problem: str
    principle_id: str
    mass: float = 0.0


class Abstention(NamedTuple):
    """The judge declined to judge, and what it said instead."""

    reason: str
    principle_id: str


class Skipped(NamedTuple):
    """The judge could not be reached for this pair, and the config says to pass over it."""

    problem: str
    principle_id: str


Ruling = Judgement | ParseFailure | Abstention | Skipped


class Reading(NamedTuple):
    """What one order gave: log p(first option) - log p(second option), and the mass on both together."""

    logit: float
    mass: float


class Judge(Protocol):
    """Compares pairs of answers."""

    def judge(self, pairs: Sequence[Pair], principles: Sequence[Principle]) -> list[Ruling]:
        """One verdict per pair, in order; `principles[i]` is asked of `pairs[i]`."""
        ...


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)), without overflow."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def logit(p: float) -> float:
    """log(p / (1 - p)), p kept off 0 and 1."""
    p = min(max(p, _SURE), 1 - _SURE)
    return math.log(p / (1 - p))


def combine(forward: float, backward: float) -> tuple[float, bool]:
    """Average two logits of "a better" into (probability, whether the orders agree)."""
    return sigmoid((forward + backward) / 2), (forward > 0) == (backward > 0)


def judgement_of(
    first: Reading, second: Reading, principle_id: str, *, min_mass: float, reason: str = ""
) -> Judgement | ParseFailure:
    """The verdict of two readings: a shown first, and b shown first."""
    mass = min(first.mass, second.mass)
    if mass < min_mass:
        return ParseFailure("too little probability on either answer", principle_id, mass)
    forward, backward = first.logit, -second.logit
    probability, consistent = combine(forward, backward)
    return Judgement(probability, consistent, sigmoid(forward), sigmoid(backward), principle_id, reason)


def clamped(verdict: Ruling, interval: tuple[float, float] | None) -> Ruling:
    """The verdict with its probability kept inside `interval`."""
    if interval is None or not isinstance(verdict, Judgement):
        return verdict
    low, high = interval
    return verdict._replace(probability=min(max(verdict.probability, low), high))
