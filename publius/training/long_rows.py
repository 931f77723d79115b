"""Rows of one long document each, whose length grows from phase to phase; some with needles in them.

A row is documents of the shards put end to end, with nothing masked between them. A needle's statement goes
in at one place and its question at a later one; see `publius.training.needles`. Some rows may be lookups
instead (`publius.training.lookup`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from publius.core.errors import UserError
from publius.tokenizer.tokenizer import Tokenizer
from publius.training.batches import Share, share_of
from publius.training.lookup import LookupConfig, draw_row, plain_ids
from publius.training.needles import TRAIN_WORDINGS, draw_needles, most_needles

__all__ = ["Hiding", "LongBatch", "LongBatches", "Plan", "Row", "end_to_end"]

_SEGMENT, _ASKED = (4, 10), 2
"""Tokens of the shortest and of the longest segment, and how many of them ask for the rest."""
Ids = NDArray[np.int64]
Documents = Sequence[NDArray[np.unsignedinteger[Any]]]


class LongBatch(NamedTuple):
    """Full rows: positions count from 0, and every token before is seen."""

    tokens_BT: Tensor
    targets_BT: Tensor
    weights_BT: Tensor
    answers_BT: Tensor
    """bool: the target is part of the answer to a needle's question."""
    trained_N: Tensor
    """Places in the flattened rows whose weight is positive; found here, so that no device waits for it."""


class Plan(NamedTuple):
    """`batches` batches of `rows` rows of `length` places."""

    length: int
    rows: int
    batches: int


class Hiding(NamedTuple):
    """How needles are put into rows."""

    words: Sequence[str]
    share: float
    """Of the rows, have needles."""
    spacing: int
    """Places for each needle in the most crowded rows; how crowded a row is, is drawn."""
    answer_weight: float
    longest: int = 2
    """Words in the longest value."""
    segments: float = 0.0
    """Of the needles, are no sentences but random tokens that stand twice."""
    common: float = 0.0
    """Of those tokens, are taken from a document, where common ones are common."""
    chances: Sequence[float] | None = None
    """As `draw_needles`."""


class Row(NamedTuple):
    """length + 1 tokens, the loss weight of each, and whether it is part of an answer."""

    tokens: Ids
    weights: NDArray[np.float32]
    answers: NDArray[np.bool_]

    def cut(self, start: int, end: int | None) -> Row:
        """The stretch [start, end)."""
        return Row(self.tokens[start:end], self.weights[start:end], self.answers[start:end])


class _Insert(NamedTuple):
    """Tokens to put into a row at a share `at` of its haystack."""

    at: float
    row: Row


def end_to_end(ids: NDArray[Any], gap: Sequence[int]) -> Ids:
    """A document as it stands inside a row: without bos and end, with `gap` after it."""
    return np.concatenate((np.asarray(ids[1:-1], np.int64), np.asarray(gap, np.int64)))


class LongBatches:
    """An endless source: the phases of `plans` one after the other, the last one for ever.

    Documents come in a new order each epoch; one that does not fit its row goes on in the next row.

    Args:
        documents: token ids (bos, text, end).
        tokenizer: of those ids.
        plans: the phases.
        seed: decides everything drawn, with the number of the batch and of the epoch.
        hiding: needles; None for none.
        lookup: a share of rows that are lookups; None for none.

    Raises:
        UserError: when no document has a token.
    """

    def __init__(
        self,
        documents: Documents,
        tokenizer: Tokenizer,
        plans: Sequence[Plan],
        *,
        seed: int,
        hiding: Hiding | None = None,
        lookup: LookupConfig | None = None,
    ) -> None:
        if not any(len(ids) > 2 for ids in documents):
            raise UserError(
                "there is nothing to train on: no document has a token",
                where="training data",
                fix="check the stage that made these shards",
            )
        self._documents, self._tokenizer, self._plans = documents, tokenizer, tuple(plans)
        self._seed, self._hiding, self._gap = seed, hiding, tokenizer.encode("\n\n")
        self._lookup, self._ids = lookup, plain_ids(tokenizer)
        self._keys = 0 if hiding is None else most_needles(hiding.words)
        self._batch = self._epoch = self._place = self._offset = 0
        self._order = self._shuffle()
        self._share = Share()

    def next(self) -> LongBatch:
        """The next batch."""
        plan = self._plan()
        rng = np.random.default_rng([self._seed, self._batch, 0])
        rows = self._share.of([self._row(rng, plan.length) for _ in range(plan.rows)])
        self._batch += 1
        tokens, weights, answers = (torch.from_numpy(np.stack(part)) for part in zip(*rows, strict=True))
        trained_N = weights[:, 1:].flatten().nonzero().squeeze(1)
        return LongBatch(tokens[:, :-1], tokens[:, 1:], weights[:, 1:], answers[:, 1:], trained_N)

    def share(self, index: int, count: int) -> None:
        """Make only a share of each batch's rows; the place in the data stays that of all."""
        for plan in self._plans:
            self._share = share_of(plan.rows, index, count)

    def state(self) -> dict[str, int]:
        """Batches given, and the place in the documents."""
        return {"batch": self._batch, "epoch": self._epoch, "place": self._place, "offset": self._offset}

    def restore(self, state: dict[str, int]) -> None:
        """Go to a place that `state` returned."""
        self._batch, self._epoch = state["batch"], state["epoch"]
        self._place, self._offset = state["place"], state["offset"]
        self._order = self._shuffle()

    def _plan(self) -> Plan:
        left = self._batch
        for plan in self._plans:
            if left < plan.batches:
                return plan
            left -= plan.batches
        return self._plans[-1]

    def _shuffle(self) -> NDArray[np.int64]:
        return np.random.default_rng([self._seed, self._epoch, 1]).permutation(len(self._documents))

    def _text(self, count: int) -> Ids:
        """The next `count` tokens of the documents, laid end to end."""
        parts: list[Ids] = [np.zeros(0, np.int64)]
        while count > 0:
            if self._place == len(self._order):
                self._epoch, self._place = self._epoch + 1, 0
                self._order = self._shuffle()
            whole = end_to_end(self._documents[int(self._order[self._place])], self._gap)
            parts.append(whole[self._offset : self._offset + count])
            count -= len(parts[-1])
            self._offset += len(parts[-1])
            if self._offset >= len(whole):
                self._place, self._offset = self._place + 1, 0
        return np.concatenate(parts)

    def _row(self, rng: np.random.Generator, length: int) -> Row:
        if self._lookup is not None and rng.random() < self._lookup.share:
            tokens, weights = draw_row(rng, self._ids, length, self._lookup.fewest)
            return Row(tokens, weights, np.zeros(length + 1, np.bool_))
        inserts: list[_Insert] = []
        if self._hiding is not None and rng.random() < self._hiding.share:
            inserts = self._inserts(rng, self._hiding, length)
        hay = _plain(self._text(length - sum(len(insert.row.tokens) for insert in inserts)))
        parts = [_plain(np.array([self._tokenizer.bos_id]))]
        before = 0
        for insert in inserts:
            at = round(insert.at * len(hay.tokens))
            parts += [hay.cut(before, at), insert.row]
            before = at
        parts.append(hay.cut(before, None))
        return Row(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def _inserts(self, rng: np.random.Generator, hiding: Hiding, length: int) -> list[_Insert]:
        """Statements and questions in order of place, in at most three quarters of the row. Half the
        questions stand at its end."""
        count, room = int(rng.integers(1, max(1, length // hiding.spacing) + 1)), 3 * length // 4
        count = min(count, max(1, self._keys // 2))  # the last of all keys there are would be long in coming
        inserts: list[_Insert] = []
        needles = draw_needles(
            rng, hiding.words, TRAIN_WORDINGS, count, longest=hiding.longest, chances=hiding.chances
        )
        for needle in needles:
            said, asked = np.sort(rng.random(2)).tolist()
            if rng.random() < 0.5:
                said, asked = float(rng.random()), 1.0
            if rng.random() < hiding.segments:
                statement, question = self._segment(rng, hiding)
            else:
                head, tail = needle.statement.rsplit(needle.answer, 1)[0], needle.answer
                statement = self._sentence(head, tail, 0.0, answer=False)
                question = self._sentence(needle.question, tail, hiding.answer_weight, answer=True)
            room -= len(statement.tokens) + len(question.tokens)
            if room < 0:
                break
            inserts += [_Insert(said, statement), _Insert(asked, question)]
        return sorted(inserts, key=lambda insert: insert.at)  # stable: a statement precedes its question

    def _segment(self, rng: np.random.Generator, hiding: Hiding) -> tuple[Row, Row]:
        """Tokens to hide, and the same again, of which the first two are the question."""
        tokens = rng.choice(self._ids, int(rng.integers(_SEGMENT[0], _SEGMENT[1] + 1)))
        if hiding.common:
            said = end_to_end(self._documents[int(rng.integers(len(self._documents)))], self._gap)
            often = rng.random(len(tokens)) < hiding.common
            tokens = np.where(often, rng.choice(said, len(tokens)), tokens)
        weights, no = np.zeros(len(tokens), np.float32), np.zeros(len(tokens), np.bool_)
        asked = np.where(np.arange(len(tokens)) < _ASKED, 0.0, hiding.answer_weight).astype(np.float32)
        return Row(tokens, weights, no), Row(tokens, asked, no)

    def _sentence(self, head: str, tail: str, weight: float, *, answer: bool) -> Row:
        """A line of its own whose `tail` (and the end of the line: tokenizers join it to a full stop) has a
        loss weight of its own."""
        first, last = self._tokenizer.encode(f"\n{head}"), self._tokenizer.encode(f"{tail}\n")
        sizes = [len(first), len(last)]
        weights = np.repeat(np.array([1.0, weight], np.float32), sizes)
        return Row(np.array([*first, *last], np.int64), weights, np.repeat(np.array([False, answer]), sizes))


def _plain(tokens: Ids) -> Row:
    return Row(tokens, np.ones(len(tokens), np.float32), np.zeros(len(tokens), np.bool_))
