"""The keyword monitor: words that must not be asked for or said, however they are dressed.

    entries:
      - words: [grey bane, "venom*"]
        category: poison
        action: block
        applies: [prompt, reply]

A word is plain text, matched whole; a `*` at its end lets more letters follow. Regular expressions are not
taken: a monitor must not be slowed down by what it reads, and must know how much to hold back. Reading undoes
case, accents, look-alike letters and invisible characters (`plain`), letters said twice, punctuation inside a
word, and letters spaced out one by one.

What is held back of a reply is exactly what may still become a match: from the first letter of the earliest
word that is begun and not decided. What was let go can never turn out to have been part of a match.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from publius.core.config import Config
from publius.core.messages import Conversation, TextBlock, ThinkingBlock, ToolResultBlock
from publius.inference.readings import Probe
from publius.safety.files import read_yaml
from publius.safety.monitor import ALLOW, Verdict
from publius.safety.plain import HARD, SOFT, letters_of

__all__ = ["KeywordList", "KeywordMonitor", "Keywords"]

_LONGEST = 200
"""Letters of a word."""


class Keywords(Config):
    """Words that mean the same."""

    words: tuple[str, ...] = Field(min_length=1)
    category: str = "keyword"
    action: Literal["flag", "block"] = "block"
    applies: tuple[Literal["prompt", "reply"], ...] = Field(default=("prompt", "reply"), min_length=1)
    explanation: str = "This is about something that must not be talked about here."
    inside: bool = False
    """Also inside longer words: for scripts that put no spaces between words."""

    @field_validator("words")
    @classmethod
    def _readable(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        for word in words:
            letters = _letters(word)[0]
            if not letters:
                raise ValueError(f"the word {word!r} has no letter or digit")
            if len(letters) > _LONGEST:
                raise ValueError(f"the word {word[:20]!r}... is longer than {_LONGEST} letters")
        return words


class KeywordList(Config):
    """A file of words."""

    entries: tuple[Keywords, ...]

    @classmethod
    def load(cls, path: Path) -> KeywordList:
        """From YAML or JSON.

        Raises:
            UserError: for a file that is missing, not YAML, or no list of words, naming the field.
        """
        return read_yaml(cls, path, "the list of words")


@dataclass(frozen=True, eq=False)
class _Word:
    """A word to look for."""

    letters: str
    breaks: frozenset[int]
    """Letters before which another word begins."""
    open: bool
    """More letters may follow."""
    entry: Keywords


class _Begun(NamedTuple):
    """A word that is begun and not decided."""

    word: _Word
    start: int
    """Where in the text."""
    matched: int = 1
    joined: bool = True
    """So far only separated where the word is, or by punctuation."""
    spaced: bool = True
    """So far separated before every letter."""


def _letters(word: str) -> tuple[str, frozenset[int]]:
    letters, breaks = "", set[int]()
    for part in word.removesuffix("*").split():
        breaks.add(len(letters))
        letters += "".join(found for c in part if (found := letters_of(c)) not in (SOFT, HARD))
    return letters, frozenset(breaks - {0})


_PLAIN = bytes(ord(letters_of(chr(code)) or "\0") for code in range(128)) + bytes(128)
"""ASCII as `letters_of` has it, a byte for a byte: 0 is what is invisible."""


class _Starts:
    """Where in ASCII text a word may begin: there its first letter stands behind a separator, and its second
    follows, or is still to come. What this passes over cannot become a match.

    Args:
        words: by their first letter; none of them looked for inside other words.
    """

    def __init__(self, words: dict[str, list[_Word]]) -> None:
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


class _Reader:
    """Reads a text in any pieces; each character once.

    Args:
        words: by their first letter.
        starts: where they may begin; None looks everywhere.
    """

    def __init__(self, words: dict[str, list[_Word]], starts: _Starts | None = None) -> None:
        self._words, self._starts = words, starts
        self._begun: list[_Begun] = []
        self._place = 0
        self._between = HARD  # a text begins as after a space
        self._last = ""
        self.block: Verdict | None = None
        """Of the first blocking match, in the order they end."""
        self.flag: Verdict | None = None
        self.from_: int | None = None
        """Where the blocking match begins."""

    def read(self, text: str, *, done: bool) -> None:
        """Go on with `text`, which begins with all that was read before."""
        place, self._place = self._place, len(text)
        new = text[place:]
        if self._starts is not None and new.isascii():
            self._skim(new.encode().translate(_PLAIN), place, self._starts)
        else:
            for at, character in enumerate(new, place):
                self._hear(letters_of(character), at)
        if done:
            self._separate(HARD)

    def _hear(self, found: str, place: int) -> None:
        """The next character, as `letters_of` has it."""
        if found in (SOFT, HARD):
            self._separate(found)
            return
        for letter in found:
            self._letter(letter, place)

    def _skim(self, plain: bytes, place: int, starts: _Starts) -> None:
        """As `_hear` of each, without a look at those between which no word begins."""
        at = 0
        while at < len(plain):
            if self._begun:
                if plain[at]:
                    self._hear(chr(plain[at]), place + at)
                at += 1
                continue
            start = starts.find(plain, at, open=self._between != "")
            self._pass(plain[at:start])
            if start < len(plain):
                self._letter(chr(plain[start]), place + start)
            at = start + 1

    def _pass(self, plain: bytes) -> None:
        """What is known of text in which no word begins or goes on: how it ends."""
        letters = plain.rstrip(b"\0 -")
        if letters:
            self._last, self._between = chr(letters[-1]), ""
        ends = plain[len(letters) :]
        if b" " in ends:
            self._between = HARD
        elif b"-" in ends and self._between != HARD:
            self._between = SOFT

    def held(self, length: int) -> int:
        """How much of the text may leave: up to the first word that may still be blocked."""
        if not self._begun:
            return length
        starts = [one.start for one in self._begun if one.word.entry.action == "block"]
        return min([length, *starts])

    def _separate(self, kind: str) -> None:
        if kind == HARD or self._between != HARD:
            self._between = kind
        kept: list[_Begun] = []
        for one in self._begun:
            if one.matched == len(one.word.letters):
                self._found(one)
            else:
                kept.append(one)
        self._begun = kept

    def _letter(self, letter: str, place: int) -> None:
        kept: list[_Begun] = []
        for one in self._begun:
            kept += self._go_on(one, letter)
        again = letter == self._last and not self._between  # then what began before has gone on
        for word in self._words.get(letter, ()):
            if self._between or (word.entry.inside and not again):
                self._settle(_Begun(word, place), kept)
        self._begun = list(dict.fromkeys(kept))  # a letter said twice can lead to the same place in two ways
        self._between, self._last = "", letter

    def _go_on(self, one: _Begun, letter: str) -> list[_Begun]:
        """What becomes of a begun word with the next letter: nothing, or it goes on, in one way or in two."""
        word, ways = one.word, list[_Begun]()
        if letter == self._last and not self._between:
            ways.append(one)  # said twice
        if one.matched < len(word.letters) and letter == word.letters[one.matched]:
            joined = one.joined and (self._between != HARD or one.matched in word.breaks)
            spaced = one.spaced and bool(self._between)
            if joined or spaced:
                self._settle(_Begun(word, one.start, one.matched + 1, joined, spaced), ways)
        return ways

    def _settle(self, one: _Begun, others: list[_Begun]) -> None:
        """Found at once where more letters may follow, else kept."""
        if one.matched == len(one.word.letters) and (one.word.open or one.word.entry.inside):
            self._found(one)
        else:
            others.append(one)

    def _found(self, one: _Begun) -> None:
        entry = one.word.entry
        verdict = Verdict(entry.action, entry.category, entry.explanation, 1.0)
        if entry.action == "block":
            if self.block is None:
                self.block, self.from_ = verdict, one.start
        elif self.flag is None:
            self.flag = verdict

    @property
    def verdict(self) -> Verdict:
        """So far."""
        return self.block or self.flag or ALLOW


_Looked = tuple[dict[str, list[_Word]], _Starts | None]


class KeywordMonitor:
    """Looks for words.

    Args:
        keywords: which.
        name: for logs.
    """

    def __init__(self, keywords: KeywordList, *, name: str = "keywords") -> None:
        self.name, self.keywords = name, keywords
        self.probe: Probe | None = None
        self._words: dict[str, dict[str, list[_Word]]] = {"prompt": {}, "reply": {}}
        for entry in keywords.entries:
            for text in entry.words:
                letters, breaks = _letters(text)
                word = _Word(letters, breaks, text.endswith("*"), entry)
                for where in entry.applies:
                    self._words[where].setdefault(letters[0], []).append(word)
        self._starts = {
            where: None
            if any(word.entry.inside for some in words.values() for word in some)
            else _Starts(words)
            for where, words in self._words.items()
        }

    @classmethod
    def load(cls, path: Path, *, name: str = "keywords") -> KeywordMonitor:
        """Of a file.

        Raises:
            UserError: as `KeywordList.load`.
        """
        return cls(KeywordList.load(path), name=name)

    def watch(self, conversation: Conversation) -> _Watch:
        """Begin to watch an exchange."""
        asked, replied = ((self._words[where], self._starts[where]) for where in ("prompt", "reply"))
        return _Watch(self.name, conversation, asked, replied)


class _Watch:
    def __init__(
        self,
        name: str,
        conversation: Conversation,
        asked: _Looked,
        replied: _Looked,
    ) -> None:
        self._name, self._conversation, self._asked = name, conversation, asked
        self._reader = _Reader(*replied)

    def prompt(self) -> Verdict:
        found = ALLOW
        for text in _texts(self._conversation):
            reader = _Reader(*self._asked)
            reader.read(text, done=True)
            if reader.block is not None:
                return reader.block._replace(monitor=self._name)
            found = reader.flag._replace(monitor=self._name) if reader.flag else found
        return found

    def reply(self, text: str, scores: NDArray[np.float32], *, done: bool) -> tuple[Verdict, int]:
        reader = self._reader
        reader.read(text, done=done)
        verified = len(text) if done else reader.held(len(text))
        if reader.block is not None and reader.from_ is not None:
            verified = min(verified, reader.from_)
        verdict = reader.verdict
        return (verdict if verdict is ALLOW else verdict._replace(monitor=self._name)), verified


def _texts(conversation: Conversation) -> Sequence[str]:
    """Every text of a prompt, each by itself: what is said, thought, and what tools gave back."""
    found = [conversation.system] if conversation.system else []
    for message in conversation.messages:
        for block in message.content:
            if isinstance(block, TextBlock):
                found.append(block.text)
            elif isinstance(block, ThinkingBlock):
                found.append(block.thinking)
            elif isinstance(block, ToolResultBlock):
                found.append(block.content if isinstance(block.content, str) else str(block.content))
    return found
