from __future__ import annotations

import pytest

from publius.constitution.judges.choice import NoChoice
from publius.core.errors import UserError
from publius.evals.choice_report import score_choices
from publius.evals.choices import ChoiceItem, Chosen, MultipleChoice

ONE = ChoiceItem("one", (MultipleChoice("Which?\nThe answer is:", (" (A)", " (B)")),), (0,))


class Says:
    """A scorer that gives what it is told."""

    def __init__(self, *results: Chosen | NoChoice) -> None:
        self.results = list(results)

    def score(self, items):
        assert len(items) == len(self.results)
        return self.results


def test_the_report() -> None:
    items = [ONE._replace(right=(right,), lengths=lengths) for right, lengths in
             [(0, (3, 2)), (1, (3, 2)), (0, (2, 2)), (1, ()), (0, (1, 2)), (0, (9, 1))]]  # fmt: skip
    report = score_choices(
        items,
        Says(
            Chosen((0.9, 0.1), 0.8), Chosen((0.9, 0.1), 0.6), Chosen((0.5, 0.5), 0.4),
            Chosen((0.2, 0.8), 0.2), NoChoice("declined", ""), NoChoice("unfit", ""),
        ),
    )  # fmt: skip
    assert (report.n, report.accuracy.value) == (6, 2 / 6), "a tie is wrong, and so is silence"
    assert report.unscored == {"declined": 1, "unread": 0, "unreached": 0, "unfit": 1}
    assert (report.longer.value, report.longer.n) == (2 / 4, 4)
    assert report.first.value == 4 / 6 and report.mass.value == pytest.approx(0.5)
    gaps = abs(0.9 + 0.9 - 1) + abs(0.5 - 0) + abs(0.8 - 1)
    assert report.ece.value == pytest.approx(gaps / 4)
    assert [(row.n, row.observed) for row in report.calibration] == [(1, 0.0), (1, 1.0), (2, 0.5)]
    assert report.inconsistency.n == 0
    shown = report.as_dict()
    assert shown["inconsistency"]["value"] is None and shown["unscored"]["unfit"] == 1
    with pytest.raises(UserError, match="no questions"):
        score_choices([], Says())
    nothing = score_choices([ONE], Says(NoChoice("unread", "")))
    assert nothing.as_dict()["ece"]["value"] is None and nothing.accuracy.value == 0
