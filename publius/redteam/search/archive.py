"""The archive: the best attacks found so far for each kind of place, so that a search spreads out
(MAP-Elites).

A *cell* is category x style x turns x language. Each keeps its few best chains (Mouret and Clune 2015,
arXiv 1504.04909; for attacks on language models Samvelyan et al. 2024, arXiv 2402.16822). New attacks are
aimed at weak cells: those that nobody broke, tried least.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from publius.core.messages import Conversation
from publius.redteam.attacker import Label
from publius.redteam.findings import CellCount
from publius.redteam.search.chains import Chain

__all__ = ["Archive", "Cell", "Elite", "cell_of", "turns_bucket"]


class Cell(NamedTuple):
    """One place of the archive."""

    category: str
    style: str
    turns: str
    language: str


def turns_bucket(turns: int) -> str:
    """1, 2-3 or 4+."""
    return "1" if turns <= 1 else "2-3" if turns <= 3 else "4+"


def cell_of(category: str, style: str, conversation: Conversation) -> Cell:
    """Where an attack as it was sent belongs. Turns are user messages, invented earlier ones too; the
    language is what `meta["language"]` says, else English."""
    turns = sum(message.role == "user" for message in conversation.messages)
    language = str(conversation.meta.get("language", "en"))
    return Cell(category, style, turns_bucket(turns), language)


class Elite(BaseModel):
    """An attack that is kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    chain: Chain
    goal: int
    """Its place among the goals."""
    conversation: Conversation
    """As sent."""
    score: float
    succeeded: bool
    tokens: int = 1
    """Of the target, that it took: the best of many replies is no better an attack for that."""

    @property
    def rank(self) -> tuple[bool, float]:
        """Better is greater."""
        return self.succeeded, self.score


class _Niche(BaseModel):
    """What a cell holds, and what happened there."""

    tried: int = 0
    succeeded: int = 0
    unscored: int = 0
    confirmed: int = 0
    best: float = 0.0
    elites: list[Elite] = []


class Archive:
    """Cells with their best chains.

    Args:
        keep: chains a cell keeps.
    """

    def __init__(self, keep: int = 3) -> None:
        self.keep = keep
        self._niches: dict[Cell, _Niche] = {}

    def add(self, cell: Cell, elite: Elite, label: Label | None) -> bool:
        """Count an attack on `cell`; whether it is among the best there now. One without a label never is."""
        niche = self._niches.setdefault(cell, _Niche())
        niche.tried += 1
        niche.succeeded += elite.succeeded
        niche.unscored += label is None
        if label is None:
            return False
        niche.best = max(niche.best, elite.score)
        others = [kept for kept in niche.elites if kept.chain != elite.chain]
        same = [kept for kept in niche.elites if kept.chain == elite.chain]
        best = max([elite, *same], key=lambda kept: kept.rank)
        niche.elites = sorted([*others, best], key=lambda kept: kept.rank, reverse=True)[: self.keep]
        return best in niche.elites

    def confirm(self, cell: Cell) -> None:
        """Count a confirmed finding."""
        self._niches.setdefault(cell, _Niche()).confirmed += 1

    def elites(self, category: str | None = None, style: str | None = None) -> list[Elite]:
        """The best of all cells of this category and style (any, for None), best first."""
        found = [
            elite
            for cell, niche in self._niches.items()
            if category in (None, cell.category) and style in (None, cell.style)
            for elite in niche.elites
        ]
        return sorted(found, key=lambda elite: elite.rank, reverse=True)

    def parent(self, style: str, rng: random.Random) -> Elite | None:
        """A kept attack of this style that got something, to be mutated: likelier the more it got a token,
        and the less was found in its cell; None where nothing got anything."""
        niches = [niche for cell, niche in self._niches.items() if cell.style == style]
        known = [(e, n.confirmed) for n in niches for e in n.elites if e.score > 0]
        if not known:
            return None
        return rng.choices([e for e, _ in known], [e.score / max(e.tokens, 1) / (1 + n) for e, n in known])[0]

    def weak(self, categories: Sequence[str], style: str, rng: random.Random) -> str:
        """A category to aim `style` at: one with few confirmed findings and few tries is likelier.

        Weights are 1 / (1 + tries + 4 x confirmed): a finding weighs as much as four tries.
        """
        weights: list[float] = []
        for category in categories:
            niches = [n for c, n in self._niches.items() if (c.category, c.style) == (category, style)]
            weights.append(1 / (1 + sum(n.tried + 4 * n.confirmed for n in niches)))
        return rng.choices(list(categories), weights)[0]

    def filled(self) -> int:
        """Pairs of category and style with a confirmed finding."""
        return len({(cell.category, cell.style) for cell, niche in self._niches.items() if niche.confirmed})

    def counts(self) -> tuple[CellCount, ...]:
        """Every cell that was tried, by name."""
        return tuple(
            CellCount(**cell._asdict(), **niche.model_dump(exclude={"elites"}))
            for cell, niche in sorted(self._niches.items())
        )

    def quality(self) -> float:
        """The QD score: the sum over cells of the best score there."""
        return sum(niche.best for niche in self._niches.values())

    def dump(self) -> list[tuple[Cell, dict[str, object]]]:
        """Everything, as JSON can hold it."""
        return [(cell, niche.model_dump(mode="json")) for cell, niche in self._niches.items()]

    @classmethod
    def load(cls, rows: Iterable[tuple[Sequence[str], dict[str, object]]], keep: int) -> Archive:
        """What `dump` gave."""
        archive = cls(keep)
        for cell, niche in rows:
            archive._niches[Cell(*cell)] = _Niche.model_validate(niche)
        return archive
