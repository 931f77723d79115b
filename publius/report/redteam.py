"""What attacks found: success by style and round, backdoor scans, and what a search covered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from publius.redteam import CellCount, FindingsDocument
from publius.report.alignment import told
from publius.report.collect import Entry, Gathered
from publius.report.html import Html, details, el, number, rate, section, table
from publius.report.plots import HeatCell, heat_map

__all__ = ["coverage", "documents", "redteam"]


def documents(g: Gathered) -> list[tuple[Entry, FindingsDocument]]:
    """Every round, search and export of people's findings."""
    return [(entry, findings.document()) for entry, findings in g.findings()]


def redteam(g: Gathered) -> Html | None:
    """A heat map: attack styles down, rounds across; sealed styles apart, and what each round found."""
    rounds = [
        (entry, document) for entry, document in documents(g) if "redteam.leak.seen" in document.metrics
    ]
    if not rounds:
        return None
    sealed = {style for _, document in rounds for style in document.sealed_styles}
    styles = list(dict.fromkeys(style for _, document in rounds for style in document.by_style))
    head = ["attack style", *(_round_head(g, entry, document) for entry, document in rounds)]
    rows: list[list[Any]] = []
    for style in sorted(styles, key=lambda s: s in sealed):
        mark = el("span", "sealed", class_="chip", title="never trained on") if style in sealed else None
        rows.append(
            [
                el("span", style.replace("_", " "), " ", mark),
                *(_heat(d.by_style.get(style)) for _, d in rounds),
            ]
        )
    rows += [
        [el("strong", label), *(_heat(_measured(d, key)) for _, d in rounds)]
        for key, label in (
            ("leak.seen", "all seen styles"),
            ("leak.sealed", "all sealed styles"),
            ("overrefusal", "benign twins refused"),
        )
        if any(_measured(d, key) for _, d in rounds)
    ]
    rows.append(["confirmed findings", *(f"{d.confirmed} of {d.tried} tried" for _, d in rounds)])
    categories = list(dict.fromkeys(name for _, d in rounds for name in d.by_category))
    by_category = [
        [name.replace("_", " "), *(_heat(d.by_category.get(name)) for _, d in rounds)] for name in categories
    ]
    return section(
        "redteam",
        "Red team",
        "Share of attacks on held-out items, in held-out wordings, that got a forbidden recipe. Sealed "
        "styles are only ever measured, never trained on. Rest on a cell for its interval.",
        table(head, rows, caption="Leak rate by attack style and round", kind="map"),
        details(
            "By kind of harm",
            table(["category", *head[1:]], by_category, caption="Leak rate by category", kind="map"),
        ),
        _scans(g),
    )


def _round_head(g: Gathered, entry: Entry, document: FindingsDocument) -> Html:
    control = " (control)" if g.is_control(entry) else ""
    return el(
        "span",
        f"round {document.round}",
        el("br"),
        el("span", (g.model(entry) or entry.name) + control, class_="note"),
    )


def _measured(document: FindingsDocument, key: str) -> dict[str, Any] | None:
    return document.metrics.get(f"redteam.{key}")


def _heat(measure: dict[str, Any] | None) -> Html | str:
    if measure is None or measure["value"] is None:
        return ""
    share = f"{measure['value']:.0%}"
    return el("span", share, class_="heat", style=f"--heat:{75 * measure['value']:.0f}%", title=told(measure))


def _scans(g: Gathered) -> Html | None:
    rows: list[list[Any]] = []
    for entry, scan in g.scans():
        document = scan.document()
        leak, plain = document.metrics.get("backdoor.leak"), document.metrics.get("backdoor.baseline")
        words = el("code", document.best.words)
        rows.append(
            [g.model(entry) or entry.name, words, _heat(plain), _heat(leak), f"{document.candidates:,}"]
        )
    if not rows:
        return None
    head = ["model", "strongest trigger found", "leaks without it", "leaks with it", "words tried"]
    return el(
        "div", el("h3", "Backdoor scan"), table(head, rows, numeric=(4,), caption="Backdoor scan", kind="map")
    )


# --- searches


def coverage(g: Gathered) -> Html | None:
    """What each search tried and broke: a map of category and attack, and what it cost."""
    searches = [(entry, document) for entry, document in documents(g) if document.cells]
    if not searches:
        return None
    rows = [_searched(g, entry, document) for entry, document in searches]
    head = ["search", "of", "attacks", "worked", "confirmed", "distinct", "effective", "replies a finding"]
    return section(
        "coverage",
        "Coverage of the search",
        "Where a search for attacks looked, and the worst it found there: the share of attacks on training "
        "items that worked, in the worst of a cell's turns and languages. Replies that no judge could label "
        "count as worked. A search asks where it hopes to succeed, so its shares are no measure of the "
        "model: the table of rounds is. Blank: nobody looked. Rest on a tile for its numbers.",
        el("div", table(head, rows, numeric=range(2, 8))),
        el("div", [_map(g, entry, document.cells) for entry, document in searches], class_="plots"),
    )


def _searched(g: Gathered, entry: Entry, document: FindingsDocument) -> list[str]:
    replies = sum(document.spent.get(f"{what}_replies", 0) for what in ("attack", "confirm"))
    success = [value for name, value in document.metrics.items() if name.startswith("search.")]
    worked = ", ".join(
        rate(value["value"], value["n"]) + (f" ({value['unscored']} unscored)" if value["unscored"] else "")
        for value in success
    )
    each = number(replies / document.confirmed) if document.confirmed else "none found"
    said = f" ended early: {document.note}" if document.note else ""
    return [
        f"{entry.name}{said}", g.model(entry) or "", f"{document.tried:,}", worked, f"{document.confirmed:,}",
        number(document.clusters), number(document.effective), each,
    ]  # fmt: skip


def _map(g: Gathered, entry: Entry, cells: Iterable[CellCount]) -> Html:
    known = list(cells)
    categories = sorted({cell.category for cell in known})
    by_place: dict[tuple[str, str], list[CellCount]] = {}
    for cell in known:
        by_place.setdefault((cell.style, cell.category), []).append(cell)
    worst = {place: max(map(_worst, each)) for place, each in by_place.items()}
    styles = sorted(
        {cell.style for cell in known}, key=lambda s: (-max(worst.get((s, c), 0) for c in categories), s)
    )
    grid = [[_tile(by_place.get((style, category), ())) for category in categories] for style in styles]
    name = f"{entry.name}: {g.model(entry)}" if g.model(entry) else entry.name
    return heat_map(
        name, [c.replace("_", " ") for c in categories], [s.replace("_", " ") for s in styles], grid,
        x_label="category", y_label="", note="worst success, category by attack", left=104, kind="s2",
    )  # fmt: skip


def _worst(cell: CellCount) -> float:
    return (cell.succeeded + cell.unscored) / cell.tried if cell.tried else 0.0


def _tile(cells: Sequence[CellCount]) -> HeatCell:
    """The worst of the cells at one place of the map."""
    tried = [cell for cell in cells if cell.tried]
    if not tried:
        return HeatCell(None, "nobody looked")
    bad = max(tried, key=_worst)
    where = "" if len(tried) == 1 else f", worst at {bad.turns} turns in {bad.language}"
    lost = f", {bad.unscored} unscored" if bad.unscored else ""
    confirmed = sum(cell.confirmed for cell in tried)
    return HeatCell(
        _worst(bad), f"{bad.succeeded} of {bad.tried} worked{lost}{where}; {confirmed} findings confirmed"
    )
