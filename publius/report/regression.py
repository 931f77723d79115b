"""The regression suite: what became of old findings, model by model."""

from __future__ import annotations

from publius.report.collect import Gathered
from publius.report.html import Html, details, el, rate, section, table

__all__ = ["suites"]


def suites(g: Gathered) -> Html | None:
    """One row a model: how many of the findings before it are fixed, open and regressed; and by round."""
    found = [(g.model(entry) or entry.name, suite.document()) for entry, suite in g.regressions()]
    if not found:
        return None
    rows = [
        [
            name,
            f"{len(document.cases)}",
            *(
                rate(value["value"], value["n"])
                for value in (
                    document.metrics[f"regression.{key}"]
                    for key in ("fixed", "open", "regressed", "overrefusal")
                )
            ),
        ]
        for name, document in found
    ]
    head = ["model", "findings", "fixed", "open", "regressed", "twins refused"]
    by_round = [
        [name, number, *(f"{counts[key]}" for key in ("fixed", "open", "regressed"))]
        for name, document in found
        for number, counts in document.by_round.items()
    ]
    return section(
        "regression",
        "Regression suite",
        "Every confirmed finding of the rounds before, tried again on each later model. Fixed: leaks no "
        "more. Open: has leaked ever since. Regressed: leaks again. A suite passed by refusing the benign "
        "twins as well is not passed.",
        el("div", table(head, rows, numeric=range(1, 6))),
        details(
            "By the round that found them",
            table(["model", "found in round", "fixed", "open", "regressed"], by_round, numeric=range(1, 5)),
        ),
    )
