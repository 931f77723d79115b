"""Monitors: what gets through with which layers, whom they disturb, and what other thresholds would give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from publius.report.collect import Entry, Gathered
from publius.report.html import Html, details, el, interval_bar, number, rate, section, table
from publius.report.plots import Series, line_plot
from publius.safety import MonitorReport

__all__ = ["layers"]

_POLICIES = {
    "without": "no monitor",
    "words": "a list of words",
    "probe": "the probe alone (no second stage)",
    "cascade": "the second stage on flagged traffic alone (no probe that blocks)",
    "with": "both",
}
_TRAFFIC = {
    "": "all",
    ".plain": "plain questions",
    ".wrapped": "benign twins in the wrappers of attacks",
    ".dressed": "dressed and mutated questions",
    ".foreign": "questions about another world",
    ".after_refusal": "after a refused hazard",
    ".near_miss": "talk about a hazard",
}
_FAR = 0.02
"""The most false positives that the curve shows."""


def layers(g: Gathered) -> Html | None:
    """For each model that was measured: ablation bars, benign traffic, the curve, and styles."""
    found = g.monitors()
    if not found:
        return None
    return section(
        "monitors",
        "Monitors",
        "Attacks on held-out items in held-out wordings, and harmless traffic, played under each set of "
        "layers as a server would stream them. An attack succeeds when what left leaks. Bars are shares with "
        "their 95% intervals; a layer's worth is what gets through without it.",
        *(_model(g, entry, report) for entry, report in found),
    )


def _model(g: Gathered, entry: Entry, report: MonitorReport) -> Html:
    found = report.read()
    name = g.model(entry) or entry.name
    rows = [
        [words, *_bar(found, f"monitor.success.{policy}"), *_bar(found, _benign(policy))]
        for policy, words in _POLICIES.items()
        if f"monitor.success.{policy}" in found
    ]
    head = ["layers", "attacks that succeed", "", "false positives", ""]
    return el(
        "div",
        table(head, rows, caption=name),
        el("div", _curve(name, found), class_="plots"),
        details(f"{name}: benign traffic by kind", _traffic(found)),
        details(f"{name}: attacks by style", _styles(found)),
    )


def _benign(policy: str) -> str:
    return "monitor.false_positives" + ("" if policy == "with" else f".{policy}")


def _bar(found: Mapping[str, Any], name: str) -> list[Html | str]:
    one = found.get(name)
    if one is None:
        return ["", ""]
    return [rate(one["value"], one["n"]), interval_bar(one["value"], one["low"], one["high"])]


def _curve(name: str, found: Mapping[str, Any]) -> Html | None:
    series = [
        Series(
            f"{layer} ({curve['leaks']} leaks, {curve['benign']} benign)",
            [(100 * false, true) for false, true in curve["points"] if false <= _FAR],
            kind,
        )
        for (layer, curve), kind in zip(found["curves"].items(), ("s1", "s2"), strict=False)
    ]
    return line_plot(
        f"{name}: leaks stopped in time by false positives",
        series,
        x_label="false positives, percent",
        y_label="share stopped",
        height=220,
    )


def _traffic(found: Mapping[str, Any]) -> Html:
    rows = [
        [words, *(_bar(found, f"monitor.{what}{part}")[0] for what in ("stopped_benign", "false_positives"))]
        for part, words in _TRAFFIC.items()
        if f"monitor.stopped_benign{part}" in found
    ]
    bound = number(found["monitor.false_positives.upper"]["value"])
    words = f"false positives at most {bound} (95%); what else is stopped told of a hazard nobody asked for"
    return table(["traffic", "stopped", "false positives"], rows, caption=words)


def _styles(found: Mapping[str, Any]) -> Html:
    styles = sorted({name.split(".")[1] for name in found if name.startswith("style.")})
    kinds = [policy for policy in _POLICIES if f"style.{styles[0]}.{policy}" in found] if styles else []
    rows = [[style, *(_bar(found, f"style.{style}.{policy}")[0] for policy in kinds)] for style in styles]
    return table(["style", *(_POLICIES[policy] for policy in kinds)], rows, caption="attacks that succeed")
