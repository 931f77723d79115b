"""Thinking: how often a model is right by how long it may think."""

from __future__ import annotations

import math

from publius.evals import BudgetCurve, Measure
from publius.report.collect import Entry, Gathered
from publius.report.html import Html, details, el, number, section, table
from publius.report.plots import COLOURS, Series, line_plot

__all__ = ["budgets"]


def budgets(g: Gathered) -> Html | None:
    """One plot, a line for each model asked; and the numbers."""
    found = [(g.model(entry) or entry.name, entry, report.curve()) for entry, report in g.budgets()]
    if not found:
        return None
    series = [
        _line(name, curve, COLOURS[place % len(COLOURS)]) for place, (name, _, curve) in enumerate(found)
    ]
    plot = line_plot(
        "Accuracy by thinking budget",
        series,
        x_label="most tokens of thinking",
        y_label="share right",
        note="; ".join(_note(name, curve) for name, _, curve in found),
        height=260,
    )
    return section(
        "thinking",
        "Thinking",
        "The same held-out questions, greedily answered, with thinking cut off at a budget: the block is "
        "closed and the model answers from what it has. At 0 it answers at once. Whiskers are 95% intervals.",
        el("div", plot, class_="plots"),
        details("As numbers", [_numbers(*each) for each in found]),
    )


def _line(name: str, curve: BudgetCurve, colour: str) -> Series:
    pairs = [
        (budget, measure)
        for budget, measure in zip(curve.budgets, curve.accuracy, strict=True)
        if measure.value is not None and math.isfinite(measure.value)
    ]
    points = [(float(budget), measure.value or 0.0) for budget, measure in pairs]
    bands = [(measure.low or 0.0, 1.0 if measure.high is None else measure.high) for _, measure in pairs]
    return Series(name, points, colour, dots=True, bands=bands)


def _note(name: str, curve: BudgetCurve) -> str:
    return f"{name}: {_share(curve.off)} off, {_share(curve.on)} on, n = {curve.on.n}"


def _share(measure: Measure) -> str:
    return "n/a" if measure.value is None else f"{measure.value:.0%}"


def _numbers(name: str, entry: Entry, curve: BudgetCurve) -> Html:
    rows = [["off", "", _told(curve.off)]]
    rows += [
        [f"{budget:,}", number(tokens), _told(measure)]
        for budget, tokens, measure in zip(curve.budgets, curve.tokens, curve.accuracy, strict=True)
    ]
    rows.append(["on, no budget", number(curve.on_tokens), _told(curve.on)])
    return table(["budget", "tokens a reply", "share right"], rows, caption=name)


def _told(measure: Measure) -> str:
    interval = (
        "" if measure.low is None or measure.high is None else f" ({measure.low:.0%} to {measure.high:.0%})"
    )
    return f"{_share(measure)}{interval}, n = {measure.n}"
