"""Which style, which mutator and which request to try next: Thompson sampling, divided by what a try costs.

An arm is a pair (style, mutator). What it did is counted with a discount, so that what a model stopped
falling for is forgotten. Most pairs are tried a few times or never; such a pair is believed to do as well
as its style and its mutator do beside others. Where hardly anything works, what is untried is believed to
be as hopeless as the rest, not a coin's toss. A fixed share of draws ignores all that.
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

    def __init__(
        self, wins: float = 0.0, losses: float = 0.0, tokens: float = 0.0, tries: float = 0.0
    ) -> None:
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
    """

    def __init__(
        self,
        styles: Sequence[str],
        mutators: Sequence[str],
        *,
        discount: float = 0.999,
        explore: float = 0.2,
    ) -> None:
        self.styles, self.mutators = list(styles), list(mutators)
        self.discount, self.explore = discount, explore
        self._counts: dict[str, dict[str, _Count]] = {"style": {}, "mutator": {}, "pair": {}, "goal": {}}

    def choose(self, rng: random.Random) -> Arm:
        """An arm to pull: with the chance `explore` any, else the one that promises most a token."""
        if rng.random() < self.explore:
            return Arm(rng.choice(self.styles), rng.choice(self.mutators))
        base, usual = self.base(), self._usual_cost()
        styles = {name: self._draw("style", name, base, rng) for name in self.styles}
        mutators = {name: self._draw("mutator", name, base, rng) for name in self.mutators}
        best, most = Arm(self.styles[0], self.mutators[0]), -math.inf
        for style, by_style in styles.items():
            for mutator, by_mutator in mutators.items():
                arm = Arm(style, mutator)
                believed = min(0.95, max(1e-4, by_style * by_mutator / base))
                worth = self._draw("pair", _key(arm), believed, rng) / max(self._cost(arm, usual), 1.0)
                if worth > most:
                    best, most = arm, worth
        return best

    def choose_goal(self, goals: Sequence[str], rng: random.Random) -> str:
        """One of the requests (by name), the likelier the more was got out of the model about it."""
        if rng.random() < self.explore:
            return rng.choice(goals)
        base = self.base()
        return max(goals, key=lambda goal: self._draw("goal", goal, base, rng))

    def update(self, arm: Arm, goal: str, share: float, tokens: float) -> None:
        """Tell what a pull of `arm` at `goal` gave.

        Args:
            share: 1 for a new finding, 0 for none; between them for something on the way.
            tokens: read and written by the target for it.
        """
        for counts in self._counts.values():
            for count in counts.values():
                count.fade(self.discount)
        for level, key in (
            ("style", arm.style), ("mutator", arm.mutator), ("pair", _key(arm)), ("goal", goal)
        ):  # fmt: skip
            self._counts[level].setdefault(key, _Count()).add(share, tokens)

    def base(self) -> float:
        """The share of all tries that gave something, begun with one in twenty."""
        counts = self._counts["style"].values()
        wins, tries = (sum(getattr(count, name) for count in counts) for name in ("wins", "tries"))
        return min(0.95, (0.5 + wins) / (10 + tries))

    def mean(self, arm: Arm) -> float:
        """The mean of the posterior of `arm` by its own record, for people."""
        count = self._counts["pair"].get(_key(arm), _Count())
        a, b = _prior(self.base())
        return (a + count.wins) / (a + b + count.wins + count.losses)

    def _draw(self, level: str, name: str, believed: float, rng: random.Random) -> float:
        """From the posterior of `name` under a prior with the mean `believed`."""
        count = self._counts[level].get(name, _Count())
        a, b = _prior(believed)
        return rng.betavariate(a + count.wins, b + count.losses)

    def _cost(self, arm: Arm, usual: float) -> float:
        """Mean tokens of a try: of the pair, else of its style, else of any."""
        for level, key in (("pair", _key(arm)), ("style", arm.style)):
            count = self._counts[level].get(key, _Count())
            if count.tries > 0:
                return count.tokens / count.tries
        return usual

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


def _prior(mean: float) -> tuple[float, float]:
    """Half a success, and as many failures as make it this mean."""
    return 0.5, 0.5 * (1 - mean) / mean


def _key(arm: Arm) -> str:
    return f"{arm.style}+{arm.mutator}"
