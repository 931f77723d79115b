"""Contamination: which questions of a benchmark stand, word for word, in the training text.

An item is *dirty* when a run of 13 of its words (all of them, of an item with 8 to 12) occurs in one training
document: Brown et al. 2020 (GPT-3), appendix C. `covered` is the share of its words inside such runs, the
measure of Touvron et al. 2023 (Llama 2), appendix A.6, who count 10 words and call items under 20% clean and
over 80% dirty. Items of fewer than 8 words cannot be told, and are counted apart.

The corpus is streamed: token shards as mapped files, text document by document. Words become 64-bit hashes
and runs become sums of them, a block at a time in numpy, so memory depends on the benchmark and the block,
not the corpus. Words are runs of letters and digits with ASCII case folded; other scripts' words count as
they are written, and text without spaces (Chinese, Japanese) is not cut into words.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from publius.core.console import progress
from publius.core.errors import UserError
from publius.tokenizer.shards import Shards, Split
from publius.tokenizer.tokenizer import Tokenizer

__all__ = ["Block", "Overlap", "Overlaps", "shard_blocks", "text_blocks", "words_of"]

_Bytes = NDArray[np.uint8]
_Hashes = NDArray[np.uint64]

_BLOCK = 1 << 20
"""Tokens, or four times as many bytes, that are read at once."""
_LONGEST_WORD = 1 << 16
_BITS = 22
"""Of the table that most hashes are refused by."""


def _constants(count: int, seed: int) -> _Hashes:
    """Odd numbers without a pattern."""
    return np.random.default_rng(seed).integers(1, 2**64, count, np.uint64) | np.uint64(1)


_LETTER, _PLACE, _ORDER = _constants(256, 1), _constants(64, 2), _constants(64, 3)


def _fold() -> _Bytes:
    """Each byte as it counts: a lower-case letter, a digit, a part of a longer character; 0 between words."""
    table = np.zeros(256, np.uint8)
    for code in range(256):
        if chr(code).isalnum() and code < 128:
            table[code] = ord(chr(code).lower())
        elif code >= 128:
            table[code] = code
    return table


_FOLD = _fold()


class Block(NamedTuple):
    """A stretch of the corpus.

    Attributes:
        bytes: UTF-8, every document but perhaps the last one followed by a byte that is in no word.
        ends: where each document ends in `bytes`, in order; the last may go on in the next block.
        goes_on: whether it does.
        tokens: how many tokens, or bytes of text, it stands for.
    """

    bytes: _Bytes
    ends: NDArray[np.int64]
    goes_on: bool
    tokens: int


class Overlap(NamedTuple):
    """What of one item stands in the corpus.

    Attributes:
        runs: how many runs of words were looked for; 0 of an item that is too short.
        found: how many of them occur.
        covered: share of the item's words inside those.
        words: the longest stretch that occurs, as the item has it.
    """

    id: str
    runs: int
    found: int
    covered: float
    words: str

    @property
    def dirty(self) -> bool:
        """Any run of words occurs."""
        return self.found > 0

    @property
    def short(self) -> bool:
        """Too few words to tell."""
        return self.runs == 0


def words_of(text: _Bytes) -> tuple[_Hashes, NDArray[np.int64], NDArray[np.int64]]:
    """The hash of every word, where it begins and where it ends."""
    folded = _FOLD[text]
    _blank_punctuation(folded)
    inside = folded != 0
    edges = np.flatnonzero(inside[1:] != inside[:-1]) + 1 if len(inside) else np.zeros(0, np.int64)
    if len(inside) and inside[0]:
        edges = np.concatenate([[0], edges])
    if len(inside) and inside[-1]:
        edges = np.concatenate([edges, [len(inside)]])
    starts, ends = edges[0::2].astype(np.int64), edges[1::2].astype(np.int64)
    if not len(starts):
        return np.zeros(0, np.uint64), starts, ends
    lengths = ends - starts
    firsts = np.cumsum(lengths) - lengths
    place = np.arange(int(lengths.sum())) - np.repeat(firsts, lengths)
    values = _LETTER[folded[inside]] * _PLACE[place & 63]
    return _mixed(np.add.reduceat(values, firsts)), starts, ends


def _blank_punctuation(folded: _Bytes) -> None:
    """Curly quotes, dashes, spaces that do not break: in UTF-8 all of C2 xx, E2 80 xx and E3 80 xx."""
    two = np.flatnonzero(folded[:-1] == 0xC2)
    folded[two] = folded[two + 1] = 0
    lead = np.flatnonzero(((folded[:-2] == 0xE2) | (folded[:-2] == 0xE3)) & (folded[1:-1] == 0x80))
    for shift in range(3):
        folded[lead + shift] = 0


def _mixed(hashes: _Hashes) -> _Hashes:
    hashes = (hashes ^ (hashes >> np.uint64(31))) * np.uint64(0x9E3779B97F4A7C15)
    return hashes ^ (hashes >> np.uint64(29))


def _runs(words: _Hashes, length: int) -> _Hashes:
    """The hash of every run of `length` words."""
    count = len(words) - length + 1
    if count <= 0:
        return np.zeros(0, np.uint64)
    total = words[:count] * _ORDER[0]
    for k in range(1, length):
        total += words[k : k + count] * _ORDER[k]
    return _mixed(total)


class _Wanted:
    """The runs of one length that items have, and how often each was seen."""

    def __init__(self, length: int, hashes: Sequence[int]) -> None:
        self.length = length
        self.keys = np.unique(np.asarray(hashes, np.uint64))
        self.seen = np.zeros(len(self.keys), np.int64)
        self._table = np.zeros(1 << _BITS, bool)
        self._table[self.keys >> np.uint64(64 - _BITS)] = True

    def scan(self, words: _Hashes, documents: NDArray[np.int64], fresh: int) -> None:
        """Look for them in these words; runs that end before word `fresh` were looked at before."""
        first = max(0, fresh - self.length + 1)
        runs = _runs(words[first:], self.length)
        if not len(runs):
            return
        likely = np.flatnonzero(self._table[runs >> np.uint64(64 - _BITS)])
        likely = likely[documents[first + likely] == documents[first + likely + self.length - 1]]
        chosen = runs[likely]
        place = np.searchsorted(self.keys, chosen)
        place[place == len(self.keys)] = 0
        hits = place[self.keys[place] == chosen]
        self.seen += np.bincount(hits, minlength=len(self.keys))

    def has(self, run: int) -> bool:
        """Whether it was seen."""
        return bool(self.seen[int(np.searchsorted(self.keys, np.uint64(run)))])


class _Passage(NamedTuple):
    """A part of an item: its words, and the runs that are looked for, one from each place."""

    text: bytes
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    length: int
    runs: list[int]


class Overlaps:
    """Looks for the items of a benchmark in a corpus.

    Args:
        items: id -> its passages, which no run of words crosses.
        words: how long a run is looked for.
        least: of a passage with fewer than `words` words all of them are looked for, if there are so many.

    Raises:
        UserError: when the numbers make no sense.
    """

    def __init__(self, items: Mapping[str, Sequence[str]], *, words: int = 13, least: int = 8) -> None:
        if not 1 <= least <= words <= len(_ORDER):
            raise UserError(
                f"runs of {words} words, of short passages at least {least}",
                where="contamination",
                fix=f"give 1 <= least <= words <= {len(_ORDER)}",
            )
        self._items = {
            name: [_passage(passage, words, least) for passage in passages]
            for name, passages in items.items()
        }
        runs: dict[int, list[int]] = {}
        for passages in self._items.values():
            for passage in passages:
                runs.setdefault(passage.length, []).extend(passage.runs)
        self._wanted = {length: _Wanted(length, found) for length, found in runs.items() if found}
        self._longest = max(self._wanted, default=1)
        self.tokens = 0
        """How much was read."""

    def scan(self, blocks: Iterable[Block], total: int = 0, label: str = "searching") -> None:
        """Read a corpus, or another part of it; `total` is its size, for the time left."""
        left: _Bytes = np.zeros(0, np.uint8)  # half a word at the end of the block before
        words, documents = np.zeros(0, np.uint64), np.zeros(0, np.int64)
        document = 0
        with progress(label, total) as ticker:
            for block in blocks:
                text, ends = np.concatenate([left, block.bytes]), block.ends + len(left)
                left = _half_word(text) if block.goes_on else left[:0]
                found, starts, _ = words_of(text[: len(text) - len(left)])
                kept = len(words)
                words = np.concatenate([words, found])
                documents = np.concatenate([documents, document + np.searchsorted(ends, starts, "right")])
                for wanted in self._wanted.values():
                    wanted.scan(words, documents, kept)
                kept = max(0, len(words) - self._longest + 1)
                words, documents = words[kept:], documents[kept:]
                document += len(ends) - block.goes_on
                self.tokens += block.tokens
                ticker.advance(block.tokens)

    def found(self) -> dict[str, Overlap]:
        """What of every item was seen so far."""
        return {name: self._overlap(name, passages) for name, passages in self._items.items()}

    def _overlap(self, name: str, passages: Sequence[_Passage]) -> Overlap:
        runs = found = covered = total = 0
        longest = ""
        for passage in passages:
            inside = np.zeros(len(passage.starts), bool)
            for place, run in enumerate(passage.runs):
                if self._wanted[passage.length].has(run):
                    found += 1
                    inside[place : place + passage.length] = True
            runs += len(passage.runs)
            covered += int(inside.sum())
            total += len(inside)
            longest = max(longest, _longest(passage, inside), key=len)
        return Overlap(name, runs, found, covered / total if total else 0.0, longest)


def _passage(text: str, words: int, least: int) -> _Passage:
    raw = text.encode("utf-8", "replace")
    hashes, starts, ends = words_of(np.frombuffer(raw, np.uint8))
    length = min(words, len(hashes))
    runs = _runs(hashes, length).tolist() if length >= least else []
    return _Passage(raw, starts, ends, length, runs)


def _longest(passage: _Passage, inside: NDArray[np.bool_]) -> str:
    best, begun = (0, 0), -1
    for place in range(len(inside) + 1):
        on = place < len(inside) and bool(inside[place])
        if on and begun < 0:
            begun = place
        elif not on and begun >= 0:
            best, begun = max(best, (begun, place), key=lambda span: span[1] - span[0]), -1
    if best == (0, 0):
        return ""
    return passage.text[int(passage.starts[best[0]]) : int(passage.ends[best[1] - 1])].decode(
        "utf-8", "replace"
    )


def _half_word(text: _Bytes) -> _Bytes:
    """What follows the last byte that is surely in no word; nothing of a stretch that is no word at all."""
    tail = text[-_LONGEST_WORD:]
    gaps = np.flatnonzero(_FOLD[tail] == 0)
    return tail[int(gaps[-1]) + 1 :] if len(gaps) else text[:0]


def shard_blocks(shards: Shards, tokenizer: Tokenizer, split: Split = "train") -> Iterator[Block]:
    """A tokenized corpus, about a million tokens at a time; special tokens stand between words."""
    special = tokenizer.special_ids
    pieces = [b"\x00" if i in special else tokenizer.id_bytes(i) for i in range(tokenizer.vocab_size)]
    lengths = np.asarray([len(piece) for piece in pieces], np.int64)
    offsets = np.cumsum(lengths) - lengths
    flat = np.frombuffer(b"".join(pieces), np.uint8)
    for tokens, ends, goes_on in _token_parts(shards, split):
        sizes = lengths[tokens]
        after = np.cumsum(sizes)
        size = int(after[-1]) if len(after) else 0
        place = np.repeat(offsets[tokens] - (after - sizes), sizes) + np.arange(size)
        yield Block(flat[place], after[ends - 1], goes_on, len(tokens))


def _token_parts(shards: Shards, split: Split) -> Iterator[tuple[NDArray[Any], NDArray[np.int64], bool]]:
    """Tokens, where documents end among them, and whether the last one goes on."""
    documents = shards.documents(split)
    rows: list[NDArray[Any]] = []
    held = 0
    for index, length in enumerate(documents.lengths.tolist()):
        if length == 0:
            continue
        row = np.asarray(documents[index])
        if held and held + len(row) > _BLOCK:
            yield (*_joined(rows), False)
            rows, held = [], 0
        while len(row) > _BLOCK:
            yield (*_joined([row[:_BLOCK]]), True)
            row = row[_BLOCK:]
        rows.append(row)
        held += len(row)
    if rows:
        yield (*_joined(rows), False)


def _joined(rows: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    return np.concatenate(rows), np.cumsum([len(row) for row in rows])


def text_blocks(texts: Iterable[str]) -> Iterator[Block]:
    """Documents of text, some megabytes at a time. One longer than that is cut, and read across the cut."""
    most = 4 * _BLOCK
    held, ends = bytearray(), list[int]()
    for text in texts:
        raw = text.encode("utf-8", "replace") + b"\n"
        if held and len(held) + len(raw) > most:
            yield _text_block(held, ends, False)
            held, ends = bytearray(), []
        while len(raw) > most:
            yield _text_block(raw[:most], [most], True)
            raw = raw[most:]
        held += raw
        ends.append(len(held))
    if held:
        yield _text_block(held, ends, False)


def _text_block(held: bytearray | bytes, ends: Sequence[int], goes_on: bool) -> Block:
    return Block(np.frombuffer(bytes(held), np.uint8), np.asarray(ends, np.int64), goes_on, len(held))
