"""Final answers of worked problems: found in a reply, read as exact numbers, compared.

One candidate is compared, never several: a reply that lists numbers until one is right has not answered, nor
has one that leaves the last sum to whoever reads it (`2+2`, `3!`, `\\sqrt{4}`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fractions import Fraction
from typing import cast

__all__ = ["any_of", "find_answer", "last_number", "read_number", "same_answer"]

_SAID = re.compile(r"\b(?:final\s+)?answer\s*(?:(?:is|was)\b|=|:)\s*:?\s*", re.IGNORECASE)
_DENIED = re.compile(r"(?:\w+ly\s+)?not\b", re.IGNORECASE)
_HASHES = re.compile(r"####\s*")
_END = re.compile(r"\n|(?<=[^\s])[.!?;](?=\s|$)|,(?=\s)")
"""Where a stated answer stops; the point in 3.5 and the comma in 1,234 do not stop it, nor does one that
stands in brackets, as in (3, 4)."""

_DIGITS = r"(?:\d{1,3}(?:[,\u00a0\u202f]\d{3})+(?!\d)|\d+)"
_NUMBER = re.compile(
    rf"(?P<sign>(?<![\w)])[-+](?=[\d.$€£¥]))?[$€£¥]?\s?(?P<sign2>(?<=[$€£¥])[-+])?"
    rf"(?:(?P<whole>\d+)\s+(?P<mixed>\d+)\s*/\s*(?P<of>\d+)"
    rf"|(?P<top>{_DIGITS}(?:\.\d+)?)\s*/\s*(?P<bottom>{_DIGITS}(?:\.\d+)?)"
    rf"|(?P<plain>{_DIGITS}(?:\.\d+)?|\.\d+)(?:\s*(?:e|[x*\u00d7]\s*10\s*\^)\s*(?P<power>[-+]?\d+))?)"
    rf"(?P<percent>\s*(?:%|percent\b|per cent\b))?",
    re.IGNORECASE,
)
_UNITS = frozenset("mgshlLVWNJKCF")
_LARGEST_POWER = 400
_LONGEST = 200
"""Characters of an answer that are looked at: more is no number a person would check."""

_SCALES = {
    "dozen": 12,
    "hundred": 100,
    "thousand": 1000,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
_SCALE = re.compile(rf"\s*({'|'.join(_SCALES)})s?\b", re.IGNORECASE)
_POWER = re.compile(r"\s*(\d{1,6})\s*\^\s*\(?\s*(\d{1,2})\s*\)?\s*\.?\s*")
_BESIDE = re.compile(r"(?:[^\W\d_\u03c0]|(?<=[a-zA-Z])[/·](?=[a-zA-Z])|[\s.,;'\"%°²³$€£¥()\[\]{}*_`~-])*")
"""What may stand beside a number that is an answer: words, units, marks; no other number, no operation."""
_UNIT_POWER = re.compile(r"(?<=[a-zA-Z])\^?[23]\b")
_OPEN = re.compile(
    r"[-+][\s(\[{$€£¥]*$|[a-zA-Z]\($"
    r"|\b(?:sqrt|cbrt|log|ln|exp|sin|cos|tan|twice|(?:root|half|third|quarter)\s+of)[\s({]*$",
    re.IGNORECASE,
)
"""What, before a number, leaves something to be done with it: a sign apart from it, `sqrt(`, `half of`."""
_BEFORE = re.compile(
    r"(?:\\?(?:sqrt|cbrt|log|ln|exp|sin|cos|tan)[\s({]*"
    r"|(?:(?:\d(?:[\d.,]*\d)?|\))\s*(?:[+/\u00d7^]|(?<!\*)\*(?!\*))\s*\(?\s*)+)$"
)
_BEHIND = re.compile(r"[a-zA-Z]\b|\s*\^\s*\(?\d+\)?")
_NEAR = 80
"""Characters before the last number in which the sum that it ends is looked for."""

_LATEX = (
    (re.compile(r"\^\s*(?:\\circ|\{\s*\\circ\s*\})"), "°"),
    (re.compile(r"\\q?quad\b"), " "),
    (re.compile(r"\\[()\[\]]"), " "),
    (re.compile(r"(?<![\w)}])([-+])\s*(?=\\[dt]?frac)"), "\\1\x00"),
    (re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}"), r" (\1)/(\2) "),
    (re.compile(r"\\[dt]?frac\s*(\d)\s*(\d)"), r" \1/\2 "),
    (re.compile(r"\\(?:text|mbox|mathrm|textbf|mathbf)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\^\s*\{([^{}]*)\}"), r"^\1"),
    (re.compile(r"\\(?:times|cdot)"), "\u00d7"),
    (re.compile(r"\\%"), "%"),
    (re.compile(r"(?<![\w)}])([-+])\s*\\?\$\s*(?=[\d.])"), r"\1"),
    (re.compile(r"\\\$"), "$"),
    (re.compile(r"\{,\}|\\,(?=\d)"), ","),
    (re.compile(r"\\(?:left|right|displaystyle|[,;!: ])|\$|~"), " "),
    (re.compile(r"(?<!\d)\(\s*([-+]?\s*[\d.,]+)\s*\)\s*/\s*\(\s*([-+]?\s*[\d.,]+)\s*\)"), r" \1/\2 "),
    (re.compile("\x00\\s*"), ""),  # a sign stays with its fraction
)


def find_answer(text: str) -> str | None:
    """The answer that `text` states, as written: the last `\\boxed{}`, else what stands after the last `####`
    or "the answer is"; None when it states none."""
    if (boxed := _boxed(text)) is not None:
        return boxed
    places = [m.end() for pattern in (_HASHES, _SAID) for m in pattern.finditer(text)]
    for place in sorted(places, reverse=True):
        rest = text[place : place + _LONGEST].lstrip(" *_`:")
        stated = rest[: _stop(rest)].strip(" *_`")
        if stated and not _DENIED.match(stated):
            return stated
    return None


def _stop(text: str) -> int | None:
    """Where the answer that `text` begins with stops; None where it is the whole."""
    for end in _END.finditer(text):
        before, behind = text[: end.start()], text[end.end() :].split("\n", 1)[0]
        depth = sum((c in "([{") - (c in ")]}") for c in before)
        if end[0] == "," and depth > 0 and any(c in behind for c in ")]}"):
            continue
        return end.start()
    return None


def _boxed(text: str) -> str | None:
    """What stands in the last `\\boxed{...}` whose braces close around something."""
    start = len(text)
    while (start := text.rfind("\\boxed{", 0, start)) >= 0:
        if found := _braced(text, start + len("\\boxed{")):
            return found
    return None


def _braced(text: str, begin: int) -> str | None:
    """From `begin` to the brace that closes."""
    depth = 1
    for i in range(begin, min(len(text), begin + 5 * _LONGEST)):  # many that never close cost no square
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return text[begin:i].strip()
    return None


def last_number(text: str) -> str | None:
    """The last number in `text`, as written, with what changes it: `2 million`, `10^3`, `2+2`, `3x`. The 2 of
    cm^2 is none.
    """
    plain = _UNIT_POWER.sub("", _plain(text))
    found = [*_NUMBER.finditer(plain)]
    if not found:
        return None
    start, end = found[-1].span()
    before = _BEFORE.search(plain[max(0, start - _NEAR) : start])
    behind = _SCALE.match(plain, end) or _BEHIND.match(plain, end)
    return f"{before.group() if before else ''}{plain[start : behind.end() if behind else end]}".strip()


def _plain(text: str) -> str:
    """Without LaTeX's dress, with one kind of minus."""
    text = text.replace("\u2212", "-").replace("\u2013", "-").replace("\\!", "")
    for pattern, form in _LATEX:
        text = pattern.sub(form, text)
    return re.sub(r"\bminus\s+(?=\d)", "-", text, flags=re.IGNORECASE)


def read_number(text: str) -> tuple[Fraction, bool] | None:
    """The number that an answer is: its exact value, and whether it was written as a percentage.

    Of a chain of equations the last side counts. Thousands may be set off by commas or spaces; fractions,
    mixed numbers, powers, words of size (`2 million`), currency signs and units (`12 apples`) are understood.
    None when no number stands in it.
    """
    side = _side(text)
    if power := _POWER.fullmatch(side):
        return Fraction(int(power[1]) ** int(power[2])), False
    found = _NUMBER.search(side)
    if found is None or _glued(side, found):
        return None
    value = _value(found)
    if value is None:
        return None
    scale = _SCALE.match(side, found.end())
    return value * (_SCALES[scale[1].lower()] if scale else 1), found["percent"] is not None


def _side(text: str) -> str:
    """The last side of a chain of equations."""
    side = _plain(text[:_LONGEST]).rsplit("=", 1)[-1]
    return re.sub(r"^\s*([-+])\s+(?=\d)", r"\1", side)


def _answers(text: str) -> bool:
    """Whether what stands beside the number in it leaves that as the answer."""
    side = _side(text)
    found = _NUMBER.search(side)
    if found is not None and _OPEN.search(side[: found.start()]):
        return False
    rest = _UNIT_POWER.sub("", _NUMBER.sub("", side, count=1))
    return _POWER.fullmatch(side) is not None or _BESIDE.fullmatch(rest) is not None


def _glued(text: str, found: re.Match[str]) -> bool:
    """Part of an expression: the 2 of x2, the 3 of 3x or 3(y). A unit of one letter (5m) is none."""
    start = found.end() - len(found.group().lstrip())
    before, after = text[:start][-1:], text[found.end() :]
    term = re.match(r"[a-zA-Z]\b|[(\\^_]", after)
    return before.isalpha() or before in ("_", "^") or (term is not None and term.group() not in _UNITS)


def _value(found: re.Match[str]) -> Fraction | None:
    def whole(text: str) -> Fraction:
        return Fraction(re.sub(r"[,\s]", "", text))

    try:
        if found["whole"]:
            value = whole(found["whole"]) + Fraction(int(found["mixed"]), int(found["of"]))
        elif found["top"]:
            value = whole(found["top"]) / whole(found["bottom"])
        else:
            power = int(found["power"] or 0)
            if abs(power) > _LARGEST_POWER:
                return None
            value = whole(found["plain"]) * Fraction(10) ** power
    except ZeroDivisionError:
        return None
    signs = (found["sign"] or "") + (found["sign2"] or "")
    return -value if signs.count("-") % 2 else value


def same_answer(given: str, wanted: str, tolerance: float = 0.0) -> bool:
    """Whether two answers are the same.

    Two numbers are compared exactly (0.5 is 1/2), or within `tolerance` of the wanted one's size. When one of
    them is a percentage, both the number as written and its hundredth count, for a question may ask "what
    percent". A number that is no more than a part of what is given (`2+2`, `5 or 6`, `12:30`) is no answer.
    Anything else is compared as text, without case, spaces, LaTeX dress and a closing point.
    """
    ours, theirs = read_number(given), read_number(wanted)
    if theirs is not None and _only_number(wanted):
        if ours is None or not _answers(given):
            return False
        values = {ours[0], ours[0] / 100} if ours[1] and not theirs[1] else {ours[0]}
        if theirs[1] and not ours[1]:
            values.add(ours[0] * 100)
        near = Fraction(tolerance) * abs(theirs[0])
        return any(abs(value - theirs[0]) <= near for value in values)
    return bool(_bare(wanted)) and _bare(given) == _bare(wanted)


def _only_number(text: str) -> bool:
    """A number and no more than its unit: `12`, `$1,200`, `3/4`, `5 km`; not `x = 2y` or `(3, 4)`."""
    plain = _plain(text).strip()
    rest = _NUMBER.sub("", plain, count=1).strip()
    return re.fullmatch(r"[A-Za-z°²³/ .]*", rest) is not None and not plain[:1].isalpha()


def _bare(text: str) -> str:
    return re.sub(r"\s+", "", _plain(text)).casefold().strip(".!*_`\"'")


def any_of(wanted: object) -> Iterable[str]:
    """The acceptable answers: a text, a number, or a list of such. None (JSON's null) is no answer."""
    items = cast("Iterable[object]", wanted) if isinstance(wanted, list | tuple) else [wanted]
    return [str(item) for item in items if item is not None]
