"""How far raters agree beyond chance: Krippendorff's alpha for names (nominal data).

Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), section C: any number of raters, units that
some of them left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

__all__ = ["Agreement", "nominal_alpha"]


class Agreement(NamedTuple):
    """What was found, and on how much."""

    alpha: float | None
    """1 is perfect, 0 is chance, below 0 is worse than chance. None when nothing can be said: no unit has two
    ratings, or all ratings are the same word, so that chance alone would agree as well."""
    units: int
    """Units with two ratings or more."""
    ratings: int
    """Ratings of those units."""


def nominal_alpha(units: Iterable[Sequence[Hashable]]) -> Agreement:
    """Alpha over units, each given as the ratings it got; units with fewer than two are left out."""
    totals: Counter[Hashable] = Counter()
    disagreeing, count = 0.0, 0
    for ratings in units:
        size = len(ratings)
        if size < 2:
            continue
        count += 1
        here = Counter(ratings)
        totals.update(here)
        # Ordered pairs of unlike ratings, each unit weighing as much as it has ratings.
        disagreeing += (size * size - sum(n * n for n in here.values())) / (size - 1)
    n = totals.total()
    by_chance = n * n - sum(c * c for c in totals.values())
    alpha = 1.0 - (n - 1) * disagreeing / by_chance if by_chance else None
    return Agreement(alpha, count, n)
