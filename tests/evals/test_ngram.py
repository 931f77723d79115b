"""The n-gram baseline against a slow, plain reading of Chen and Goodman's formulas."""

from __future__ import annotations

import time
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from publius.evals.ngram import NGram

BOS = 0


class Slow:
    """Interpolated modified Kneser-Ney with dicts of tuples."""

    def __init__(self, documents: list[list[int]], vocab_size: int, order: int) -> None:
        self.v, self.order = vocab_size, order
        grams: list[Counter[tuple[int, ...]]] = [Counter() for _ in range(order + 1)]
        for document in documents:
            padded = [document[0]] * (order - 1) + document
            for i in range(order, len(padded)):
                for n in range(1, order + 1):
                    grams[n][tuple(padded[i - n + 1 : i + 1])] += 1
        self.counts: list[dict[tuple[int, ...], int]] = [{} for _ in range(order + 1)]
        for n in range(1, order + 1):
            left: dict[tuple[int, ...], set[int]] = defaultdict(set)
            if n < order:
                for gram in grams[n + 1]:
                    left[gram[1:]].add(gram[0])
            for gram, count in grams[n].items():
                self.counts[n][gram] = count if n == order or gram[0] == BOS else len(left[gram])
        self.discounts = [self._discounts(Counter(c.values())) for c in self.counts]

    @staticmethod
    def _discounts(n: Counter[int]) -> list[float]:
        if not all(n[i] for i in (1, 2, 3, 4)):
            return [0.0, 0.5, 0.5, 0.5]
        y = n[1] / (n[1] + 2 * n[2])
        raw = [1 - 2 * y * n[2] / n[1], 2 - 3 * y * n[3] / n[2], 3 - 4 * y * n[4] / n[3]]
        return [0.0, *(min(max(d, 0.1), float(i)) for i, d in enumerate(raw, 1))]

    def p(self, word: int, history: tuple[int, ...]) -> float:
        return self._p(word, history[-(self.order - 1) :] if self.order > 1 else ())

    def _p(self, word: int, history: tuple[int, ...]) -> float:
        n = len(history) + 1
        below = 1 / self.v if n == 1 else self._p(word, history[1:])
        after = {g: c for g, c in self.counts[n].items() if g[:-1] == history}
        total = sum(after.values())
        if not total:
            return below
        d = self.discounts[n]
        kept = sum(d[min(c, 3)] for c in after.values()) / total
        count = after.get((*history, word), 0)
        return max(count - d[min(count, 3)], 0) / total + kept * below


def arrays(documents: list[list[int]]) -> list[np.ndarray]:
    return [np.array(d, dtype=np.uint16) for d in documents]


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_agrees_with_the_plain_formulas(order: int) -> None:
    rng = np.random.default_rng(order)
    train = [[BOS, *(1 + rng.zipf(1.6, 12) % 7).tolist()] for _ in range(25)]
    held_out = [[BOS, *(1 + rng.zipf(1.6, 9) % 9).tolist()] for _ in range(5)]
    slow, fast = Slow(train, 10, order), NGram(arrays(train), 10, order)
    expected = [slow.p(d[i], tuple([BOS] * (order - 1) + d[:i])) for d in held_out for i in range(1, len(d))]
    np.testing.assert_allclose(fast.probabilities(arrays(held_out)), expected, rtol=1e-9)
    assert fast.bits(arrays(held_out)) == pytest.approx(-np.log2(expected).sum())


@settings(max_examples=25)
@given(
    st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=12), min_size=1, max_size=8),
    st.lists(st.integers(1, 6), max_size=6),
)
def test_sums_to_one(train: list[list[int]], history: list[int]) -> None:
    model = NGram(arrays([[BOS, *d] for d in train]), 7, 4)
    rows = [[BOS, *history, word] for word in range(7)]
    last = [model.probabilities(arrays([row]))[-1] for row in rows]
    assert sum(last) == pytest.approx(1.0)


def test_learns_what_repeats_and_not_across_documents() -> None:
    documents = arrays([[BOS, 1, 2, 3]] * 50 + [[BOS, 4]] * 50)
    model = NGram(documents, 100, 5)
    assert model.bits(arrays([[BOS, 1, 2, 3]])) < 1.5
    assert model.probabilities(arrays([[BOS, 4, BOS]]))[-1] < 0.05  # a document's begin follows nothing


def test_counts_of_counts_out_of_range_leave_mass_for_the_unseen() -> None:
    """As many words seen four times as once: the estimate of D(3+) falls below 0."""
    times = {1: 1, 2: 2, 3: 3, 4: 4, 5: 4, 6: 4}
    documents = [[BOS, word] for word, count in times.items() for _ in range(count)]
    model = NGram(arrays([*documents, *[[BOS, 7, 8]] * 5]), 12, 2)
    assert model.probabilities(arrays([[BOS, 7, 9]]))[-1] > 0


def test_nothing_to_train_on_is_uniform() -> None:
    model = NGram([], 8, 3)
    np.testing.assert_allclose(model.probabilities(arrays([[BOS, 1, 2]])), [1 / 8, 1 / 8])


def test_is_fast() -> None:
    rng = np.random.default_rng(0)
    documents = [
        np.concatenate([[BOS], 1 + rng.zipf(1.3, 100) % 2000]).astype(np.uint16) for _ in range(3000)
    ]
    start = time.process_time()
    NGram(documents, 2048).bits(documents[:300])
    assert time.process_time() - start < 3.0  # 0.3 million tokens; 3 million take ten times as long
