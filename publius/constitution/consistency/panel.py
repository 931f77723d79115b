"""Several judges of one reply as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from publius.constitution.consistency.question import Consistency, ConsistencyJudge, ReplyCase, Unread
from publius.constitution.judges import Abstention

__all__ = ["ConsistencyPanel"]


class ConsistencyPanel:
    """Every member reads every case; the logits of those who could are averaged. One is its member.

    Where fewer than half could, there is no reading: it is what most of the others gave.

    Raises:
        ValueError: without a member.
    """

    def __init__(self, members: Sequence[ConsistencyJudge]) -> None:
        if not members:
            raise ValueError("a panel needs a member")
        self._members = tuple(members)

    def consistent(self, cases: Sequence[ReplyCase]) -> list[Consistency | Unread]:
        """One reading per case, in order."""
        heard = [member.consistent(cases) for member in self._members]
        return [_join(readings) for readings in zip(*heard, strict=True)]


def _join(readings: Sequence[Consistency | Unread]) -> Consistency | Unread:
    given = [r for r in readings if isinstance(r, Consistency)]
    if not given or 2 * len(given) < len(readings):
        others = [r for r in readings if not isinstance(r, Consistency)]
        kinds = Counter(map(type, others))
        kind = max(kinds, key=lambda kind: (kinds[kind], kind is Abstention))
        return next(r for r in others if type(r) is kind)
    logit, mass = (sum(getattr(r, name) for r in given) / len(given) for name in ("logit", "mass"))
    return Consistency(logit, mass, given[0].principle_id)
