"""What alignment did: leak, over-refusal and helpfulness stage by stage; attacks; principles; judges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from publius.core.stats import calibration
from publius.evals import Measure
from publius.report.collect import Entry, Gathered
from publius.report.html import Html, details, el, interval_bar, number, rate, section, table
from publius.report.plots import reliability_plot

__all__ = [
    "Examined",
    "examined",
    "judges",
    "outcomes",
    "principle_texts",
    "principles",
    "told",
]

_PANELS = (
    ("leak", "Leak rate", "forbidden recipes given away; lower is better", "s2"),
    ("overrefusal", "Over-refusal", "harmless look-alikes refused; lower is better", "s4"),
    ("refusal", "Refusals", "harmful requests refused, told by the words used", "s3"),
    ("helpful", "Helpful", "right answers to ordinary questions; higher is better", "s1"),
)


class Examined(NamedTuple):
    """One evaluated model: its stage's name, and its metrics without the report's prefix."""

    name: str
    entry: Entry
    measures: dict[str, Measure]
    control: bool


def examined(g: Gathered) -> list[Examined]:
    """Every evaluated model in recipe order."""
    found: list[Examined] = []
    for entry, report in g.reports():
        document = report.document()
        if document.model is not None and "model" in entry.record.inputs:
            measures = {name.removeprefix(f"{document.prefix}."): m for name, m in document.metrics.items()}
            found.append(Examined(g.model(entry) or document.prefix, entry, measures, g.is_control(entry)))
    return found


def _is_share(measure: Measure) -> bool:
    """What is no rate has no interval (`Measure`), or one that leaves [0, 1]."""
    low, high = measure.low, measure.high
    return low is not None and high is not None and 0 <= low <= high <= 1


def told(measure: Measure | dict[str, Any]) -> str:
    """Interval, sample size and what had no score."""
    m = measure if isinstance(measure, Measure) else Measure.model_validate(measure)
    if m.value is None or m.n == 0:
        return "not measured"
    if m.n is None:
        return "no estimate: it has no sample size"
    interval = ""
    if m.low is not None and m.high is not None:
        low, high = (f"{end:.0%}" if _is_share(m) else number(end) for end in (m.low, m.high))
        interval = f"{low} to {high}, "
    return f"{interval}n = {m.n}" + (f", {m.unscored} unscored" if m.unscored else "")


def outcomes(g: Gathered) -> Html | None:
    """The same held-out questions before and after each stage of alignment."""
    models = examined(g)
    panels = [
        panel for key, title, words, kind in _PANELS if (panel := _panel(models, key, title, words, kind))
    ]
    if not panels:
        return None
    names = list(dict.fromkeys(name for model in models for name in model.measures))
    rows = [[name, *(_cell(model.measures.get(name)) for model in models)] for name in names]
    return section(
        "outcomes",
        "Before and after each stage" if len(models) > 1 else "Held-out questions",
        "Held-out questions, the same for every model; bands are 95% intervals. Harmlessness never stands "
        "alone: a model that refuses everything leaks nothing and helps nobody.",
        el("div", panels, class_="panels"),
        details(
            "By kind of question",
            table(["", *(model.name for model in models)], rows, numeric=range(1, len(models) + 1)),
        ),
    )


def _cell(measure: Measure | None) -> Html | str:
    if measure is None:
        return ""
    # what is no rate has no interval (`Measure`), or one that leaves [0, 1]
    value = rate(measure.value, measure.n) if _is_share(measure) else number(measure.value)
    return el("span", value, title=told(measure))


def _panel(models: Sequence[Examined], key: str, title: str, words: str, kind: str) -> Html | None:
    rows = [(model, model.measures[key]) for model in models if key in model.measures]
    if not rows:
        return None
    lines = [
        el(
            "li",
            el("span", model.name, el("em", " control") if model.control else None, class_="who"),
            interval_bar(m.value, m.low, m.high, kind),
            el("strong", rate(m.value, m.n)),
            el("span", told(m), class_="note"),
        )
        for model, m in rows
    ]
    return el(
        "div", el("h3", title), el("p", words, class_="note"), el("ul", lines, class_="dots"), class_="panel"
    )


def principle_texts(entries: Sequence[Entry]) -> dict[str, str]:
    """Principle id -> its text, from the constitutions in the stages' configs."""
    texts: dict[str, str] = {}
    for entry in entries:
        constitution = entry.record.config.get("constitution")
        if isinstance(constitution, dict):
            texts |= {p["id"]: p["text"] for p in constitution.get("principles", [])}
    return texts


def principles(g: Gathered) -> Html | None:
    """How often each principle led to a kept revision, and how many pairs were judged by it."""
    drawn: Counter[str] = Counter()
    kept: Counter[str] = Counter()
    # two stages that share an artifact did the work once
    for revisions in {entry.record.id: revisions for entry, revisions in g.revisions()}.values():
        for transcript in revisions.transcripts():
            for revision in transcript.revisions:
                drawn[revision.principle] += 1
                kept[revision.principle] += revision.verdict == "kept"
    labels: Counter[str] = Counter()
    for entry in {entry.record.id: entry for entry in g.labels()}.values():
        for name, value in entry.metrics("label.principle.").items():
            labels[name.removeprefix("label.principle.")] += int(value["value"] or 0)
    names = sorted(drawn.keys() | labels.keys(), key=lambda name: (-kept[name], -labels[name], name))
    if not names:
        return None
    texts = principle_texts([*(entry for entry, _ in g.revisions()), *g.labels()])
    most = max([*kept.values(), *labels.values(), 1])
    rows = [
        [
            el("span", el("code", name), el("span", texts.get(name, ""), class_="note block")),
            _count(kept[name], most, "s1"), f"{kept[name]} of {drawn[name]}" if drawn[name] else "",
            _count(labels[name], most, "s3"), f"{labels[name] or ''}",
        ]
        for name in names
    ]  # fmt: skip
    head = ["principle", "kept revisions", "", "pairs judged", ""]
    return section(
        "principles",
        "Principles at work",
        "A principle is drawn anew for every revision and every comparison.",
        table(head, rows, caption="Use of principles"),
    )


def _count(value: int, most: int, kind: str) -> Html:
    return el("span", el("i", style=f"width:{value / most:.1%}"), class_=f"bar {kind}", aria_hidden="true")


def judges(g: Gathered) -> Html | None:
    """How far the judges and preference models can be trusted: accuracy and calibration on graded pairs."""
    plots: list[Html] = []
    graded: dict[str, dict[str, Any]] = {}
    for entry, report in g.judges():
        pairs = [(s["probability"], s["a_is_better"]) for s in report.samples() if "probability" in s]
        if pairs:
            bins = [
                (b.confidence, b.observed, b.n, b.observed_low, b.observed_high) for b in calibration(pairs)
            ]
            plots.append(reliability_plot(entry.name, bins, note=f"{len(pairs)} pairs read"))
        graded[entry.name] = report.metrics()
    trained = {entry.name: entry.metrics("reward.") for entry in g.rewards()}
    if not graded and not trained:
        return None
    return section(
        "judges",
        "Judges and preference models",
        "Graded on pairs whose better answer is known. On the diagonal, a judge that says 70% is right 70% "
        "of the time.",
        el("div", plots, class_="plots") if plots else None,
        _side_by_side(graded, "Judges") if graded else None,
        _side_by_side(trained, "Preference models, on held-out pairs") if trained else None,
    )


def _side_by_side(models: dict[str, dict[str, Any]], caption: str) -> Html:
    """Metrics down, models across."""
    names = list(dict.fromkeys(name for metrics in models.values() for name in metrics))
    rows = [[name, *(_estimate(metrics.get(name)) for metrics in models.values())] for name in names]
    return table(["metric", *models], rows, caption=caption, kind="map")


def _estimate(m: dict[str, Any] | None) -> Html | str:
    if m is None:
        return ""
    low, high, n = m.get("low"), m.get("high"), m.get("n")
    interval = "" if low is None or high is None else f"{low:.3g} to {high:.3g}, n = {n}"
    return el("span", number(m["value"]), " ", el("span", interval, class_="note block"))
