"""Which style, which mutator and which request to try next: Thompson sampling, divided by what a try costs.

An arm is a pair (style, mutator), and a wording of the style where one got something. What it did is counted
with a discount, so that what a model stopped falling for is forgotten. Most pairs are tried a few times or
never; such a pair is believed to do as well as its style and its mutator do beside others. Where hardly
anything works, what is untried is believed to be as hopeless as the rest, not a coin's toss. A fixed share of
draws ignores all that.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple

__all__ = ["Arm", "Bandit"]


_LEVELS = {
    "style": 1.0, "mutator": 1.0, "wording": 2.0, "pair": 3.0, "goal": 0.5,
    "read style": 0.0, "read mutator": 0.0,
}  # fmt: skip
"""What is counted, and the successes that a belief about it is worth before it is tried."""
_BOLD = 0.5
"""Draws are as from so many times the variance: a budget of hundreds has no time to doubt everything
(posterior reshaping, Chapelle and Li 2011)."""
_READ = (2.0, 1.0)
"""Tries understood and not, that one stands on which nobody has made."""


class Arm(NamedTuple):
    """A style, and the mutator put over it ("" for none)."""

    style: str
    mutator: str
    wording: str = ""
    """Of the style, by whatever name the caller knows it; "" for a new one."""


class _Count:
    """Discounted successes, failures and costs of an arm, or of all arms with one style or one mutator."""

    __slots__ = ("cost", "losses", "tries", "wins")

    def __init__(self, wins: float = 0.0, losses: float = 0.0, cost: float = 0.0, tries: float = 0.0) -> None:
        self.wins, self.losses, self.cost, self.tries = wins, losses, cost, tries

    def fade(self, factor: float) -> None:
        self.wins *= factor
        self.losses *= factor
        self.cost *= factor
        self.tries *= factor

    def add(self, share: float, cost: float) -> None:
        self.wins += share
        self.losses += 1 - share
        self.cost += cost
        self.tries += 1

    def row(self) -> list[float]:
        return [self.wins, self.losses, self.cost, self.tries]


class Bandit:
    """Discounted Beta posteriors over arms (Raj and Kalyani 2017, arXiv 1707.09727).

    An attack works when it is understood and then not refused. Whether it was understood is known of every
    try, so what turns a request into babble (half of all mutators, for a small model) is given up after a
    few; what is not refused is rare, and is learned of the understood alone.

    Args:
        styles, mutators: their product is the arms; "" among the mutators is none.
        discount: what each further try leaves of the weight of those before it.
        explore: share of draws that are even over all arms, in what they cost.
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
        self._counts: dict[str, dict[str, _Count]] = {level: {} for level in _LEVELS}

    def choose(self, rng: random.Random) -> Arm:
        """An arm to pull: with the chance `explore` any, else the one that promises most for its cost."""
        usual = self._usual_cost()
        if rng.random() < self.explore:
            return self._any(usual, rng)
        base, read = self.base(), self._mean("read style", _READ)
        by_style = {n: (self._worded(n, base, rng), self._read("style", n, rng)) for n in self.styles}
        by_mutator = {
            n: (self._draw("mutator", n, base, rng), self._read("mutator", n, rng)) for n in self.mutators
        }
        best, most = Arm(self.styles[0], self.mutators[0]), -math.inf
        for style, ((works, wording), understood) in by_style.items():
            for mutator, (works_too, understood_too) in by_mutator.items():
                arm = Arm(style, mutator, wording)
                believed = works * works_too / base
                both = min(1.0, understood * understood_too / read)
                works_so = self._draw("pair", _key(arm), believed, rng)
                worth = both * works_so / max(self._cost(style, usual), 1.0)
                if worth > most:
                    best, most = arm, worth
        return best

    def choose_goal(self, goals: Sequence[str], rng: random.Random) -> str:
        """One of the requests (by name), the likelier the more was got out of the model about it."""
        if rng.random() < self.explore:
            return rng.choice(goals)
        base = self.base()
        return max(goals, key=lambda goal: self._draw("goal", goal, base, rng))

    def update(self, arm: Arm, goal: str, share: float, cost: float, *, understood: bool = True) -> None:
        """Tell what a pull of `arm` at `goal` gave.

        Args:
            share: 1 for a new finding, 0 for none; between them for something on the way.
            cost: of the budget, that it took.
            understood: whether the reply had to do with what was asked.
        """
        for counts in self._counts.values():
            for count in counts.values():
                count.fade(self.discount)
        for level, key in (("style", arm.style), ("mutator", arm.mutator)):
            self._counts[f"read {level}"].setdefault(key, _Count()).add(float(understood), cost)
        if understood:
            keys = {"style": arm.style, "mutator": arm.mutator, "pair": _key(arm), "goal": goal}
            keys |= {"wording": f"{arm.style}/{arm.wording}"} if arm.wording else {}
            for level, key in keys.items():
                self._counts[level].setdefault(key, _Count()).add(share, cost)

    def base(self) -> float:
        """The share of understood tries that gave something, begun with one in twenty."""
        return self._mean("style", (0.5, 9.5))

    def mean(self, arm: Arm) -> float:
        """The mean of the posterior of `arm` by its own record, for people."""
        count = self._counts["pair"].get(_key(arm), _Count())
        a, b = _prior(self.base(), _LEVELS["pair"])
        return (a + count.wins) / (a + b + count.wins + count.losses)

    def _worded(self, style: str, base: float, rng: random.Random) -> tuple[float, str]:
        """How well the style does, drawn: in new words, or in those of its wordings that got something and
        does better."""
        works = self._draw("style", style, base, rng)
        known = [
            (self._draw("wording", name, works, rng), name.partition("/")[2])
            for name, count in self._counts["wording"].items()
            if count.wins > 0 and name.partition("/")[0] == style
        ]
        return max([(works, ""), *known])

    def _any(self, usual: float, rng: random.Random) -> Arm:
        """Evenly: of the budget, not of the tries, so that one that asks seventeen times is tried less."""
        prices = [max(self._cost(style, usual), 1.0) for style in self.styles]
        (style,) = rng.choices(self.styles, [1 / price for price in prices])
        return Arm(style, rng.choice(self.mutators))

    def _mean(self, level: str, prior: tuple[float, float]) -> float:
        counts = self._counts[level].values()
        wins, losses = (sum(getattr(count, name) for count in counts) for name in ("wins", "losses"))
        return min(0.95, (prior[0] + wins) / (sum(prior) + wins + losses))

    def _draw(self, level: str, name: str, believed: float, rng: random.Random) -> float:
        """From the posterior of `name` under a prior with the mean `believed`."""
        count = self._counts[level].get(name, _Count())
        a, b = _prior(min(0.95, max(1e-4, believed)), _LEVELS[level])
        return rng.betavariate((a + count.wins) / _BOLD, (b + count.losses) / _BOLD)

    def _read(self, level: str, name: str, rng: random.Random) -> float:
        """How likely it is to be understood, drawn."""
        count = self._counts[f"read {level}"].get(name, _Count())
        return rng.betavariate(_READ[0] + count.wins, _READ[1] + count.losses)

    def _cost(self, style: str, usual: float) -> float:
        """Mean cost of a try of the style; of any, where it was not tried."""
        count = self._counts["read style"].get(style, _Count())
        return count.cost / count.tries if count.tries > 0 else usual

    def _usual_cost(self) -> float:
        counts = self._counts["read style"].values()
        tries = sum(count.tries for count in counts)
        return sum(count.cost for count in counts) / tries if tries else 1.0

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


def _prior(mean: float, wins: float) -> tuple[float, float]:
    """So many successes, and as many failures as make it this mean."""
    return wins, wins * (1 - mean) / mean


def _key(arm: Arm) -> str:
    return f"{arm.style}+{arm.mutator}"
