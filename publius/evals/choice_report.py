"""How well a set of multiple-choice questions was answered, beside the rules that a model must beat."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from publius.constitution.judges.choice import NoChoice
from publius.core.errors import UserError
from publius.core.stats import (
    CalibrationBin,
    Estimate,
    bootstrap,
    calibration,
    calibration_error,
    mean_estimate,
    wilson,
)
from publius.evals.choices import ChoiceItem, ChoiceScorer, Chosen

__all__ = ["ChoiceReport", "score_choices"]


class ChoiceReport(NamedTuple):
    """How well a set of questions was answered.

    Attributes:
        accuracy: unscored items are wrong; a tie between options is wrong.
        ece: expected calibration error of the chosen option's probability.
        longer: how often the longer reply is the right one, where lengths are known and differ.
        first: how often the first option is right, of items asked in one order: what a model that always
            says (A) would score.
        inconsistency: how often the two orders preferred different replies; n = 0 where one was asked.
        mass: mean probability of all options together.
        unscored: counts by kind: `declined`, `unread`, `unreached`, `unfit`.
    """

    n: int
    accuracy: Estimate
    ece: Estimate
    longer: Estimate
    first: Estimate
    inconsistency: Estimate
    mass: Estimate
    unscored: dict[str, int]
    calibration: list[CalibrationBin]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: values that could not be measured are None."""
        estimates = {
            name: {key: _number(value) for key, value in part.as_dict().items()}
            for name, part in self._asdict().items()
            if isinstance(part, Estimate)
        }
        table = [row._asdict() for row in self.calibration]
        return {"n": self.n, **estimates, "unscored": self.unscored, "calibration": table}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def score_choices(items: Sequence[ChoiceItem], scorer: ChoiceScorer) -> ChoiceReport:
    """Score a set of questions and report.

    Raises:
        UserError: when there are none, and as the scorer.
    """
    if not items:
        raise UserError("there are no questions", where="the file", fix="give a file with rows")
    results = scorer.score(items)
    right = [
        isinstance(chosen, Chosen) and _best(chosen.probabilities) in item.right
        for item, chosen in zip(items, results, strict=True)
    ]
    read = [(chosen, ok) for chosen, ok in zip(results, right, strict=True) if isinstance(chosen, Chosen)]
    said = [(max(chosen.probabilities), ok) for chosen, ok in read]
    low = 0.5 if all(len(item.orders[0].options) == 2 for item in items) else 0.0
    kinds = Counter(chosen.kind for chosen in results if isinstance(chosen, NoChoice))
    measured = [item for item in items if item.lengths and len(set(item.lengths)) > 1]
    fixed = [item for item in items if len(item.orders) == 1]
    turned = [chosen for chosen, _ in read if chosen.consistent is not None]
    return ChoiceReport(
        n=len(items),
        accuracy=wilson(sum(right), len(right)),
        ece=bootstrap(said, lambda some: calibration_error(some, low=low), draws=200)
        if said
        else Estimate(math.nan, 0, 0.0, 1.0),
        longer=wilson(sum(_longest(item) in item.right for item in measured), len(measured)),
        first=wilson(sum(0 in item.right for item in fixed), len(fixed)),
        inconsistency=wilson(sum(not chosen.consistent for chosen in turned), len(turned)),
        mass=mean_estimate([chosen.mass for chosen, _ in read if not math.isnan(chosen.mass)]),
        unscored={kind: kinds[kind] for kind in ("declined", "unread", "unreached", "unfit")},
        calibration=calibration(said, low=low),
    )


def _longest(item: ChoiceItem) -> int:
    return item.lengths.index(max(item.lengths))


def _best(probabilities: Sequence[float]) -> int | None:
    """The likeliest option; None for a tie."""
    best = max(probabilities)
    found = [i for i, p in enumerate(probabilities) if p == best]
    return found[0] if len(found) == 1 else None
