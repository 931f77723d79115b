"""HTML that cannot forget to escape: text becomes markup only through `el`.

    el("p", "2 < 3", class_="note")     ->  <p class="note">2 &lt; 3</p>

A child that is `Html` is taken as it stands; any other text, model text above all, is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, TypeAlias

__all__ = [
    "Child",
    "Html",
    "compact",
    "details",
    "el",
    "interval_bar",
    "join",
    "number",
    "rate",
    "section",
    "table",
]

_VOID = frozenset({"meta", "br", "input", "line", "circle", "rect", "path", "polyline"})


class Html(str):
    """Markup that is already safe."""

    __slots__ = ()


Child: TypeAlias = "str | Iterable[Child] | None"
"""Text (escaped), `Html` (as it is), nothing, or a sequence of these."""


def join(*children: Child) -> Html:
    """The children one after the other, escaped where they are not `Html`."""
    parts: list[str] = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, Html):
            parts.append(str(child))
        elif isinstance(child, str):
            parts.append(escape(child))
        else:
            parts.append(join(*child))
    return Html("".join(parts))


def el(name: str, /, *children: Child, **attributes: Any) -> Html:
    """An element. Attribute names lose a last `_`, other `_` become `-`; None and False leave one out."""
    said = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escape(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in _VOID and not children:
        return Html(f"<{name}{said}/>")
    return Html(f"<{name}{said}>{join(*children)}</{name}>")


def details(summary: Child, *children: Child, open_: bool = False) -> Html:
    """A part that opens by click or key."""
    return el("details", el("summary", summary), el("div", *children, class_="inside"), open=open_)


def section(key: str, title: str, words: str, *children: Child) -> Html:
    """A part of the page that the navigation can jump to: a heading, a line of explanation, its content."""
    return el("section", el("h2", title), el("p", words, class_="note"), *children, id=key)


def table(
    head: Sequence[Child],
    rows: Iterable[Sequence[Child]],
    *,
    numeric: Sequence[int] = (),
    caption: str = "",
    kind: str = "",
) -> Html:
    """A table that scrolls sideways on a narrow screen; the first cell of a row is its header.

    Args:
        numeric: columns set to the right.
        kind: a CSS class.
    """
    align = ["num" if index in numeric else None for index in range(len(head))]

    def cells(row: Sequence[Child]) -> Html:
        first = el("th", row[0], scope="row", class_=align[0])
        return el("tr", first, [el("td", c, class_=a) for c, a in zip(row[1:], align[1:], strict=True)])

    top = el("tr", [el("th", h, scope="col", class_=a) for h, a in zip(head, align, strict=True)])
    label = el("caption", caption) if caption else None
    inner = el(
        "table", label, el("thead", top), el("tbody", [cells(row) for row in rows]), class_=kind or None
    )
    return el("div", inner, class_="scroll", tabindex="0", role="region", aria_label=caption or "table")


def number(value: float | None) -> str:
    """Four significant digits; a dash for what could not be measured."""
    if value is None or math.isnan(value):
        return "n/a"
    if float(value).is_integer() and abs(value) < 1e7:
        return f"{value:,.0f}"
    if abs(value) >= 1000:
        return f"{value:,.0f}" if abs(value) < 1e5 else compact(value)
    return f"{value:.4g}"


def compact(value: float | None, digits: int = 3) -> str:
    """A quantity in few characters: 3.2M, 12k, 4.1e15; `digits` of them are significant."""
    if value is None:
        return "n/a"
    rounded = float(f"{value:.{digits - 1}e}")  # 999,960 is 1M, not 1e+03k
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(rounded) >= size:
            return f"{value:.1e}" if abs(rounded) >= 1e15 else f"{value / size:.{digits}g}{unit}"
    return f"{value:.{digits}g}"


def rate(value: float | None, n: int | None = None) -> str:
    """A share in percent; a dash when nothing was measured."""
    return "n/a" if value is None or n == 0 else f"{value:.1%}"


def interval_bar(value: float | None, low: float | None, high: float | None, kind: str = "s1") -> Html:
    """A share between 0 and 1 as a dot on a track, its interval as a band. The numbers stand beside it."""
    marks: list[Html] = []
    if low is not None and high is not None:
        left, right = max(0.0, low), min(1.0, high)
        marks.append(el("i", style=f"left:{left:.2%};width:{max(0.0, right - left):.2%}"))
    if value is not None:
        marks.append(el("b", style=f"left:{min(1.0, max(0.0, value)):.2%}"))
    return el("span", marks, class_=f"ci {kind}", aria_hidden="true")
