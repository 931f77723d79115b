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

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from publius.core.config import Config
from publius.core.messages import (
    Block,
    Conversation,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    text_of,
)
from publius.inference.readings import Probe
from publius.safety.files import read_yaml
from publius.safety.monitor import ALLOW, Verdict
from publius.safety.plain import HARD, SOFT, letters_of
from publius.safety.spelling import Reader, Word, Words

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


def _letters(word: str) -> tuple[str, frozenset[int]]:
    letters, breaks = "", set[int]()
    for part in word.removesuffix("*").split():
        breaks.add(len(letters))
        letters += "".join(found for c in part if (found := letters_of(c)) not in (SOFT, HARD))
    return letters, frozenset(breaks - {0})


class KeywordMonitor:
    """Looks for words.

    Args:
        keywords: which.
        name: for logs.
    """

    def __init__(self, keywords: KeywordList, *, name: str = "keywords") -> None:
        self.name, self.keywords = name, keywords
        self.probe: Probe | None = None
        words: dict[str, list[Word]] = {"prompt": [], "reply": []}
        for entry in keywords.entries:
            verdict = Verdict(entry.action, entry.category, entry.explanation, 1.0)
            for text in entry.words:
                letters, breaks = _letters(text)
                word = Word(letters, breaks, text.endswith("*"), verdict, entry.inside)
                for where in entry.applies:
                    words[where].append(word)
        self._words = {where: Words(some) for where, some in words.items()}

    @classmethod
    def load(cls, path: Path, *, name: str = "keywords") -> KeywordMonitor:
        """Of a file.

        Raises:
            UserError: as `KeywordList.load`.
        """
        return cls(KeywordList.load(path), name=name)

    def watch(self, conversation: Conversation) -> _Watch:
        """Begin to watch an exchange."""
        return _Watch(self.name, conversation, self._words["prompt"], self._words["reply"])


class _Watch:
    def __init__(
        self,
        name: str,
        conversation: Conversation,
        asked: Words,
        replied: Words,
    ) -> None:
        self._name, self._conversation, self._asked = name, conversation, asked
        self._reader = Reader(replied)
        last = conversation.messages[-1] if conversation.messages else None
        if last is not None and last.role == "assistant":  # the reply goes on from it
            self._reader.follow(text_of(last))

    def prompt(self) -> Verdict:
        found = ALLOW
        for text in _texts(self._conversation):
            reader = Reader(self._asked)
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
            verified = min(verified, max(0, reader.from_))
        verdict = reader.verdict
        return (verdict if verdict is ALLOW else verdict._replace(monitor=self._name)), verified


def _texts(conversation: Conversation) -> Iterator[str]:
    """Every text of a prompt that the model reads, each by itself: instructions and tools, what is said (with
    no seam where blocks of text stand side by side), thought and asked of tools, and what these gave back."""
    if conversation.system:
        yield conversation.system
    for tool in conversation.tools:
        yield from (tool.name, tool.description, *_strings(tool.input_schema))
    for message in conversation.messages:
        said = ""
        for block in message.content:
            if isinstance(block, TextBlock):
                said += block.text
                continue
            yield from _apart(said, block)
            said = ""
        yield said


def _apart(said: str, block: Block) -> Iterator[str]:
    """What was said before a block, and what is in it."""
    yield said
    match block:
        case ThinkingBlock(thinking=text) | ToolResultBlock(content=text):
            yield text
        case ToolUseBlock():
            yield from (block.name, *_strings(block.input))
        case _:
            pass


def _strings(value: object) -> Iterator[str]:
    """All texts in a JSON value, names of fields among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, inner in cast("Mapping[object, object]", value).items():
            yield str(name)
            yield from _strings(inner)
    elif isinstance(value, list | tuple):
        for inner in cast("Sequence[object]", value):
            yield from _strings(inner)
