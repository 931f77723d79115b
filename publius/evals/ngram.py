"""An interpolated modified Kneser-Ney n-gram model over token ids, in numpy.

The honest old-fashioned baseline for bits per byte (Chen and Goodman 1998, "An Empirical Study of
Smoothing Techniques for Language Modeling", section 3). n-grams are numbered level by level: an
n-gram's key is (number of its first n-1 tokens) * vocabulary + (last token), so keys stay in 64 bits
at any order, and training is one sort per level.

Orders below the highest count *distinct left neighbours* instead of occurrences, except for n-grams
that start a document, which have no left neighbour to count and keep their occurrences.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["NGram"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class _Level(NamedTuple):
    """All n-grams of one length, sorted by key, with what interpolation needs."""

    keys: Ints  # sorted n-gram keys
    discounted: Floats  # max(count - discount, 0) per n-gram
    total: Floats  # per context: sum of counts of its continuations
    back_off: Floats  # per context: probability mass passed to the shorter context


class _Numbered(NamedTuple):
    """The n-grams of one length as found in the training tokens."""

    keys: Ints  # distinct keys, sorted; a place in this array is the n-gram's number
    first: Ints  # position of the last token of its first occurrence
    at: Ints  # number of the n-gram that ends at each position
    counts: Ints  # occurrences that end at a token to predict


def _number(tokens: Ints, predict: NDArray[np.bool_], before: Ints, vocab_size: int) -> _Numbered:
    """Number the n-grams from `before`, the numbers of the (n-1)-grams. The wrap-around at 0 is padding."""
    keys, first, at = np.unique(
        np.roll(before, 1) * vocab_size + tokens, return_index=True, return_inverse=True
    )
    return _Numbered(keys, first, at, np.bincount(at[predict], minlength=len(keys)))


def _discounts(counts: Ints) -> Floats:
    """D(0), D(1), D(2), D(3+) from counts of counts; 0.5 where the data is too small to estimate them.

    On little or odd data the estimates leave their range; none may be 0, or unseen words would have no mass.
    """
    ones, twos, threes, fours = (int(np.count_nonzero(counts == c)) for c in (1, 2, 3, 4))
    if not (ones and twos and threes and fours):
        return np.array([0.0, 0.5, 0.5, 0.5])
    y = ones / (ones + 2 * twos)
    raw = [0.0, 1 - 2 * y * twos / ones, 2 - 3 * y * threes / twos, 3 - 4 * y * fours / threes]
    return np.clip(np.array(raw), [0.0, 0.1, 0.1, 0.1], [0.0, 1.0, 2.0, 3.0])


def _level(keys: Ints, counts: Ints, contexts: int, vocab_size: int) -> _Level:
    discount = _discounts(counts)[np.minimum(counts, 3)]
    owner = keys // vocab_size
    total = np.bincount(owner, weights=counts, minlength=contexts).astype(np.float64)
    taken = np.bincount(owner, weights=discount, minlength=contexts)
    back_off = np.divide(taken, total, out=np.ones(contexts), where=total > 0)
    return _Level(keys, counts - discount, total, back_off)


def _flatten(documents: Sequence[NDArray[np.integer]], pads: int) -> tuple[Ints, NDArray[np.bool_]]:
    """All documents in one array, each first token repeated `pads` more times; and what to predict."""
    tokens = [np.concatenate([np.repeat(d[:1], pads), d]).astype(np.int64) for d in documents if len(d)]
    if not tokens:
        return np.zeros(0, np.int64), np.zeros(0, np.bool_)
    predict = np.ones(sum(map(len, tokens)), np.bool_)
    start = 0
    for document in tokens:
        predict[start : start + pads + 1] = False
        start += len(document)
    return np.concatenate(tokens), predict


class NGram:
    """An n-gram model trained on token documents, each starting with its begin token.

    Args:
        documents: arrays of token ids; the first token of each is context only and nowhere else.
        vocab_size: number of token ids.
        order: length of the longest n-gram.
    """

    def __init__(self, documents: Sequence[NDArray[np.integer]], vocab_size: int, order: int = 5) -> None:
        self.vocab_size, self.order = vocab_size, order
        self._levels: list[_Level] = []  # none without data: the model is then uniform
        tokens, predict = _flatten(documents, order - 1)
        if not predict.any():
            return
        numbered: list[_Numbered] = []
        for _ in range(order):
            before = numbered[-1].at if numbered else np.zeros(len(tokens), np.int64)
            numbered.append(_number(tokens, predict, before, vocab_size))
        contexts = 1
        for n, grams in enumerate(numbered, 1):
            counts = grams.counts
            if n < order:
                longer = numbered[n]
                seen = longer.first[longer.counts > 0]
                neighbours = np.bincount(grams.at[seen], minlength=len(grams.keys))
                opens = ~predict[np.maximum(grams.first - (n - 1), 0)]
                counts = np.where(opens, counts, neighbours)
            self._levels.append(_level(grams.keys, counts.astype(np.int64), contexts, vocab_size))
            contexts = len(grams.keys)

    def probabilities(self, documents: Sequence[NDArray[np.integer]]) -> Floats:
        """P(token | the order-1 tokens before it in its document), for every token but the first."""
        tokens, predict = _flatten(documents, self.order - 1)
        probability = np.full(len(tokens), 1.0 / self.vocab_size)
        at = np.zeros(len(tokens), np.int64)  # number of the n-gram ending here, -1 when never seen
        for level in self._levels:
            context = np.roll(at, 1)
            known = context >= 0
            place = np.where(known, context, 0)
            keys = place * self.vocab_size + tokens
            index = np.minimum(np.searchsorted(level.keys, keys), max(len(level.keys) - 1, 0))
            hit = known & (level.keys[index] == keys)
            total = np.where(known, level.total[place], 0.0)
            direct = np.divide(
                np.where(hit, level.discounted[index], 0.0), total, out=np.zeros(len(tokens)), where=total > 0
            )
            probability = np.where(total > 0, direct + level.back_off[place] * probability, probability)
            at = np.where(hit, index, -1)
        return probability[predict]

    def bits(self, documents: Sequence[NDArray[np.integer]]) -> float:
        """Bits to code every token of `documents` after each document's first."""
        return float(-np.log2(self.probabilities(documents)).sum())
