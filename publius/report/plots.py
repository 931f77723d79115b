"""Line plots, reliability diagrams and heat maps as inline SVG, coloured by the page's style (dark too)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

from publius.report.html import Html, compact, el, join

__all__ = [
    "COLOURS",
    "HeatCell",
    "Point",
    "Series",
    "heat_map",
    "line_plot",
    "log_ticks",
    "nice_ticks",
    "reliability_plot",
    "smooth",
    "thin",
]

Point = tuple[float, float]
_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 360, 58, 12, 10, 34
COLOURS = tuple(f"s{number}" for number in range(1, 9))
"""Colour classes of the page's style: so many lines of one plot can be told apart."""
_MOST_POINTS, _TILE = 240, 26
_MOST_TICKS = 12
"""As many labels as have room above each other."""


class Series(NamedTuple):
    """One line. `kind` is one of `COLOURS`; `faint` draws it as the noise behind another; `bands`
    are the points' intervals, low and high (none, or one each), drawn as whiskers."""

    label: str
    points: Sequence[Point]
    kind: str = "s1"
    faint: bool = False
    dots: bool = False
    bands: Sequence[tuple[float, float]] = ()


class HeatCell(NamedTuple):
    """A share between 0 and 1 (None: not measured), and what a pointer resting on it is told."""

    value: float | None
    told: str


class _Frame(NamedTuple):
    """Data coordinates to picture coordinates."""

    x: tuple[float, float]
    y: tuple[float, float]
    height: int
    log: bool = False
    """Heights, and `y`, are powers of ten."""

    def across(self, x: float) -> float:
        """Distance from the left edge."""
        share = (x - self.x[0]) / (self.x[1] - self.x[0])
        return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)

    def down(self, y: float) -> float:
        """Distance from the top edge."""
        share = ((math.log10(y) if self.log else y) - self.y[0]) / (self.y[1] - self.y[0])
        return round(self.height - _BOTTOM - share * (self.height - _TOP - _BOTTOM), 1)

    def at(self, point: Point) -> tuple[float, float]:
        """Both."""
        return self.across(point[0]), self.down(point[1])


def nice_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """At most `most` + 1 round numbers (1, 2 or 5 times a power of ten apart) inside [low, high]."""
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between 10^low and 10^high; where those are too many, powers alone."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    ticks = [m * 10.0**power for power in powers for m in (1, 2, 5)]
    inside = [tick for tick in ticks if low <= math.log10(tick) <= high]
    if len(inside) <= _MOST_TICKS:
        return inside
    whole = [power for power in powers if low <= power <= high]
    return [10.0**power for power in whole[:: math.ceil(len(whole) / _MOST_TICKS)]]


def _written(ticks: Sequence[float]) -> list[str]:
    """Short, but with all the digits they have: 2.001 and 2.002 must not both be written 2."""
    digits = next(
        (
            d
            for d in range(3, 12)
            if all(math.isclose(float(f"{t:.{d - 1}e}"), t, rel_tol=1e-12) for t in ticks)
        ),
        12,
    )
    return [compact(tick, digits) for tick in ticks]


def smooth(points: Sequence[Point], share: float = 0.05) -> list[Point]:
    """Running mean of the heights over about `share` of the points, centred, so that it does not lag.

    It narrows at the start, where losses fall fast, and leans back at the end, where they are noise.
    """
    half = max(1, round(len(points) * share / 2))
    out: list[Point] = []
    for index, (x, _) in enumerate(points):
        reach = min(half, index)
        near = points[index - reach : index + reach + 1]
        out.append((x, sum(y for _, y in near) / len(near)))
    return out


def thin(points: Sequence[Point], most: int = _MOST_POINTS) -> list[Point]:
    """At most `most` points: means of equal runs of the given ones."""
    if len(points) <= most:
        return list(points)
    edges = [round(i * len(points) / most) for i in range(most + 1)]
    runs = [points[a:b] for a, b in itertools.pairwise(edges)]
    return [(sum(x for x, _ in run) / len(run), sum(y for _, y in run) / len(run)) for run in runs]


def _span(values: Sequence[float], pad: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = (high - low) * pad or abs(high) * 0.1 or 0.5
    return low - room if pad or low == high else low, high + room if pad or low == high else high


def _axes(frame: _Frame, x_label: str, y_label: str) -> Html:
    parts: list[Html] = []
    base = frame.height - _BOTTOM
    heights = log_ticks(*frame.y) if frame.log else nice_ticks(*frame.y)
    for tick, said in zip(heights, _written(heights), strict=True):
        y = frame.down(tick)
        parts.append(el("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(el("text", said, x=_LEFT - 6, y=y + 3.5, text_anchor="end"))
    places = nice_ticks(*frame.x, most=4)
    for tick, said in zip(places, _written(places), strict=True):
        x = frame.across(tick)
        parts.append(el("line", x1=x, x2=x, y1=base, y2=base + 4, class_="axis"))
        parts.append(el("text", said, x=x, y=base + 15, text_anchor="middle"))
    parts.append(el("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=base, y2=base, class_="axis"))
    parts.append(
        el("text", x_label, x=(_LEFT + _WIDTH - _RIGHT) / 2, y=frame.height - 4, text_anchor="middle")
    )
    if y_label:
        middle = (_TOP + base) / 2
        parts.append(
            el("text", y_label, transform=f"translate(10 {middle}) rotate(-90)", text_anchor="middle")
        )
    return join(*parts)


def _line(series: Series, frame: _Frame) -> Html:
    places = [frame.at(point) for point in thin(series.points)]
    colour = f"{series.kind}{' faint' if series.faint else ''}"
    parts: list[Html] = []
    if len(places) > 1:
        parts.append(el("polyline", points=" ".join(f"{x},{y}" for x, y in places), class_=f"line {colour}"))
    for (x, _), (low, high) in zip(places if series.bands else (), series.bands, strict=True):
        parts.append(
            el("line", x1=x, y1=frame.down(low), x2=x, y2=frame.down(high), class_=f"whisker {colour}")
        )
    if series.dots or len(places) == 1:
        for (x, y), (a, b) in zip(places, thin(series.points), strict=True):
            title = el("title", f"{series.label}: {b:.4g} at {a:.4g}")
            parts.append(el("circle", title, cx=x, cy=y, r=3, class_=f"dot {colour}"))
    return join(*parts)


def _legend(series: Sequence[Series]) -> Html | None:
    named = [s for s in series if s.label and not s.faint]
    if len(named) < 2:
        return None
    return el("span", [el("span", el("i", class_=f"key {s.kind}"), s.label) for s in named], class_="legend")


def _finite(point: Point) -> bool:
    return all(map(math.isfinite, point))


def line_plot(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str = "",
    note: str = "",
    height: int = 200,
    log: bool = False,
) -> Html | None:
    """A figure with one plot; None when no series has a point. Points that are not finite are left out.

    Args:
        log: draw heights on a logarithmic scale, if they are positive and spread more than fivefold.
    """
    shown = [s if s.bands else s._replace(points=[p for p in s.points if _finite(p)]) for s in series]
    shown = [s for s in shown if s.points]
    if not shown:
        return None
    heights = [y for s in shown for _, y in (thin(s.points) if s.faint else s.points)]
    heights += [end for s in shown for band in s.bands for end in band]
    bold = [y for s in shown if not s.faint for _, y in s.points] or heights
    log = log and min(heights) > 0 and max(bold) > 5 * min(bold)
    span = _span([math.log10(y) for y in heights] if log else heights, 0.06)
    frame = _Frame(_span([x for s in shown for x, _ in s.points], 0.0), span, height, log)
    told = "; ".join(
        f"{s.label}: from {s.points[0][1]:.4g} to {s.points[-1][1]:.4g}" for s in shown if not s.faint
    )
    axes = _axes(frame, x_label, y_label or ("log scale" if log else ""))
    picture = el(
        "svg", axes, [_line(s, frame) for s in shown],
        viewBox=f"0 0 {_WIDTH} {height}", role="img", aria_label=f"{title}. {told}",
    )  # fmt: skip
    words = el("span", note, class_="note") if note else None
    return el("figure", el("figcaption", el("strong", title), words, _legend(shown)), picture)


def reliability_plot(
    title: str, bins: Sequence[tuple[float, float, int, float, float]], *, note: str = ""
) -> Html:
    """Said probability against how often it was so.

    Args:
        bins: (mean said, share true, n, low, high) for each bin that is not empty.
    """
    frame = _Frame((0.0, 1.0), (0.0, 1.0), 300)
    (x0, y0), (x1, y1) = frame.at((0.0, 0.0)), frame.at((1.0, 1.0))
    parts = [el("line", x1=x0, y1=y0, x2=x1, y2=y1, class_="diagonal")]
    for said, true, n, low, high in bins:
        x, y = frame.at((said, true))
        bottom, top = frame.down(low), frame.down(high)
        tip = el("title", f"said {said:.2f}, was {true:.2f} ({low:.2f} to {high:.2f}), n = {n}")
        parts.append(el("line", x1=x, x2=x, y1=bottom, y2=top, class_="whisker s1"))
        parts.append(el("circle", tip, cx=x, cy=y, r=4, class_="dot s1"))
    picture = el(
        "svg", _axes(frame, "probability the judge gave", "share truly better"), parts,
        viewBox=f"0 0 {_WIDTH} 300", role="img", aria_label=f"{title}: reliability in {len(bins)} bins",
    )  # fmt: skip
    words = el("span", note, class_="note") if note else None
    return el("figure", el("figcaption", el("strong", title), words), picture)


def _tile(cell: HeatCell, tip: str, x: float, y: float, width: float, colour: str) -> Html:
    """On the strongest tiles the page's own colour is read best, in the dark form too."""
    share = 0.0 if cell.value is None else cell.value
    said = "n/a" if cell.value is None else f"{share:.0%}"
    kind = f"tile blank {colour}" if cell.value is None else f"tile {colour}"
    place = {"x": x + 1, "y": y + 1, "width": round(width - 2, 1), "height": _TILE - 2, "rx": 2}
    middle = {"x": round(x + width / 2, 1), "y": y + 17, "text_anchor": "middle"}
    return join(
        el("rect", el("title", tip), **place, class_=kind, fill_opacity=f"{share:.3f}"),
        el("text", said, **middle, class_="on" if share > 0.55 else "off"),
    )


def heat_map(
    title: str,
    columns: Sequence[str],
    rows: Sequence[str],
    cells: Sequence[Sequence[HeatCell]],
    *,
    x_label: str,
    y_label: str,
    note: str = "",
    left: int = _LEFT,
    kind: str = "s3",
) -> Html:
    """Shares as a grid of tiles, the full colour at 1, each with its number written on it.

    Args:
        columns: names, left to right.
        rows: names, top to bottom.
        cells: [row][column].
        left: room for the names of rows.
        kind: a colour class.
    """
    across = (_WIDTH - left - _RIGHT) / len(columns)
    height = _TOP + _TILE * len(rows) + _BOTTOM
    parts: list[Html] = []
    for r, (name, line) in enumerate(zip(rows, cells, strict=True)):
        y = _TOP + _TILE * r
        parts.append(el("text", name, x=left - 6, y=y + 16.5, text_anchor="end"))
        for c, cell in enumerate(line):
            tip = f"{y_label} {name}, {x_label} {columns[c]}: {cell.told}"
            parts.append(_tile(cell, tip, round(left + c * across, 1), y, across, kind))
    base = height - _BOTTOM
    for c, name in enumerate(columns):
        x = round(left + (c + 0.5) * across, 1)
        parts.append(el("text", name, x=x, y=base + 14, text_anchor="middle"))
    middle = (left + _WIDTH - _RIGHT) / 2
    parts.append(el("text", x_label, x=middle, y=height - 4, text_anchor="middle"))
    turn = f"translate(10 {(_TOP + base) / 2}) rotate(-90)"
    parts.append(el("text", y_label, transform=turn, text_anchor="middle"))
    shares = [cell.value for line in cells for cell in line if cell.value is not None]
    told = f"from {min(shares):.0%} to {max(shares):.0%}" if shares else "nothing measured"
    picture = el("svg", parts, viewBox=f"0 0 {_WIDTH} {height}", role="img", aria_label=f"{title}. {told}")
    words = el("span", note, class_="note") if note else None
    return el("figure", el("figcaption", el("strong", title), words), picture)
