"""Which style and which mutator to try next: Thompson sampling, divided by what a try costs.

An arm is a pair (style, mutator). What it did is counted with a discount, so that what a model stopped
falling for is forgotten. Most pairs are tried a few times or never; such a pair stands on what its style and
its mutator did with others. A fixed share of draws ignores all that.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple

__all__ = ["Arm", "Bandit"]


class Arm(NamedTuple):
    """A style, and the mutator put over it ("" for none)."""

    style: str
    mutator: str


class _Count:
    """Discounted successes, failures and tokens of an arm, or of all arms with one style or one mutator."""

    __slots__ = ("losses", "tokens", "tries", "wins")

    def __init__(self, wins: float = 0.0, losses: float = 0.0, tokens: float = 0.0, tries: float = 0.0) -> None:
        self.wins, self.losses, self.tokens, self.tries = wins, losses, tokens, tries

    def fade(self, factor: float) -> None:
        self.wins *= factor
        self.losses *= factor
        self.tokens *= factor
        self.tries *= factor

    def add(self, share: float, tokens: float) -> None:
        self.wins += share
        self.losses += 1 - share
        self.tokens += tokens
        self.tries += 1

    def row(self) -> list[float]:
        return [self.wins, self.losses, self.tokens, self.tries]


class Bandit:
    """Discounted Beta posteriors over arms (Raj and Kalyani 2017, arXiv 1707.09727).

    Args:
        styles, mutators: their product is the arms; "" among the mutators is none.
        discount: what each further try leaves of the weight of those before it.
        explore: share of draws that are uniform over all arms.
        prior: how many tries the style's and the mutator's record counts for in a pair's.
    """

    def __init__(
        self,
        styles: Sequence[str],
        mutators: Sequence[str],
        *,
        discount: float = 0.995,
        explore: float = 0.2,
        prior: float = 2.0,
    ) -> None:
        self.styles, self.mutators = list(styles), list(mutators)
        self.discount, self.explore, self.prior = discount, explore, prior
        self._counts: dict[str, dict[str, _Count]] = {"style": {}, "mutator": {}, "pair": {}}

    def choose(self, rng: random.Random) -> Arm:
        """An arm to pull: with the chance `explore` any, else the one that promises most a token."""
        if rng.random() < self.explore:
            return Arm(rng.choice(self.styles), rng.choice(self.mutators))
        styles = {name: self._draw("style", name, rng) for name in self.styles}
        mutators = {name: self._draw("mutator", name, rng) for name in self.mutators}
        usual = self._usual_cost()
        best, most = Arm(self.styles[0], self.mutators[0]), -math.inf
        for style in self.styles:
            for mutator in self.mutators:
                worth = self._worth(Arm(style, mutator), styles, mutators, usual, rng)
                if worth > most:
                    best, most = Arm(style, mutator), worth
        return best

    def update(self, arm: Arm, share: float, tokens: float) -> None:
        """Tell what a pull of `arm` gave.

        Args:
            share: 1 for a new finding, 0 for none; between them for something on the way.
            tokens: read and written by the target for it.
        """
        for counts in self._counts.values():
            for count in counts.values():
                count.fade(self.discount)
        for level, key in (("style", arm.style), ("mutator", arm.mutator), ("pair", _key(arm))):
            self._counts[level].setdefault(key, _Count()).add(share, tokens)

    def mean(self, arm: Arm) -> float:
        """The posterior mean of `arm` under a flat prior, for people."""
        count = self._counts["pair"].get(_key(arm), _Count())
        return (1 + count.wins) / (2 + count.wins + count.losses)

    def _draw(self, level: str, name: str, rng: random.Random) -> float:
        count = self._counts[level].get(name, _Count())
        return rng.betavariate(1 + count.wins, 1 + count.losses)

    def _worth(
        self, arm: Arm, styles: Mapping[str, float], mutators: Mapping[str, float], usual: float,
        rng: random.Random,
    ) -> float:  # fmt: skip
        """A draw from the posterior of an arm over its mean cost; untried, it costs what is usual."""
        count = self._counts["pair"].get(_key(arm), _Count())
        believed = math.sqrt(styles[arm.style] * mutators[arm.mutator])
        a = max(1e-3, self.prior * believed) + count.wins
        b = max(1e-3, self.prior * (1 - believed)) + count.losses
        by_style = self._counts["style"].get(arm.style, _Count())
        cost = usual if by_style.tries == 0 else by_style.tokens / by_style.tries
        if count.tries >= 1:
            cost = count.tokens / count.tries
        return rng.betavariate(a, b) / max(cost, 1.0)

    def _usual_cost(self) -> float:
        counts = self._counts["style"].values()
        tries = sum(count.tries for count in counts)
        return sum(count.tokens for count in counts) / tries if tries else 1.0

    def dump(self) -> dict[str, dict[str, list[float]]]:
        """Everything it knows, as JSON can hold it."""
        return {
            level: {key: count.row() for key, count in counts.items()}
            for level, counts in self._counts.items()
        }

    def load(self, state: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
        """Know what `dump` gave, and nothing else."""
        self._counts = {
            level: {key: _Count(*row) for key, row in state[level].items()} for level in self._counts
        }


def _key(arm: Arm) -> str:
    return f"{arm.style}+{arm.mutator}"
