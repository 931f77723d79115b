"""Studies: a figure for each measure, and every published claim beside what was found."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from publius.core.stats import t_estimate
from publius.evals.study import Result, StudyDocument, Value
from publius.report.collect import Gathered
from publius.report.html import Html, details, el, interval_bar, number, section, table
from publius.report.plots import COLOURS, Series, line_plot

__all__ = ["studies"]


def studies(g: Gathered) -> Html | None:
    """One part a study."""
    parts = [_study(report.document()) for _, report in g.studies()]
    if not parts:
        return None
    return section(
        "studies",
        "Studies",
        "Published claims, run again on the bundled world. A claim is a difference between arms, seed by "
        "seed; its interval is over seeds, and with few of them it is wide. A rate of one seed has its own "
        "n and interval, under the figure.",
        parts,
    )


def _study(document: StudyDocument) -> Html:
    measures = list(dict.fromkeys(value.measure for value in document.values))
    return el(
        "div",
        el("h3", document.config.title),
        _claims(document) if document.results else None,
        el("div", [_figure(document, measure) for measure in measures], class_="plots"),
        details("Every value", _values(document)),
    )


def _claims(document: StudyDocument) -> Html:
    rows: list[list[Html | str]] = []
    for found in document.results:
        claim = found.claim
        asked = f"{claim.measure} {claim.direction}"
        if claim.margin:
            asked += f" (within {_said(document, claim.measure, claim.margin)})"
        words = el("span", claim.text, el("span", claim.source, class_="note block"))
        rows.append([words, asked, _contrast(document, found), found.outcome])
    return table(["published", "direction", "here: difference", "outcome"], rows, caption="Claims")


def _said(document: StudyDocument, measure: str, value: float, *, signed: bool = False) -> str:
    """A share in percent, a difference of shares in points, anything else as a number."""
    if document.config.units.get(measure, "share") == "share":
        return f"{100 * value:+.1f} points" if signed else f"{value:.1%}"
    return f"{value:+.4g}" if signed else number(value)


def _contrast(document: StudyDocument, f: Result) -> Html:
    measure = f.claim.measure
    interval = f"n = {f.n} seed" + ("s" if f.n > 1 else "")
    if f.low is not None and f.high is not None:
        low, high = (_said(document, measure, side, signed=True) for side in (f.low, f.high))
        interval = f"{low} to {high}, {interval}"
    value = _said(document, measure, f.value, signed=True)
    return el("span", value, " ", el("span", interval, class_="note block"))


def _figure(document: StudyDocument, measure: str) -> Html | None:
    values = [value for value in document.values if value.measure == measure]
    if any(value.x is not None for value in values):
        return _curves(document, measure, values)
    return _bars(document, measure, values)


def _means(values: Sequence[Value]) -> dict[tuple[str, float | None], list[float]]:
    found: dict[tuple[str, float | None], list[float]] = defaultdict(list)
    for value in values:
        found[value.arm, value.x].append(value.value)
    return found


def _curves(document: StudyDocument, measure: str, values: Sequence[Value]) -> Html | None:
    """A bold line an arm, the mean over seeds; every seed faint behind it."""
    series: list[Series] = []
    for index, arm in enumerate(dict.fromkeys(value.arm for value in values)):
        kind = COLOURS[index % len(COLOURS)]
        mine = [value for value in values if value.arm == arm and value.x is not None]
        for seed in sorted({value.seed for value in mine}):
            points = sorted((value.x or 0.0, value.value) for value in mine if value.seed == seed)
            series.append(Series(f"{arm}, seed {seed}", points, kind, faint=True))
        means = [(x or 0.0, sum(found) / len(found)) for (_, x), found in _means(mine).items()]
        series.append(Series(arm, sorted(means), kind, dots=True))
    seeds = len({value.seed for value in values})
    return line_plot(measure, series, x_label=document.config.x_label, note=f"mean of {seeds} seeds")


def _bars(document: StudyDocument, measure: str, values: Sequence[Value]) -> Html:
    """A line an arm: the mean over seeds, and the seeds' own values."""
    lines: list[Html] = []
    share = document.config.units.get(measure, "share") == "share"
    for (arm, _), found in _means(values).items():
        mean = t_estimate(found)
        each = ", ".join(_said(document, measure, value) for value in found)
        several = len(found) > 1
        bar = (
            interval_bar(mean.value, mean.low, mean.high) if several else interval_bar(mean.value, None, None)
        )
        lines.append(
            el(
                "li",
                el("span", arm, class_="who"),
                bar if share else None,
                el("strong", _said(document, measure, mean.value)),
                el("span", f"seeds: {each}" if several else "one seed", class_="note"),
            )
        )
    return el("div", el("h3", measure), el("ul", lines, class_="dots"), class_="panel")


def _values(document: StudyDocument) -> Html:
    axis = document.config.x_label or "at"
    rows: list[list[str]] = []
    for v in document.values:
        interval = ""
        if v.low is not None and v.high is not None:
            interval = f"{_said(document, v.measure, v.low)} to {_said(document, v.measure, v.high)}"
        at = "" if v.x is None else f"{v.x:g}"
        value = _said(document, v.measure, v.value)
        rows.append([v.measure, v.arm, at, f"{v.seed}", value, interval, f"{v.n or ''}"])
    head = ["measure", "arm", axis, "seed", "value", "interval", "n"]
    return table(head, rows, numeric=(2, 3, 4, 6), caption="Every value, by seed")
