"""Needles: sentences that state a value for a key, hidden in long text and asked for later.

    ... haystack ... The badge of grey otter is river lantern. ... haystack ... The badge of grey otter is

Keys and values are words taken from the corpus, so any tokenizer and any language with spaces will
do. What trains and what tests has nothing in common but the form: words are split by a hash of their letters
(one in five is for tests, as a key and as a value), and the wordings are two fixed lists without a noun in
common. The test wordings are read by `publius.evals.needle` alone.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, Literal, NamedTuple

import numpy as np

from publius.core.errors import UserError
from publius.tokenizer.tokenizer import Tokenizer

__all__ = [
    "TEST_WORDINGS",
    "TRAIN_WORDINGS",
    "Lexicon",
    "Needle",
    "Wording",
    "draw_needles",
    "lexicon",
    "most_needles",
]

_WORD = re.compile(r"(?<![^\s])[^\W\d_]{3,12}(?![^\s.,;:!?])")
_DOCUMENTS = 5_000
_LEAST = 24
"""Words a side needs: fewer, and values would be guessed."""


class Wording(NamedTuple):
    """How a needle is stated and asked for. The answer follows the question, then a full stop."""

    statement: str
    question: str


TRAIN_WORDINGS = (
    Wording("The sign of {key} is {value}.", "The sign of {key} is"),
    Wording("Remember that the badge of {key} is {value}.", "The badge of {key} is"),
    Wording("The mark for {key} is {value}.", "What is the mark for {key}? The mark for {key} is"),
    Wording("Keep this: {key} means {value}.", "Say it again: {key} means"),
    Wording("They say that the song of {key} is {value}.", "We know that the song of {key} is"),
    Wording("For {key} the word is {value}.", "For {key} the word is"),
    Wording("In the old book {key} stands for {value}.", "Look it up: {key} stands for"),
    Wording("All who ask about {key} hear {value}.", "Those who ask about {key} hear"),
    Wording("People call {key} by the nickname {value}.", "You may call {key} by the nickname"),
    Wording("My number for {key} reads {value}.", "Say it out: my number for {key} reads"),
    Wording("Behind {key} they found {value}.", "Tell us more: behind {key} they found"),
    Wording("Note {key}: {value}.", "Read again what you wrote. Note {key}:"),
)
TEST_WORDINGS = (
    Wording("The secret of {key} is {value}.", "The secret of {key} is"),
    Wording(
        "Do not forget: the name given to {key} was {value}.",
        "Which name was it? The name given to {key} was",
    ),
)


class Needle(NamedTuple):
    """One fact, as text; `answer` is what must follow `question`, word for word."""

    key: str
    value: str
    wording: Wording

    @property
    def statement(self) -> str:
        """The sentence to hide."""
        return self.wording.statement.format(key=self.key, value=self.value)

    @property
    def question(self) -> str:
        """The words up to the answer."""
        return self.wording.question.format(key=self.key)

    @property
    def answer(self) -> str:
        """Space, value, full stop."""
        return f" {self.value}."


class Lexicon(NamedTuple):
    """The words needles are made of; no word is on both sides."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    counts: tuple[int, ...]
    """How often each of `train` stands in the text."""

    def of(self, side: Literal["train", "test"]) -> tuple[str, ...]:
        """One side."""
        return self.train if side == "train" else self.test


def lexicon(documents: Iterable[Sequence[int] | np.ndarray[Any, Any]], tokenizer: Tokenizer) -> Lexicon:
    """The small-letter words that stand at least twice in the first 5,000 documents, split by a hash of each.

    A word's side depends on the word alone, so it is the same whatever text it is found in.

    Raises:
        UserError: when a side has fewer than 24 of them.
    """
    counts = Counter(
        word
        for ids in islice(documents, _DOCUMENTS)
        for word in _WORD.findall(tokenizer.decode([int(i) for i in ids], skip_special=True))
        if word.islower()
    )
    sides: dict[bool, list[str]] = {False: [], True: []}
    for word in sorted(word for word, count in counts.items() if count > 1):
        sides[hashlib.sha256(word.encode()).digest()[0] % 5 == 0].append(word)
    if min(map(len, sides.values())) < _LEAST:
        raise UserError(
            f"the text has too few different words to hide needles with ({len(sides[False])} for training, "
            f"{len(sides[True])} for tests, {_LEAST} are needed of each)",
            where="needles",
            fix="give shards of more text, in a language that puts spaces between words",
        )
    return Lexicon(tuple(sides[False]), tuple(sides[True]), tuple(counts[word] for word in sides[False]))


def most_needles(words: Sequence[str]) -> int:
    """How many different keys `words` make."""
    return len(set(words)) * (len(set(words)) - 1)


def draw_needles(
    rng: np.random.Generator,
    words: Sequence[str],
    wordings: Sequence[Wording],
    count: int,
    *,
    longest: int = 2,
    chances: Sequence[float] | None = None,
) -> list[Needle]:
    """`count` needles with distinct keys of two words, each with a wording and a value of its own, at random.

    Args:
        longest: values have two words to this many. Long ones teach copying: given its first words, every
            other word of a value can be looked up by the word before it.
        chances: of each word, 1 in all; None is all alike. Common words teach most: a key's last word then
            stands in many places, and only the words before it tell which.

    Raises:
        UserError: when the words make fewer keys than that.
    """
    if count > most_needles(words):
        raise UserError(
            f"{len(words)} words make {most_needles(words)} different keys, and {count} are asked for",
            where="needles",
            fix="give shards of more text, or ask for fewer needles",
        )
    needles: dict[str, Needle] = {}
    while len(needles) < count:
        size = 2 + int(rng.integers(2, longest + 1))
        first, second, *value = (words[int(i)] for i in rng.choice(len(words), size, p=chances))
        key = f"{first} {second}"
        wording = wordings[int(rng.integers(len(wordings)))]
        if first != second and key not in needles:
            needles[key] = Needle(key, " ".join(value), wording)
    return list(needles.values())
