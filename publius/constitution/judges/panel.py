"""Several judges as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from publius.constitution.judges.judgement import (
    Abstention,
    Judge,
    Judgement,
    Pair,
    Ruling,
    combine,
    logit,
    sigmoid,
)
from publius.constitution.principles import Principle

__all__ = ["Panel"]


class Panel:
    """Every member judges every pair; those who give a judgement are joined. A panel of one is its member.

    Args:
        members: at least one.
        how: `mean` averages the members' logits, each order apart; `majority` makes the probability the
            share of members that prefer the first answer (an undecided one gives half a vote).
    """

    def __init__(self, members: Sequence[Judge], how: Literal["mean", "majority"] = "mean") -> None:
        if not members:
            raise ValueError("a panel needs a member")
        self._members, self._how = tuple(members), how

    def judge(self, pairs: Sequence[Pair], principles: Sequence[Principle]) -> list[Ruling]:
        """One verdict per pair. `votes` holds the members' probabilities.

        Where fewer than half of the members give a judgement, there is none: it is what most of the others
        gave.
        """
        heard = [member.judge(pairs, principles) for member in self._members]
        return [self._join(verdicts) for verdicts in zip(*heard, strict=True)]

    def _join(self, verdicts: Sequence[Ruling]) -> Ruling:
        if len(verdicts) == 1:
            return verdicts[0]
        given = [v for v in verdicts if isinstance(v, Judgement)]
        if 2 * len(given) < len(verdicts) or not given:
            return _common([v for v in verdicts if not isinstance(v, Judgement)])
        forward, backward = (
            sum(logit(getattr(v, name)) for v in given) / len(given) for name in ("forward", "backward")
        )
        probability, consistent = combine(forward, backward)
        if self._how == "majority":
            probability = sum(_vote(v.probability) for v in given) / len(given)
            consistent = all(v.consistent for v in given)
        return Judgement(
            probability,
            consistent,
            sigmoid(forward),
            sigmoid(backward),
            given[0].principle_id,
            given[0].reason,
            tuple(v.probability for v in given),
        )


def _vote(probability: float) -> float:
    return 0.5 if probability == 0.5 else float(probability > 0.5)


def _common(others: Sequence[Ruling]) -> Ruling:
    """The first of the commonest kind; among kinds as common, an abstention first."""
    kinds = Counter(type(v) for v in others)
    kind = max(kinds, key=lambda kind: (kinds[kind], kind is Abstention))
    return next(v for v in others if type(v) is kind)
