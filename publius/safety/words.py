"""The first stage: a probe's average and a list of words together say what is read over again.

A word alone tells no refusal from a leak, for both name the hazard; a probe alone, low enough to miss no
leak, flags much that is harmless. So there are two ways to be flagged: an average that passes `flag`, or a
word and an average that passes the lower `worded`.

Words are learned from training exchanges: those said in leaks, before it is too late, about several things
that are not the same, and seldom in harmless replies. Names of single things are none. How many are taken,
and both averages, are the cheapest choice that leaves no more leaks unflagged than is allowed. What it leaves
of the traffic that may be flagged is spent on lower averages.

A word that was said also tells the second stage something (`chosen_lift`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from publius.core.messages import Conversation
from publius.safety.head import TrainedHead
from publius.safety.keywords import KeywordList, KeywordMonitor
from publius.safety.plain import HARD, SOFT, letters_of
from publius.safety.training import choose_threshold

__all__ = ["Flags", "Heard", "chosen_flags", "chosen_lift", "learned_words", "words_list"]

_MOST, _LEVELS = 40, 40
"""Words that are tried, and averages."""
_FREE = 0.002
"""Of the harmless: words that flag far fewer are all as good as those that flag so many."""
_LIFTS = [step / 2 for step in range(1, 13)]
"""Log-odds that are tried for a word."""
_NEVER = 1e6
"""No average is so high."""
_NOTHING = Conversation(messages=())
_NO_ROWS = np.empty((0, 0), np.float32)


class Heard(NamedTuple):
    """What the first stage hears of an exchange; of a leak, as long as it can be stopped in time."""

    highest: float
    """The probe's average, or what both stages say together."""
    text: str
    """Of the reply."""
    leaks: bool
    about: str
    """The thing that was asked for."""


class Flags(NamedTuple):
    """When an exchange is flagged.

    Args:
        flag: by the probe's average alone, when it passes this.
        worded: by a word, when the average passes this.
        words: what to look for.
    """

    flag: float
    worded: float
    words: KeywordMonitor | None

    @classmethod
    def of(cls, head: TrainedHead) -> Flags:
        """Those that a head was bounded with.

        Raises:
            UserError: when its files are missing or damaged.
        """
        document, words = head.document(), head.words()
        worded = document.flag if document.worded is None else document.worded
        return cls(document.flag, worded, None if words is None else KeywordMonitor(words))

    def __call__(self, highest: float, text: str) -> bool:
        """Whether an exchange with this highest average and this text is."""
        if not highest <= self.flag:
            return True
        return not highest <= self.worded and self.says(text)

    def says(self, text: str) -> bool:
        """Whether a reply says a word."""
        return self.words is not None and _match(self.words, text)


def words_list(words: Sequence[str]) -> KeywordList:
    """A list that flags what says one of `words`."""
    entry = {"words": list(words), "category": "watched", "action": "flag", "applies": ["reply"]}
    return KeywordList.model_validate({"entries": [entry] if words else []})


def learned_words(heard: Sequence[Heard], *, things: int = 3) -> list[str]:
    """Words that leaks say and harmless replies seldom, the most telling first: each is the one that tells
    most further leaks for each harmless reply more.

    Args:
        heard: training exchanges.
        things: a word must be said in leaks about so many.
    """
    said = [_plain_words(one.text) for one in heard]
    about: dict[str, set[str]] = {}
    for one, words in zip(heard, said, strict=True):
        for word in words if one.leaks else ():
            about.setdefault(word, set()).add(one.about)
    known = {word for word, names in about.items() if len(names) >= things}
    leaks = [words & known for one, words in zip(heard, said, strict=True) if one.leaks]
    harmless = [words & known for one, words in zip(heard, said, strict=True) if not one.leaks]
    share = 1 / max(1, len(harmless))
    found: list[str] = []
    while len(found) < _MOST:
        gains, costs = _count(leaks), _count(harmless)
        telling = {
            word: gain / (_FREE + share * costs[word]) for word, gain in gains.items() if gain >= things
        }
        if not telling:
            break
        best = min(telling, key=lambda word: (-telling[word], word))
        found.append(best)
        leaks = [words for words in leaks if best not in words]
        harmless = [words for words in harmless if best not in words]
    return found


def chosen_flags(
    leaks: Sequence[Heard],
    harmless: Sequence[Heard],
    words: Sequence[str],
    missed: float,
    *,
    spare: float = 0.0,
    fixed: bool = False,
) -> Flags:
    """The cheapest way to flag all `leaks` but the share `missed`, and as much more as is to spare.

    What it costs is the share of `harmless` that it flags; of equals the fewest words.

    Args:
        spare: of `harmless`; where the choice costs less, both averages are lowered together until it costs
            that. Leaks nothing was chosen on lie lower than those that something was.
        fixed: take all of `words`.
    """
    pool = _Pool.of([*leaks, *harmless], words)
    levels = _levels([one.highest for one in leaks])
    best: tuple[float, int, float, float] | None = None
    for count in range(len(words) if fixed else 0, len(words) + 1):
        for worded in levels if count else levels[:1]:
            flag = pool.flag(count, worded, missed)
            cost = pool.flagged(count, worded, flag)
            if best is None or (cost, count) < best[:2]:
                best = (cost, count, flag, worded)
    assert best is not None
    _, count, flag, worded = best
    flag = min(flag, float(pool.highest_N.max()))
    lower = pool.lower(count, worded, flag, spare)
    flag, worded = flag - lower, worded - lower
    return Flags(flag, worded, KeywordMonitor(words_list(words[:count])) if count else None)


def chosen_lift(
    leaks: Sequence[Heard], harmless: Sequence[Heard], words: Sequence[str], most: float, margin: float
) -> tuple[int, float]:
    """How many of `words` to look for, and what one that was said is worth in log-odds: what stops most of
    the leaks at the threshold that blocks as few of the harmless as asked (`choose_threshold`); of equals
    the fewest words and the least. (0, 0.0) where words help nothing.

    Args:
        leaks, harmless: with what both stages say together.
        margin: log-odds that leaks must pass the threshold by: without one all that `leaks` allow is as good,
            and other leaks lie lower.

    Raises:
        UserError: as `choose_threshold`.
    """
    pool = _Pool.of([*leaks, *harmless], words)
    best: tuple[int, int, float] | None = None
    for count in range(len(words) + 1):
        for lift in _LIFTS if count else [0.0]:
            lifted_N = pool.highest_N + lift * (pool.match_N < count)
            threshold = choose_threshold(lifted_N[~pool.leaks_N].tolist(), most)
            stopped = int((lifted_N[pool.leaks_N] - margin > threshold).sum())
            if best is None or (stopped, -count, -lift) > best:
                best = stopped, -count, -lift
    assert best is not None
    return -best[1], -best[2] + 0.0


class _Pool(NamedTuple):
    """Exchanges as arrays [N]."""

    highest_N: NDArray[np.float64]
    leaks_N: NDArray[np.bool_]
    match_N: NDArray[np.int64]
    """The place of the first word it says; behind the last where it says none."""

    @classmethod
    def of(cls, heard: Sequence[Heard], words: Sequence[str]) -> _Pool:
        monitors = [KeywordMonitor(words_list([word])) for word in words]
        places = [
            next((n for n, monitor in enumerate(monitors) if _match(monitor, one.text)), len(words))
            for one in heard
        ]
        return cls(
            np.array([one.highest for one in heard], np.float64),
            np.array([one.leaks for one in heard], bool),
            np.array(places, np.int64),
        )

    def flag(self, count: int, worded: float, missed: float) -> float:
        """The highest average to flag at, behind so many words, that misses no more of the leaks."""
        rest = self.leaks_N & ~self._worded(count, worded)
        ordered, allowed = np.sort(self.highest_N[rest]), int(missed * self.leaks_N.sum())
        return float(np.nextafter(ordered[allowed], -np.inf)) if allowed < len(ordered) else _NEVER

    def flagged(self, count: int, worded: float, flag: float) -> float:
        """The share of the harmless that is."""
        flagged_N = self._worded(count, worded) | (self.highest_N > flag)
        return float(flagged_N[~self.leaks_N].mean()) if not self.leaks_N.all() else 0.0

    def lower(self, count: int, worded: float, flag: float, spare: float) -> float:
        """By how much both averages can be lowered while no more than `spare` of the harmless is flagged."""
        under, over = 0.0, float(np.ptp(self.highest_N))
        if self.flagged(count, worded, flag) > spare:
            return 0.0
        for _ in range(40):
            middle = (under + over) / 2
            fits = self.flagged(count, worded - middle, flag - middle) <= spare
            under, over = (middle, over) if fits else (under, middle)
        return under

    def _worded(self, count: int, worded: float) -> NDArray[np.bool_]:
        return (self.match_N < count) & (self.highest_N > worded)


def _levels(highest: Sequence[float]) -> list[float]:
    """Averages to try: one below all, and steps between those of leaks."""
    if not highest:
        return [0.0]
    inner = np.quantile(highest, np.linspace(0, 0.5, _LEVELS))
    return [float(min(highest)) - 100.0, *(float(np.nextafter(level, -np.inf)) for level in inner)]


def _match(words: KeywordMonitor, text: str) -> bool:
    return words.watch(_NOTHING).reply(text, _NO_ROWS, done=True)[0].action != "allow"


def _count(sets: Sequence[set[str]]) -> Counter[str]:
    return Counter(word for words in sets for word in words)


def _plain_words(text: str) -> set[str]:
    """The words of a text as a monitor reads them, of three letters and more."""
    words, word = set[str](), ""
    for character in f"{text} ":
        letters = letters_of(character)
        if letters == HARD:
            words.add(word)
            word = ""
        elif letters != SOFT:
            word += letters
    return {word for word in words if len(word) > 2}
