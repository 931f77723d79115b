"""Evaluations of several models side by side: tables for the terminal, a page with a forest plot a suite."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from publius.core.errors import UserError
from publius.evals.report import Measure, ReportDocument
from publius.evals.suites.compare import Comparison, SuiteResult
from publius.report.html import Html, details, el, join, section, table
from publius.report.plots import COLOURS, nice_ticks

__all__ = [
    "comparison_page",
    "comparison_tables",
    "contamination_table",
    "forest_plot",
    "suite_table",
    "verdict",
    "write_comparison",
]

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
_WIDTH, _LEFT, _RIGHT, _ROW, _BOTTOM = 480, 140, 14, 17, 30


def _said(measure: Measure | None, *, signed: bool = False) -> str:
    """A value with its interval, and how many had no score."""
    if measure is None or measure.value is None:
        return "n/a"
    plus = "+" if signed else ""
    told = f"{measure.value:{plus}.3f}"
    if measure.low is not None and measure.high is not None:
        told += f"\n{measure.low:{plus}.3f} to {measure.high:{plus}.3f}"
    return told + (f"\n{measure.unscored} unscored" if measure.unscored and not signed else "")


def _line(told: str) -> str:
    """On one line, for places that have the room."""
    return ", ".join(told.split("\n"))


def verdict(measure: Measure, better: str) -> str:
    """What a difference says: better, worse, more, less, or nothing where its interval holds 0."""
    if measure.low is None or measure.high is None or measure.low <= 0 <= measure.high:
        return ""
    up = measure.low > 0
    if not better:
        return "more" if up else "less"
    return "better" if up == (better == "higher") else "worse"


def _metrics(result: SuiteResult) -> list[str]:
    """In the suite's order; of lm-eval's tasks as they come."""
    prefix = f"{result.suite}."
    return list(dict.fromkeys(name.removeprefix(prefix) for r in result.reports for name in r.metrics))


def _by_model(result: SuiteResult) -> dict[str, ReportDocument]:
    return {str(report.config["model"]): report for report in result.reports}


def _difference(result: SuiteResult, metric: str, model: str) -> str:
    for found in result.differences:
        if found.metric == metric and found.second == model:
            word = verdict(found.measure, result.better.get(metric, "higher"))
            return _said(found.measure, signed=True) + (f"\n{word}" if word else "")
    return ""


def comparison_tables(comparison: Comparison) -> Iterator[Table]:
    """One table of all suites on all models; then what of them is in training text, if it was looked for."""
    first, *others = comparison.models
    shown = Table(
        title="evaluations (95% intervals; unscored counts against the model)", title_justify="left"
    )
    shown.add_column("evaluation", no_wrap=True)
    apart = [f"{name} less {first}" for name in others]
    for column in ("n", "chance", *comparison.models, *apart):
        shown.add_column(escape(column), overflow="fold")
    notes: list[str] = []
    for result in comparison.results:
        reports = _by_model(result)
        for metric in _metrics(result):
            name = f"{result.suite}.{metric}"
            found = [reports[m].metrics.get(name) if m in reports else None for m in comparison.models]
            n = next((measure.n for measure in found if measure is not None), None)
            chance = result.chance.get(metric)
            cells = [_said(measure) if measure is not None else "-" for measure in found]
            apart = [_difference(result, metric, other) for other in others]
            row = [name, f"{n or ''}", f"{chance:.3f}" if chance is not None else "", *cells, *apart]
            shown.add_row(*map(escape, row))
        notes += _notes(result)
        shown.add_section()
    shown.caption = escape("\n".join(notes)) or None
    shown.caption_justify = "left"
    yield shown
    if any(result.contamination for result in comparison.results):
        yield contamination_table(comparison.results)


def _notes(result: SuiteResult) -> list[str]:
    notes = [f"{result.suite}: not asked of {model} ({why})" for model, why in result.skipped.items()]
    kinds = {str(report.config.get("kind", "")) for report in result.reports}
    if len(kinds) > 1:
        notes.append(f"{result.suite}: {', '.join(sorted(kinds))} models are asked in different ways")
    if result.left_out:
        notes.append(
            f"{result.suite}: {result.left_out} questions only a judge can mark were not asked (--judge)"
        )
    if result.clusters < result.n:
        notes.append(f"{result.suite}: {result.n} questions in {result.clusters} clusters")
    return notes


def contamination_table(results: Sequence[SuiteResult]) -> Table:
    """How much of each suite stands in the training text, and what models score on the rest."""
    searched = next((r.contamination for r in results if r.contamination), None)
    words = searched.words if searched else 0
    title = f"in the training text ({words} words in a row)" + (f": {searched.against}" if searched else "")
    shown = Table(title=escape(title), title_justify="left")
    columns = ["suite", "n", "dirty", "share", "80% covered", "too short to tell"]
    scored = any(result.reports for result in results)
    for column in [*columns, *(["clean", "dirty"] if scored else [])]:
        shown.add_column(column, overflow="fold")
    for result in results:
        c = result.contamination
        if c is None:
            continue
        told = [result.suite, str(c.n), str(c.dirty), f"{c.dirty / c.n:.2%}", str(c.mostly), str(c.short)]
        parts = [_part(result, name) for name in ("clean", "dirty")] if scored else []
        shown.add_row(*map(escape, (*told, *parts)))
    return shown


def _part(result: SuiteResult, name: str) -> str:
    """The first metric of every model on the clean or the dirty questions."""
    metric = next(iter(result.metrics), "")
    lines = [
        f"{model}: {_line(_said(report.by_category.get(f'contamination.{name}', {}).get(metric)))}"
        for model, report in _by_model(result).items()
    ]
    return "\n".join(lines)


def suite_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """What can be evaluated."""
    shown = Table(title="evaluations", title_justify="left")
    for column in ("name", "what", "models", "file"):
        shown.add_column(column, overflow="fold")
    for row in rows:
        files = ", ".join(Path(path).name for path in row["files"]) or "-"
        told = (row["name"], row["about"], ", ".join(row["models"]), row["needs"] or files)
        shown.add_row(*map(escape, told))
    return shown


# ---- the page ----


def forest_plot(
    title: str, rows: Sequence[tuple[str, str, Measure]], *, chance: float | None = None
) -> Html | None:
    """Rates as dots with their intervals as lines, one under the other; None when nothing was measured.

    Args:
        rows: label (empty: as the row above), colour class, and the number.
        chance: where a guess would lie, as a dashed line.
    """
    kept = [(label, kind, m) for label, kind, m in rows if m.value is not None]
    if not kept:
        return None
    ends = [v for _, _, m in kept for v in (m.value, m.low, m.high) if v is not None and math.isfinite(v)]
    low, high = min(0.0, *ends), max(1.0, *ends)

    def across(value: float) -> float:
        share = (min(high, max(low, value)) - low) / (high - low)
        return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)

    base = 8 + _ROW * len(kept)
    parts: list[Html] = []
    for tick in nice_ticks(low, high):
        x = across(tick)
        parts.append(el("line", x1=x, x2=x, y1=4, y2=base, class_="grid"))
        parts.append(el("text", f"{tick:g}", x=x, y=base + 14, text_anchor="middle"))
    if chance is not None:
        x = across(chance)
        parts.append(
            el("line", el("title", f"chance: {chance:.3f}"), x1=x, x2=x, y1=4, y2=base, class_="diagonal")
        )
    for index, (label, kind, measure) in enumerate(kept):
        parts.append(_row(label, kind, measure, 8 + _ROW * index + _ROW / 2, across))
    picture = el(
        "svg", parts, viewBox=f"0 0 {_WIDTH} {base + _BOTTOM}", role="img",
        aria_label=f"{title}: {len(kept)} rates with intervals",
    )  # fmt: skip
    return el("figure", el("figcaption", el("strong", title)), picture)


def _row(label: str, kind: str, measure: Measure, y: float, across: Any) -> Html:
    value = measure.value or 0.0
    left = across(measure.low if measure.low is not None else value)
    right = across(measure.high if measure.high is not None else value)
    tip = el("title", f"{label}: {_line(_said(measure))}, n = {measure.n}")
    return join(
        el("text", label, x=_LEFT - 8, y=y + 3.5, text_anchor="end"),
        el("line", x1=left, x2=right, y1=y, y2=y, class_=f"whisker {kind}"),
        el("circle", tip, cx=across(value), cy=y, r=4, class_=f"dot {kind}"),
    )


def _figure(result: SuiteResult, kinds: Mapping[str, str]) -> Html | None:
    rows: list[tuple[str, str, Measure]] = []
    for metric in _metrics(result):
        label = metric
        for model, report in _by_model(result).items():
            if (measure := report.metrics.get(f"{result.suite}.{metric}")) is not None:
                rows.append((label, kinds[model], measure))
                label = ""
    chances = set(result.chance.values())
    return forest_plot(result.suite, rows, chance=chances.pop() if len(chances) == 1 else None)


def _wide(figure: Html | None) -> Html | None:
    """No wider than its words are read well."""
    return el("div", figure, style="max-width:36rem") if figure is not None else None


def _overview(comparison: Comparison, kinds: Mapping[str, str]) -> Html | None:
    """The first number of every suite, one under the other."""
    rows: list[tuple[str, str, Measure]] = []
    for result in comparison.results:
        metric = next(iter(_metrics(result)), "")
        label = f"{result.suite} {metric}"
        for model, report in _by_model(result).items():
            if (measure := report.metrics.get(f"{result.suite}.{metric}")) is not None:
                rows.append((label, kinds[model], measure))
                label = ""
    return _wide(forest_plot("The first number of every suite", rows))


def _numbers(comparison: Comparison, result: SuiteResult) -> Html:
    first, *others = comparison.models
    reports = _by_model(result)
    head = ["metric", "what", *reports, *(f"{name} less {first}" for name in others if name in reports)]
    rows = [
        [
            el("code", metric),
            result.metrics.get(metric, ""),
            *(_line(_said(report.metrics.get(f"{result.suite}.{metric}"))) for report in reports.values()),
            *(_line(_difference(result, metric, name)) for name in others if name in reports),
        ]
        for metric in _metrics(result)
    ]
    return table(head, rows, caption=f"{result.suite}: {result.about}")


def _groups(result: SuiteResult) -> Html | None:
    reports = _by_model(result)
    names = list(dict.fromkeys(name for report in reports.values() for name in report.by_category))
    metric = next(iter(result.metrics), None)
    if not names or metric is None:
        return None
    rows = [
        [name, *(_line(_said(report.by_category.get(name, {}).get(metric))) for report in reports.values())]
        for name in names
    ]
    return details(f"{metric} by group", table(["group", *reports], rows, caption=f"{result.suite} by group"))


def _suite(comparison: Comparison, result: SuiteResult, kinds: Mapping[str, str]) -> Html:
    notes = [el("p", note, class_="note") for note in _notes(result)]
    c = result.contamination
    if c is not None:
        told = f"{c.dirty} of {c.n} questions share {c.words} words in a row with {c.against}"
        notes.append(el("p", f"{told}; {c.short} are too short to tell.", class_="note"))
    return section(
        result.suite, result.suite, result.about,
        _wide(_figure(result, kinds)), _numbers(comparison, result), _groups(result),
        notes,
    )  # fmt: skip


def comparison_page(comparison: Comparison) -> str:
    """The whole page; it asks nothing of the network."""
    kinds = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(comparison.models)}
    style = Html(Path(__file__).with_name("style.css").read_text("utf-8"))
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", "Publius: evaluations"),
        el("style", style),
    )
    legend = el(
        "p",
        [el("span", el("i", class_=f"key {kind}"), name) for name, kind in kinds.items()],
        class_="legend",
    )
    note = (
        "Rates with 95% intervals that know which questions belong together. Differences are paired, "
        "question by question, against the first model. What could not be scored counts against the model. "
        "Dashed: a guess."
    )
    links = el("nav", [el("a", r.suite, href=f"#{r.suite}") for r in comparison.results], aria_label="suites")
    body = el(
        "body", el("p", "Publius", class_="kicker"), el("h1", "Evaluations"), el("p", note, class_="note"),
        legend, links, _overview(comparison, kinds),
        el("main", [_suite(comparison, result, kinds) for result in comparison.results]),
    )  # fmt: skip
    return "<!doctype html>\n" + join(el("html", head, body, lang="en")) + "\n"


def write_comparison(path: Path, comparison: Comparison) -> None:
    """Write the page, whole or not at all.

    Raises:
        UserError: when the disk refuses.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fresh.write_text(comparison_page(comparison), "utf-8")
        fresh.replace(path)
    except OSError as error:
        raise UserError(
            f"cannot write: {error.strerror or error}", where=str(path), fix="choose another place"
        ) from None
    finally:
        with suppress(OSError):  # where it could not be written, it may not even be asked for
            fresh.unlink()
