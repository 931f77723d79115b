"""Reading a text in pieces for words in disguise: what is begun, what is found, what may still match.

Most pieces are a token or two and come again and again, so what follows from a piece, behind what was begun
before it, is remembered. In longer ones only the places are looked at where a word may begin.

An escape of JSON (`\\u0065`, `\\n`) is read as the character it stands for, wherever it stands: whoever gets
a tool call reads what its input says, not how it is written. It is read as it is written too, for in plain
text `ve\\nom` is a word with punctuation inside it.
"""

from __future__ import annotations

import copy
import functools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from publius.safety.monitor import ALLOW, Verdict
from publius.safety.plain import HARD, SOFT, letters_of

__all__ = ["Reader", "Word", "Words"]

_SHORT, _KNOWN = 24, 1 << 14
"""Characters of a piece of text that is remembered, and how many are."""
_HIGH, _LOW = r"u[dD][89abAB][0-9a-fA-F]{2}", r"u[dD][c-fC-F][0-9a-fA-F]{2}"
_ESCAPE = re.compile(rf'\\(?:{_HIGH}\\{_LOW}|u[0-9a-fA-F]{{4}}|["\\/bfnrt])')
_BEGUN_ESCAPE = re.compile(rf"\\(?:u[0-9a-fA-F]{{0,3}}|{_HIGH}(?:\\(?:u[0-9a-fA-F]{{0,3}})?)?)?\Z")
"""What the end of a text may begin."""


@dataclass(frozen=True, eq=False)
class Word:
    """A word to look for."""

    letters: str
    breaks: frozenset[int]
    """Letters before which another word begins."""
    open: bool
    """More letters may follow."""
    verdict: Verdict
    """On whoever says it: a flag or a block."""
    inside: bool = False
    """Found also inside longer words."""


class _Found(NamedTuple):
    """A match, and where it begins and is known, counted from the beginning of what is read."""

    verdict: Verdict
    start: int
    end: int


class _Begun(NamedTuple):
    """A word that is begun and not decided."""

    word: Word
    start: int
    """Where, counted from where what is read now begins: before it in the end always."""
    matched: int = 1
    joined: bool = True
    """So far only separated where the word is, or by punctuation."""
    spaced: bool = True
    """So far separated before every letter."""


_PLAIN = bytes(ord(letters_of(chr(code)) or "\0") for code in range(128)) + bytes(128)
"""ASCII as `letters_of` has it, a byte for a byte: 0 is what is invisible."""


class _Starts:
    """Where in ASCII text a word may begin: there its first letter stands behind a separator, and its second
    follows, or is still to come. What this passes over cannot become a match.

    Args:
        words: by their first letter; none of them looked for inside other words.
    """

    def __init__(self, words: dict[str, list[Word]]) -> None:
        ways: list[bytes] = []
        for first in sorted(letter for letter in words if letter.isascii()):
            one, seconds = first.encode(), {word.letters[1:2] for word in words[first]}
            known = "".join(sorted(letter for letter in seconds if letter.isascii())).encode()
            then = (b"[" + known + b"]|" if known else b"") + b"\\Z"
            same = b"[\\0 \\-" + one + b"]"  # said twice, spaced out: more than so much is looked at closely
            more = b"(?:" + same + b"{0,8}(?:" + then + b")|" + same + b"{9})"
            ways.append(one if "" in seconds else one + more)
        anyhow = b"\\0*(" + (b"|".join(ways) or b"(?!)") + b")"
        self.here, self.next = re.compile(anyhow), re.compile(b"[ -]" + anyhow)

    def find(self, plain: bytes, at: int, *, open: bool) -> int:
        """The first place from `at` on where a word may begin; the end of `plain` when there is none.

        Args:
            open: whether a separator came before `at`.
        """
        found = (self.here.match(plain, at) if open else None) or self.next.search(plain, at)
        return len(plain) if found is None else found.start(1)


class _Spelling:
    """Reads a piece of a text, letter by letter where a word may be begun.

    Args:
        begun: words begun before it.
        between, last: what came last before it: separators, if any, and the letter before them.
    """

    def __init__(self, words: Words, begun: Sequence[_Begun], between: str, last: str) -> None:
        self._words = words
        self.begun = list(begun)
        self.between, self.last = between, last
        self.block: _Found | None = None
        """The first blocking match, in the order they end."""
        self.flag: _Found | None = None

    def read(self, text: str, *, done: bool) -> None:
        """The piece."""
        if self._words.starts is not None and text.isascii():
            self._skim(text.encode().translate(_PLAIN), self._words.starts)
        else:
            for place, character in enumerate(text):
                self._hear(letters_of(character), place)
        if done:
            self._separate(HARD, len(text))

    def _hear(self, found: str, place: int) -> None:
        """The next character, as `letters_of` has it."""
        if found in (SOFT, HARD):
            self._separate(found, place)
            return
        for letter in found:
            self._letter(letter, place)

    def _skim(self, plain: bytes, starts: _Starts) -> None:
        """As `_hear` of each, without a look at those between which no word begins."""
        at = 0
        while at < len(plain):
            if self.begun:
                if plain[at]:
                    self._hear(chr(plain[at]), at)
                at += 1
                continue
            start = starts.find(plain, at, open=self.between != "")
            self._pass(plain[at:start])
            if start < len(plain):
                self._letter(chr(plain[start]), start)
            at = start + 1

    def _pass(self, plain: bytes) -> None:
        """Text in which no word begins or goes on: only how it ends is known of it."""
        letters = plain.rstrip(b"\0 -")
        if letters:
            self.last, self.between = chr(letters[-1]), ""
        ends = plain[len(letters) :]
        if b" " in ends:
            self.between = HARD
        elif b"-" in ends and self.between != HARD:
            self.between = SOFT

    def _separate(self, kind: str, place: int) -> None:
        if kind == HARD or self.between != HARD:
            self.between = kind
        kept: list[_Begun] = []
        for one in self.begun:
            if one.matched == len(one.word.letters):
                self._found(one, place)
            else:
                kept.append(one)
        self.begun = kept

    def _letter(self, letter: str, place: int) -> None:
        kept: list[_Begun] = []
        for one in self.begun:
            kept += self._go_on(one, letter, place)
        again = letter == self.last and not self.between  # then what began before has gone on
        for word in self._words.first.get(letter, ()):
            if self.between or (word.inside and not again):
                self._settle(_Begun(word, place), kept, place)
        # a letter said twice can lead to the same place in two ways; what began first may leave last
        first: dict[tuple[Word, int, bool, bool], _Begun] = {}
        for one in kept:
            first.setdefault((one.word, one.matched, one.joined, one.spaced), one)
        self.begun = list(first.values())
        self.between, self.last = "", letter

    def _go_on(self, one: _Begun, letter: str, place: int) -> list[_Begun]:
        """What becomes of a begun word with the next letter: nothing, or it goes on, in one way or in two."""
        word, ways = one.word, list[_Begun]()
        if letter == self.last and self.between != HARD:
            ways.append(one)  # said twice, with punctuation between or without
        elif letter == self.last and one.spaced:
            ways.append(one._replace(joined=False))  # and spaced out as the others are
        if one.matched < len(word.letters) and letter == word.letters[one.matched]:
            joined = one.joined and (self.between != HARD or one.matched in word.breaks)
            spaced = one.spaced and bool(self.between)
            if joined or spaced:
                self._settle(_Begun(word, one.start, one.matched + 1, joined, spaced), ways, place)
        return ways

    def _settle(self, one: _Begun, others: list[_Begun], place: int) -> None:
        """Found at once where more letters may follow, else kept."""
        if one.matched == len(one.word.letters) and (one.word.open or one.word.inside):
            self._found(one, place)
        else:
            others.append(one)

    def _found(self, one: _Begun, place: int) -> None:
        found = _Found(one.word.verdict, one.start, place)
        if found.verdict.action == "block":
            self.block = self.block or found
        else:
            self.flag = self.flag or found


class _After(NamedTuple):
    """What there is to know after a piece of text."""

    begun: tuple[_Begun, ...]
    """Their starts counted from its end."""
    between: str
    last: str
    block: _Found | None
    flag: _Found | None


class Words:
    """What is looked for.

    Args:
        words: all.
    """

    def __init__(self, words: Sequence[Word]) -> None:
        self.first: dict[str, list[Word]] = {}
        """By their first letter."""
        for word in words:
            self.first.setdefault(word.letters[0], []).append(word)
        self._inside = any(word.inside for word in words)
        self.blocks = any(word.verdict.action == "block" for word in words)
        """Whether one of them blocks."""
        self.starts = None if self._inside else _Starts(self.first)
        """Where one may begin; None looks everywhere."""
        self.known = functools.lru_cache(_KNOWN)(self.after)
        """As `after`: the same short pieces come again and again, for most are a token."""

    def after(self, begun: tuple[_Begun, ...], between: str, last: str, text: str, done: bool) -> _After:
        """What comes of a piece of text behind what was begun."""
        spelling = _Spelling(self, begun, between, last)
        spelling.read(text, done=done)
        left = tuple(one._replace(start=one.start - len(text)) for one in spelling.begun)
        # where nothing is begun the last letter says nothing, unless words are looked for inside others
        last = spelling.last if left or self._inside else ""
        return _After(left, spelling.between, last, spelling.block, spelling.flag)


class _Track:
    """One way to read a text."""

    def __init__(self, words: Words) -> None:
        self.words = words
        self.begun: tuple[_Begun, ...] = ()
        self.between, self.last = HARD, ""  # a text begins as after a space

    def same(self, other: _Track) -> bool:
        """Whether what follows will mean the same to both."""
        return (self.begun, self.between, self.last) == (other.begun, other.between, other.last)

    def read(self, new: str, done: bool, *, wide: int) -> _After:
        """The next piece; `wide` is how long it is written."""
        after = self.words.known if len(new) <= _SHORT else self.words.after
        found = after(self.begun, self.between, self.last, new, done)
        self.begun, self.between, self.last = found.begun, found.between, found.last
        if more := wide - len(new):
            self.begun = tuple(one._replace(start=one.start - more) for one in self.begun)
        return found

    def held(self, read: int) -> int:
        """How much may leave of so much text that was read."""
        return min([read, *(read + one.start for one in self.begun if one.word.verdict.action == "block")])


class Reader:
    """Reads a text in any pieces; each character once, and those behind an escape in two ways as long as
    that makes a difference."""

    def __init__(self, words: Words) -> None:
        self._words = words
        self._meant = _Track(words)
        self._written: _Track | None = None
        """As it is written, escapes and all; None where that is the same."""
        self._place = self._written_place = 0
        self._waiting = 0
        """Characters at the end that may begin an escape, not read yet."""
        self._before = ""
        """What may begin an escape at the end of what this follows."""
        self._block: _Found | None = None
        self._flag: _Found | None = None

    @property
    def begun(self) -> tuple[_Begun, ...]:
        """Words that are begun and not decided."""
        return self._meant.begun + (() if self._written is None else self._written.begun)

    @property
    def block(self) -> Verdict | None:
        """Of the first blocking match, in the order they end."""
        return self._block and self._block.verdict

    @property
    def flag(self) -> Verdict | None:
        """Of the first that flags."""
        return self._flag and self._flag.verdict

    @property
    def from_(self) -> int | None:
        """Where the blocking match begins."""
        return None if self._block is None else self._block.start - len(self._before)

    def follow(self, text: str) -> None:
        """Begin behind `text`, of which only what it begins may become a match; before anything is read."""
        self.read(text, done=False)
        self._before = text[len(text) - self._waiting :]
        self._place = self._written_place = len(self._before)
        self._block = self._flag = None

    def read(self, text: str, *, done: bool) -> None:
        """Go on with `text`, which begins with all that was read before."""
        text = self._before + text if self._before else text
        place, self._place = self._place, len(text)
        new = text[place:]
        if self._waiting or "\\" in new:
            self._unescape(text, place - self._waiting, done)
        else:
            self._read(self._meant, new, place, done, wide=len(new))
        if self._written is not None:
            place, self._written_place = self._written_place, len(text)
            new = text[place:]
            self._read(self._written, new, place, done, wide=len(new))
            if not self._waiting and self._written.same(self._meant):
                self._written = None

    def _unescape(self, text: str, place: int, done: bool) -> None:
        """From `place` on, up to what may begin an escape; each escape as what it stands for."""
        at, end = place, len(text)
        while (at := text.find("\\", at)) >= 0:
            if not done and _BEGUN_ESCAPE.match(text, at):
                end = at
                break
            escape = _ESCAPE.match(text, at)
            if escape is None:
                at += 1
                continue
            self._read(self._meant, text[place:at], place, False, wide=at - place)
            if self._written is None:
                self._written, self._written_place = copy.copy(self._meant), at
            place, wide = escape.end(), len(escape[0])
            self._read(self._meant, json.loads(f'"{escape[0]}"'), at, False, wide=wide)
            at = place
        self._waiting = len(text) - end
        self._read(self._meant, text[place:end], place, done, wide=end - place)

    def _read(self, track: _Track, new: str, place: int, done: bool, *, wide: int) -> None:
        """The next piece of a track, from `place` on; of matches the one that is known first counts."""
        found = track.read(new, done, wide=wide)
        if found.block or found.flag:
            late = wide - 1 if wide != len(new) else 0  # an escape is known with its last character
            self._block = _first(self._block, found.block, place, late)
            self._flag = _first(self._flag, found.flag, place, late)

    def held(self, length: int) -> int:
        """How much of the text may leave: up to the first word that may still be blocked."""
        if not self._words.blocks or not (self._meant.begun or self._waiting or self._written):
            return length
        shift = len(self._before)
        held = self._meant.held(length + shift - self._waiting)
        if self._written is not None:
            held = min(held, self._written.held(length + shift))
        return max(0, held - shift)

    @property
    def verdict(self) -> Verdict:
        """So far."""
        return self.block or self.flag or ALLOW


def _first(known: _Found | None, new: _Found | None, place: int, late: int) -> _Found | None:
    """Of two matches the one that ends first; `new` is in a piece from `place` on."""
    if new is None:
        return known
    new = new._replace(start=new.start + place, end=new.end + place + late)
    return new if known is None or new.end < known.end else known
