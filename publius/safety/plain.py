"""Text as a reader sees it: tricks of case, look-alike letters, invisible characters and accents undone.

Character by character, so that it is the same however the text comes: each has a form that depends on nothing
around it. What is no letter or digit only separates: `HARD` where it holds a space, `SOFT` otherwise, for a
hyphen inside a word is often a disguise.
"""

from __future__ import annotations

import functools
import json
import unicodedata
from pathlib import Path

__all__ = ["HARD", "SOFT", "letters_of"]

SOFT, HARD = "-", " "

_LOOKALIKES = {
    letter: latin
    for latin, letters in json.loads(Path(__file__).with_name("lookalikes.json").read_text("utf-8")).items()
    for letter in letters
} | {
    chr(first + place): chr(ord("a") + place) for first in (0x1F150, 0x1F170, 0x1F1E6) for place in range(26)
}
"""Casefolded letters of other scripts, and the Latin ones they look like; and white letters in circles, in
boxes and of flags, which are pictures by their category."""


_FILLERS = frozenset("\u115f\u1160\u3164\uffa0")
"""Letters by their category, and shown as nothing."""
_MARKS = frozenset(
    [*map(chr, range(0x2B0, 0x300)), *"\u01c0\u01c1\u01c2\u01c3\u0374\u0559\u0640\u07fa\ua788\ua78b\ua78c"]
)
"""Letters by their category, and shown as apostrophes, dashes, colons and strokes."""


@functools.lru_cache(maxsize=4096)
def letters_of(character: str) -> str:
    """The letters and digits a character stands for; `SOFT` or `HARD` when it separates; "" when it is
    invisible, or an accent by itself.
    """
    if character.isspace():
        return HARD
    kind = unicodedata.category(character)
    if kind in ("Mn", "Me", "Cf", "Cc", "Cs", "Co", "Cn") or character in _FILLERS:
        return ""
    # before it is taken apart, for what it is made of may look otherwise
    alike = _LOOKALIKES.get(character.casefold())
    if alike is not None:
        return alike
    parts = unicodedata.normalize("NFKD", character).casefold()
    found = [_LOOKALIKES.get(part, part) for part in unicodedata.normalize("NFKD", parts)]
    return "".join(part for part in found if part.isalnum() and part not in _MARKS) or SOFT
