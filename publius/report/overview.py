"""The top and the bottom of the page: what was run, what the gate said, every number, and what it cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from publius.pipeline import Record
from publius.release import DecisionDocument
from publius.report.collect import Entry, Gathered
from publius.report.html import Html, compact, details, el, number, section, table

__all__ = ["costs", "header", "metrics", "seconds"]


def seconds(value: float) -> str:
    """A duration as people say it: 0.4 s, 42 s, 3 min 5 s, 2 h 10 min."""
    if value < 10:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def header(g: Gathered) -> Html:
    """Name, date, machine, versions, how complete the run is, and the gate."""
    finished = max((e.record.finished for e in g.entries), default="")
    wall = g.view.metrics.get("wall_minutes", {}).get("value")
    facts = [
        ("recipe", g.view.recipe),
        ("finished", finished.replace("T", " ")[:16]),
        ("hardware", "; ".join(g.distinct(lambda r: r.hardware))),
        ("commit", ", ".join(commit[:12] for commit in g.distinct(lambda r: r.commit)) or "not in git"),
        ("versions", "; ".join(g.distinct(_versions))),
        ("wall time", "" if wall is None else seconds(60 * wall)),
        ("settings", ", ".join(f"{key}={value}" for key, value in g.view.settings.items())),
    ]
    listed = [el("div", el("dt", key), el("dd", value)) for key, value in facts if value]
    return el(
        "header",
        el("p", "Publius run report", class_="kicker"),
        el("h1", g.view.name),
        el("dl", listed, class_="facts"),
        _incomplete(g),
        _gates(g),
    )


def _versions(record: Record) -> str:
    return ", ".join(
        f"{name} {version}" for name, version in record.versions.items() if version != "not installed"
    )


def _incomplete(g: Gathered) -> Html | None:
    absent = [f"{s.name} ({s.state})" for s in g.view.stages if s.state != "done"]
    if not absent:
        return None
    words = f"{len(absent)} of {len(g.view.stages)} stages are not in this report"
    return el(
        "div", details([el("strong", "Incomplete run. "), words], ", ".join(absent)), class_="gate incomplete"
    )


def _gates(g: Gathered) -> Html | None:
    decided = [(entry, artifact.document()) for entry, artifact in g.decisions()]
    if not decided:
        return None
    (main, document), others = decided[0], decided[1:]
    rest = [_gate(g, entry, other) for entry, other in others]
    return el(
        "section",
        _gate(g, main, document, main=True),
        el("p", "The same gate also judged:", class_="note") if rest else None,
        rest,
        class_="gates",
    )


def _gate(g: Gathered, entry: Entry, document: DecisionDocument, *, main: bool = False) -> Html:
    decision = document.decision
    failed = [check for check in decision.checks if not check.passed]
    verdict = "allowed" if decision.allowed else "refused"
    count = f"{len(decision.checks) - len(failed)} of {len(decision.checks)} checks hold"
    summary = [
        el("span", "✓ " if decision.allowed else "✕ ", verdict, class_=f"verdict {verdict}"),
        f" {g.model(entry) or entry.name}: {count}",
        el("span", f" · holds level {decision.level}", class_="note") if decision.level != "none" else None,
    ]
    rows = [
        [
            check.check.metric,
            check.level,
            f"{'≤' if check.check.direction == 'at_most' else '≥'} {check.check.threshold:g}",
            "n/a" if check.observed is None else f"{check.observed:.4g}",
            "holds" if check.passed else el("strong", "failed", class_="bad"),
            check.reason,
        ]
        for check in sorted(decision.checks, key=lambda c: c.passed)
    ]
    reasons = el("ul", [el("li", reason) for reason in decision.reasons]) if decision.reasons else None
    checks = table(["metric", "level", "needed", "observed", "", "why"], rows, numeric=(2, 3))
    signed = document.issued[:16].replace("T", " ")
    policy = f"policy {document.policy.id} v{document.policy.version}, signed {signed}"
    inside = [checks, el("p", f"{policy}, stage {entry.name}", class_="note")]
    body = details(summary, inside)
    return el("div", body, reasons if main else None, class_=f"gate {verdict}{' main' if main else ''}")


def metrics(g: Gathered) -> Html | None:
    """What the recipe publishes; everything else that was measured behind a fold, by first word."""
    found = g.view.metrics
    if not found:
        return None
    main = [name for name in [*g.published, "wall_minutes"] if name in found]
    rest: dict[str, list[str]] = defaultdict(list)
    for name in sorted(found.keys() - set(main)):
        rest[name.split(".")[0]].append(name)
    groups = [
        details(f"{group} ({len(names)})", _metric_table(names, found)) for group, names in rest.items()
    ]
    every = details(f"All other numbers ({sum(map(len, rest.values()))})", groups, open_=len(main) < 2)
    return section(
        "numbers",
        "Numbers",
        "With the sample size and the 95% interval of everything that is an estimate.",
        _metric_table(main, found) if main else None,
        every if groups else None,
    )


def _metric_table(names: Iterable[str], found: dict[str, Any]) -> Html:
    rows: list[list[str]] = []
    for name in names:
        many = isinstance(found[name], list)
        for index, each in enumerate(found[name] if many else [found[name]], 1):
            low, high, n = each["low"], each["high"], each["n"]
            interval = "" if low is None or high is None else f"{number(low)} to {number(high)}"
            label = f"{name} · {index}" if many else name
            rows.append([label, number(each["value"]), "" if n is None else f"{n:,}", interval])
    return table(["metric", "value", "n", "95% interval"], rows, numeric=(1, 2, 3))


def costs(g: Gathered) -> Html:
    """Time, tokens, FLOPs and energy by stage. An artifact that two stages share is counted once."""
    once = g.made()
    records = [entry.record for entry in once]
    slowest = max(r.wall_seconds for r in records) or 1.0
    rows: list[list[Any]] = []
    for entry in once:
        r = entry.record
        bar = el("i", style=f"width:{r.wall_seconds / slowest:.1%}")
        track = el("span", bar, class_="bar s1", aria_hidden="true")
        spent = (compact(r.tokens) if r.tokens else "", compact(r.flops) if r.flops else "")
        rows.append(
            [
                entry.name,
                el("code", r.stage),
                seconds(r.wall_seconds),
                track,
                *spent,
                f"{1000 * r.energy_kwh:.2f}",
            ]
        )
    sums = (
        seconds(sum(r.wall_seconds for r in records)),
        "",
        compact(sum(r.tokens for r in records)),
        compact(sum(r.flops for r in records)),
        f"{1000 * sum(r.energy_kwh for r in records):.2f}",
    )
    rows.append([el("strong", "total"), "", *(el("strong", text) for text in sums)])
    return section(
        "costs",
        "Costs",
        "Time is work kept in the artifacts, resumed work included; stages that ran side by side add up to "
        "more than the run's wall time. Energy is an estimate: that time at an assumed power of the machine.",
        table(["stage", "function", "time", "", "tokens", "FLOPs", "Wh"], rows, numeric=(2, 4, 5, 6)),
    )
