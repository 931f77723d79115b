"""What changed between two constitutions, said so that a person can judge it.

Principles are told apart by id and examples by their conversation, so moving one is not a change of all
that follow. Nothing is left out: two constitutions without a difference have the same hash.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any, Literal, NamedTuple, cast

from publius.constitution.principles import Constitution
from publius.core.config import Config, canonical

__all__ = ["Difference", "Piece", "differences", "word_pieces"]

_LISTS = {"principles": "id", "critiques": "conversation", "comparisons": "conversation",
          "reasonings": "conversation"}  # fmt: skip
_MAPS = ("categories", "layout")


class Difference(NamedTuple):
    """One thing added, removed or changed; `before` and `after` are texts, None where there is none."""

    kind: Literal["added", "removed", "changed"]
    where: str
    before: str | None
    after: str | None


class Piece(NamedTuple):
    """Some words of a changed text."""

    kind: Literal["same", "removed", "added"]
    text: str


def differences(before: Constitution, after: Constitution) -> list[Difference]:
    """Every difference, in the order of the file's fields; none when the hashes agree."""
    found: list[Difference] = []
    for field in Constitution.model_fields:
        old, new = getattr(before, field), getattr(after, field)
        if field in _LISTS:
            found += _of_items(field, old, new)
        elif field in _MAPS:
            found += _of_fields(field, _plain(old), _plain(new))
        else:
            found += _of_fields("", {field: canonical(old)}, {field: canonical(new)})
    return found


_ALIKE = 0.35
"""Texts with a smaller share of words in common are shown one after the other."""


def word_pieces(before: str, after: str) -> list[Piece]:
    """The texts word by word: what both have, what only the first has, what only the second has.

    The `same` and `removed` pieces joined are `before`; the `same` and `added` ones are `after`.
    """
    old, new = (re.findall(r"\w+|\s+|[^\w\s]", text) for text in (before, after))
    opcodes = SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    common = sum(_words(old[a:b]) for tag, a, b, _, _ in opcodes if tag == "equal")
    alike = 2 * common >= _ALIKE * (_words(old) + _words(new))
    pieces: list[Piece] = []
    removed = added = ""
    for tag, a, b, c, d in opcodes:
        said = "".join(old[a:b])
        if tag == "equal" and alike and (not said.isspace() or not (removed or added)):
            pieces += _changed(removed, added)
            pieces.append(Piece("same", said))
            removed = added = ""
        else:  # a blank between two changed words is no word they have in common
            removed, added = removed + said, added + "".join(new[c:d])
    return pieces + _changed(removed, added)


def _words(pieces: Sequence[str]) -> int:
    return sum(not piece.isspace() for piece in pieces)


def _changed(removed: str, added: str) -> list[Piece]:
    """What was taken out and what was put in, their common ends (blanks) apart."""
    kept = ""
    while removed[-1:].isspace() and removed[-1:] == added[-1:]:
        kept, removed, added = removed[-1] + kept, removed[:-1], added[:-1]
    made = (Piece("removed", removed), Piece("added", added), Piece("same", kept))
    return [piece for piece in made if piece.text]


def _plain(value: Config | Mapping[str, str]) -> dict[str, Any]:
    return cast("dict[str, Any]", canonical(value))


def _of_fields(where: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Difference]:
    """Two mappings, key by key, in the first's order and then the second's."""
    found: list[Difference] = []
    for key in dict.fromkeys([*old, *new]):
        if key in old and key in new and old[key] == new[key]:
            continue
        kind = "added" if key not in old else "removed" if key not in new else "changed"
        place = f"{where}.{key}" if where else key
        found.append(Difference(kind, place, _text(old.get(key)), _text(new.get(key))))
    return found


def _of_items(field: str, old: Sequence[Config], new: Sequence[Config]) -> list[Difference]:
    """Two lists: by name, then whether those both have stand in another order."""
    before, after = _named(field, old), _named(field, new)
    found: list[Difference] = []
    for name in dict.fromkeys([*before, *after]):
        if name not in after:
            found.append(Difference("removed", name, _whole(before[name]), None))
        elif name not in before:
            found.append(Difference("added", name, None, _whole(after[name])))
        else:
            found += _of_fields(name, before[name], after[name])
    shared = [[name for name in names if name in before and name in after] for names in (before, after)]
    if shared[0] != shared[1]:
        order = [", ".join(_short(field, name) for name in names) for names in shared]
        found.append(Difference("changed", f"{field} (order)", *order))
    return found


def _short(field: str, name: str) -> str:
    return name.removeprefix(f"{field}[").removesuffix("]")


def _named(field: str, items: Iterable[Config]) -> dict[str, dict[str, Any]]:
    """`principles[honesty]`, `critiques[What is a good way to ...]`, those of one name numbered."""
    seen: Counter[str] = Counter()
    named: dict[str, dict[str, Any]] = {}
    for item in items:
        key = getattr(item, _LISTS[field])
        name = key if isinstance(key, str) else " / ".join(key)
        seen[name] += 1
        again = f" #{seen[name]}" if seen[name] > 1 else ""
        named[f"{field}[{name}{again}]"] = _plain(item)
    return named


def _whole(item: Mapping[str, Any]) -> str:
    return "\n".join(f"{key}: {_text(value)}" for key, value in item.items() if value not in (None, ""))


def _text(value: Any) -> str | None:
    """Texts as they are, lists of texts a line each, other values as JSON."""
    if value is None or isinstance(value, str):
        return value
    items = cast("list[Any]", value) if isinstance(value, list) else []
    if items and all(isinstance(item, str) for item in items):
        return "\n".join(items)
    return json.dumps(value, ensure_ascii=False)
