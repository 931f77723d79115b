"""Batches: whole documents packed into rows, with everything a document-masked step needs.

A document of n tokens takes n - 1 places (inputs [:-1], targets [1:]). Rows are filled best-fit from a
shuffled order, so every token is trained on once an epoch and little is padding. A source's position
is a few integers: loading them back continues the exact sequence of batches.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from publius.core.errors import UserError
from publius.model.packed import Packing

__all__ = [
    "Batch",
    "BatchSource",
    "Example",
    "PackedBatches",
    "Piece",
    "Share",
    "ShuffledBatches",
    "collate",
    "pack",
    "share_of",
    "starts_of",
]

B_co = TypeVar("B_co", covariant=True)
_T = TypeVar("_T")
_B = TypeVar("_B")


class Batch(NamedTuple):
    """Packed rows. Padding has weight 0, position 0 and document -1."""

    tokens_BT: Tensor
    targets_BT: Tensor
    weights_BT: Tensor
    positions_BT: Tensor
    documents_BT: Tensor
    trained_N: Tensor
    """Places in the flattened rows whose weight is positive; found here, so that no device waits for it."""
    first: int = 0
    """The first token's place in the row, where a rank has only a stretch of it (documents are whole)."""
    alone: bool = False
    """No row has more than one document (`Packing.alone`)."""
    starts_N: Tensor | None = None
    """Where documents begin in the flattened rows (`Packing.starts_N`)."""

    @property
    def packing(self) -> Packing:
        """Which places see each other."""
        return Packing(self.documents_BT, self.first, self.alone, self.starts_N)


class Example(NamedTuple):
    """A tokenized document; `weights` (as long as `tokens`) are each token's loss weight, None for 1."""

    tokens: Sequence[int] | np.ndarray[Any, Any]
    weights: Sequence[float] | np.ndarray[Any, Any] | None = None


class Piece(NamedTuple):
    """The stretch of an example whose inputs are tokens [start, start + length)."""

    example: int
    start: int
    length: int


class BatchSource(Protocol[B_co]):
    """What the loop reads from; `state` is all it needs to continue exactly."""

    def next(self) -> B_co:
        """The next batch; sources never end, they begin another epoch."""
        ...

    def state(self) -> dict[str, int]:
        """Where we are, before the next batch."""
        ...

    def restore(self, state: dict[str, int]) -> None:
        """Go to a place that `state` returned."""
        ...

    def share(self, index: int, count: int) -> None:
        """From now on `next` makes the `index`-th of `count` equal shares of each batch's rows.

        Raises:
            UserError: when `count` does not divide them.
        """
        ...


class Share(NamedTuple):
    """Which rows of a batch one of several processes makes."""

    place: int = 0
    shares: int = 1

    def of(self, rows: list[_T]) -> list[_T]:
        """My rows."""
        size = len(rows) // self.shares
        return rows[self.place * size : (self.place + 1) * size]


def share_of(rows: int, index: int, count: int) -> Share:
    """The `index`-th of `count` equal shares of `rows`.

    Raises:
        UserError: when they cannot be equal.
    """
    if rows % count:
        raise UserError(
            f"a batch of {rows} rows cannot be shared by {count} ranks",
            where="parallel",
            fix=f"make its rows (batch_tokens / sequence_length; a reward model's pairs) divide by {count},"
            " or use fewer data-parallel ranks (shard x replicate)",
        )
    return Share(index, count)


def pack(lengths: Sequence[int], sequence_length: int, seed: int) -> list[list[Piece]]:
    """Pack documents of `lengths` tokens into rows of `sequence_length` places; deterministic in `seed`.

    Long documents are cut into row-sized pieces that share one token, so no target is lost. Best fit,
    longest first among shuffled equals (Ding et al. 2024, arXiv 2404.10830); rows are then shuffled.
    Documents of fewer than two tokens have nothing to predict and are left out.
    """
    rng = np.random.default_rng(seed)
    pieces = [
        Piece(int(index), start, min(sequence_length, lengths[index] - 1 - start))
        for index in rng.permutation(len(lengths))
        for start in range(0, lengths[index] - 1, sequence_length)
    ]
    pieces.sort(key=lambda piece: -piece.length)  # stable: equals stay shuffled
    rows: list[list[Piece]] = []
    open_rows: list[list[int]] = [[] for _ in range(sequence_length + 1)]  # by room left
    rooms = 0  # bit r is set when some row has room r
    for piece in pieces:
        fitting = rooms >> piece.length
        if fitting:
            room = piece.length + (fitting & -fitting).bit_length() - 1
            row = open_rows[room].pop()
            if not open_rows[room]:
                rooms &= ~(1 << room)
        else:
            room, row = sequence_length, len(rows)
            rows.append([])
        rows[row].append(piece)
        if room > piece.length:
            open_rows[room - piece.length].append(row)
            rooms |= 1 << (room - piece.length)
    return [rows[i] for i in rng.permutation(len(rows))]


def starts_of(lengths: Sequence[Sequence[int]], sequence_length: int, count: int = 0) -> np.ndarray[Any, Any]:
    """`Packing.starts_N` of rows that are documents of these lengths, then padding, which is one more.

    Args:
        lengths: of the documents of each row.
        sequence_length: places in a row.
        count: of the result, at least; what is left over repeats the number of places. Equal counts are
            equal shapes, for which code is compiled once.
    """
    starts = [
        row * sequence_length + start
        for row, pieces in enumerate(lengths)
        for start in (0, *itertools.accumulate(pieces))
        if start < sequence_length
    ]
    return np.pad(
        np.asarray(starts, np.int32),
        (0, max(1, count - len(starts))),
        constant_values=len(lengths) * sequence_length,
    )


def collate(
    rows: Sequence[Sequence[Piece]], examples: Sequence[Example], sequence_length: int, most: int = 0
) -> Batch:
    """Rows of pieces as tensors [len(rows), sequence_length].

    Args:
        rows: the pieces of each.
        examples: what they are pieces of.
        sequence_length: places in a row.
        most: no row has more pieces, here or in a batch that is to have equal shapes.
    """
    shape = (len(rows), sequence_length)
    tokens, targets, positions = (np.zeros(shape, np.int64) for _ in range(3))
    weights, documents = np.zeros(shape, np.float32), np.full(shape, -1, np.int64)
    for r, row in enumerate(rows):
        place = 0
        for number, (index, start, length) in enumerate(row):
            example, here = examples[index], slice(place, place + length)
            ids = np.asarray(example.tokens[start : start + length + 1], np.int64)
            tokens[r, here], targets[r, here] = ids[:-1], ids[1:]
            weights[r, here] = (
                1.0 if example.weights is None else example.weights[start + 1 : start + length + 1]
            )
            positions[r, here], documents[r, here] = np.arange(length), number
            place += length
    lengths = [[piece.length for piece in row] for row in rows]
    starts = starts_of(lengths, sequence_length, len(rows) * (most + 1) + 1)
    arrays = (tokens, targets, weights, positions, documents, np.flatnonzero(weights > 0), starts)
    parts = [torch.from_numpy(array) for array in arrays]
    alone = all(len(row) <= 1 for row in rows)
    return Batch(parts[0], parts[1], parts[2], parts[3], parts[4], parts[5], alone=alone, starts_N=parts[6])


class PackedBatches:
    """An endless source of packed batches over `examples`, reshuffled and repacked every epoch.

    Args:
        examples: tokenized documents.
        sequence_length: places in a row.
        rows: rows in a batch.
        seed: with the epoch number, decides the packing and the order.

    Raises:
        UserError: when there is nothing to train on.
    """

    def __init__(self, examples: Sequence[Example], *, sequence_length: int, rows: int, seed: int) -> None:
        self.examples, self.sequence_length, self.rows, self.seed = examples, sequence_length, rows, seed
        self._lengths = [len(example.tokens) for example in examples]
        if not any(length > 1 for length in self._lengths):
            raise UserError(
                "there is nothing to train on: no document has two tokens",
                where="training data",
                fix="check the stage that made this input, and its filters",
            )
        self._epoch = self._row = 0
        self._share = Share()
        self._most = 1
        self._order = self._pack(0)

    @property
    def rows_per_epoch(self) -> int:
        """Rows in the present epoch (packings differ by a few)."""
        return len(self._order)

    @property
    def steps_per_epoch(self) -> float:
        """Batches in the present epoch."""
        return len(self._order) / self.rows

    @property
    def fill(self) -> float:
        """The share of places that hold a document's token."""
        places = len(self._order) * self.sequence_length
        return sum(length - 1 for length in self._lengths if length > 1) / places

    def next(self) -> Batch:
        """The next batch; one that ends an epoch is filled from the next."""
        picked: list[list[Piece]] = []
        while len(picked) < self.rows:
            if self._row == len(self._order):
                self._epoch, self._row = self._epoch + 1, 0
                self._order = self._pack(self._epoch)
            take = self._order[self._row : self._row + self.rows - len(picked)]
            picked += take
            self._row += len(take)
        return collate(self._share.of(picked), self.examples, self.sequence_length, self._most)

    def share(self, index: int, count: int) -> None:
        """Make only a share of each batch's rows; the place in the data stays that of all."""
        self._share = share_of(self.rows, index, count)

    def state(self) -> dict[str, int]:
        """Epoch and row."""
        return {"epoch": self._epoch, "row": self._row}

    def restore(self, state: dict[str, int]) -> None:
        """Go to an epoch and row."""
        self._epoch, self._row = state["epoch"], state["row"]
        self._order = self._pack(self._epoch)

    def once(self, rows: int | None = None) -> Iterator[Batch]:
        """One pass over the present epoch in order, the last batch short: for evaluation."""
        size = rows or self.rows
        for start in range(0, len(self._order), size):
            yield collate(self._order[start : start + size], self.examples, self.sequence_length)

    def _pack(self, epoch: int) -> list[list[Piece]]:
        seed = int(np.random.SeedSequence([self.seed, epoch]).generate_state(1)[0])
        order = pack(self._lengths, self.sequence_length, seed)
        most = max(len(row) for row in order)
        self._most = max(self._most, 1 << (most - 1).bit_length())  # epochs differ by a few
        return order


class ShuffledBatches(Generic[_T, _B]):
    """An endless source of batches of unpacked items, reshuffled every epoch (reward models).

    Args:
        items: what to draw from.
        build: makes a batch of the items drawn; must not draw randomness of its own.
        rows: items in a batch.
        seed: with the epoch number, decides the order.
    """

    def __init__(self, items: Sequence[_T], build: Callable[[list[_T]], _B], *, rows: int, seed: int) -> None:
        if not items:
            raise UserError(
                "there is nothing to train on",
                where="training data",
                fix="check the stage that made this input",
            )
        self.items, self.build, self.rows, self.seed = items, build, rows, seed
        self._epoch = self._place = 0
        self._share = Share()
        self._order = self._shuffle()

    @property
    def steps_per_epoch(self) -> float:
        """Batches in an epoch."""
        return len(self.items) / self.rows

    def next(self) -> _B:
        """The next batch; one that ends an epoch is filled from the next."""
        picked: list[_T] = []
        while len(picked) < self.rows:
            if self._place == len(self.items):
                self._epoch, self._place = self._epoch + 1, 0
                self._order = self._shuffle()
            take = self._order[self._place : self._place + self.rows - len(picked)]
            picked += [self.items[i] for i in take]
            self._place += len(take)
        return self.build(self._share.of(picked))

    def share(self, index: int, count: int) -> None:
        """Make only a share of each batch's items; the place in the data stays that of all."""
        self._share = share_of(self.rows, index, count)

    def state(self) -> dict[str, int]:
        """Epoch and place in it."""
        return {"epoch": self._epoch, "place": self._place}

    def restore(self, state: dict[str, int]) -> None:
        """Go to an epoch and place."""
        self._epoch, self._place = state["epoch"], state["place"]
        self._order = self._shuffle()

    def _shuffle(self) -> list[int]:
        return np.random.default_rng([self.seed, self._epoch]).permutation(len(self.items)).tolist()
