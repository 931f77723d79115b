"""Long context: needles found in haystacks, by length and depth."""

from __future__ import annotations

from publius.evals import Measure, NeedleReport
from publius.report.collect import Entry, Gathered
from publius.report.html import Html, details, el, number, section, table
from publius.report.plots import HeatCell, heat_map

__all__ = ["haystacks"]


def haystacks(g: Gathered) -> Html | None:
    """One heat map for each model that was searched: depths down, lengths across."""
    found = [(entry, report) for entry, report in g.needles()]
    if not found:
        return None
    return section(
        "context",
        "Long context",
        "Share of hidden sentences whose value was given back word for word, by the length of the text and "
        "by how deep in it the sentence stood (0% is its beginning). Words and wordings are not those that "
        "extension trains on. Rest on a tile for its interval.",
        el("div", [_map(g, entry, report) for entry, report in found], class_="plots"),
        details("As numbers", [_numbers(g, entry, report) for entry, report in found]),
    )


def _name(g: Gathered, entry: Entry) -> str:
    return g.model(entry) or entry.name


def _map(g: Gathered, entry: Entry, report: NeedleReport) -> Html:
    grid = report.grid()
    cells = [
        [HeatCell(row[depth].value, _told(row[depth])) for row in grid.cells]
        for depth in range(len(grid.depths))
    ]
    sizes = sorted({cell.n for row in grid.cells for cell in row if cell.n is not None})
    return heat_map(
        _name(g, entry),
        [f"{length:,}" for length in grid.lengths],
        [f"{depth:.0%}" for depth in grid.depths],
        cells,
        x_label="tokens",
        y_label="depth",
        note=f"n = {' to '.join(map(str, sizes))} a tile",
    )


def _told(cell: Measure) -> str:
    interval = "" if cell.low is None or cell.high is None else f" ({cell.low:.0%} to {cell.high:.0%})"
    return f"{number(cell.value)}{interval}, n = {cell.n}"


def _numbers(g: Gathered, entry: Entry, report: NeedleReport) -> Html:
    grid = report.grid()
    rows = [
        [f"{length:,}", *(_told(cell) for cell in row)]
        for length, row in zip(grid.lengths, grid.cells, strict=True)
    ]
    head = ["tokens", *(f"depth {depth:.0%}" for depth in grid.depths)]
    return table(head, rows, caption=f"{_name(g, entry)}: share found, with its interval")
