"""Rows that can only be looked up: segments of random tokens that come again.

    a new segment ... another ... the first again: after its first token, every token stood in the row before

Text of short documents hardly ever rewards looking back, and a small model of such text does not: it repeats
nothing that it did not learn by heart. Mixed into pretraining, such rows make the heads that find what
followed the last time (induction heads: Olsson et al. 2022, arXiv 2209.11895). Nothing in them can be learned
by heart, since each row draws its tokens anew, and no distance helps, since segments come again at random.
Loss is taken where the row answers it: inside segments that were there before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from publius.core.config import Config
from publius.model.transformer import Transformer
from publius.tokenizer.tokenizer import Tokenizer
from publius.training.batches import Batch, PackedBatches, Share, share_of
from publius.training.loop import to_device

__all__ = [
    "LookupBatches",
    "LookupConfig",
    "LookupRow",
    "as_batch",
    "draw_row",
    "lookup_rows",
    "measure_lookup",
    "plain_ids",
]

Ids = NDArray[np.int64]
_SHORTEST, _LONGEST = 3.0, 24.0
"""Mean tokens of a row's segments, drawn for each row evenly in the logarithm."""
_MEASURED, _MEASURED_FEWEST = 32, 64
"""Rows that are measured, and how few different tokens they may have."""
_NEW = (0.25, 0.6)
"""Chance that the next segment is a new one, drawn for each row."""


class LookupConfig(Config):
    """How many rows of a batch, and how alike their tokens are."""

    share: float = Field(default=0.25, gt=0, le=1)
    """Of the rows; 1 leaves no text. In pretraining, of each batch: whole rows, at least one."""
    fewest: int = Field(default=32, ge=2)
    """Different tokens in the rows that have fewest (or all ids there are); others have up to all. With few,
    the token before stands in many places, and more of what went before must match."""


class LookupRow(NamedTuple):
    """length + 1 tokens, and the loss weight of each: 1 where it stood in the row before, else 0."""

    tokens: Ids
    weights: NDArray[np.float32]


def plain_ids(tokenizer: Tokenizer) -> Ids:
    """All ids but special ones and holes."""
    known = (
        i for i in range(tokenizer.vocab_size) if i not in tokenizer.special_ids and tokenizer.id_bytes(i)
    )
    return np.fromiter(known, np.int64)


def draw_row(rng: np.random.Generator, ids: Ids, length: int, fewest: int) -> LookupRow:
    """A row for `length` places.

    Args:
        rng: draws everything.
        ids: to draw tokens from.
        length: T; the row has T + 1 tokens.
        fewest: different tokens a row may draw from, at least.
    """
    count = int(np.exp(rng.uniform(np.log(min(fewest, len(ids))), np.log(len(ids)))))
    chosen = rng.choice(ids, count, replace=False)
    ends = 1 / np.exp(rng.uniform(np.log(_SHORTEST), np.log(_LONGEST)))
    new = rng.uniform(*_NEW)
    segments: list[Ids] = []
    tokens: list[Ids] = []
    weights: list[NDArray[np.float32]] = []
    places = 0
    while places <= length:
        if not segments or rng.random() < new:
            segments.append(chosen[rng.integers(count, size=1 + int(rng.geometric(ends)))])
            tokens.append(segments[-1])
            weights.append(np.zeros(len(tokens[-1]), np.float32))
        else:
            tokens.append(segments[int(rng.integers(len(segments)))])
            weights.append(np.ones(len(tokens[-1]), np.float32))
            weights[-1][0] = 0.0  # which segment comes is not to be known
        places += len(tokens[-1])
    return LookupRow(np.concatenate(tokens)[: length + 1], np.concatenate(weights)[: length + 1])


def lookup_rows(config: LookupConfig, rows: int) -> int:
    """Rows that are lookups in a batch of `rows`."""
    return max(1, round(config.share * rows))


class LookupBatches:
    """Text packed into rows, with rows of lookups after it in each batch; endless.

    Args:
        packed: the text, with what is left of a batch's `rows` (it may be none).
        ids: to draw lookups from.
        config: their share, and how they are drawn.
        rows: in a batch, of both kinds.
        seed: with the number of the batch, decides the lookups.
    """

    def __init__(
        self, packed: PackedBatches, ids: Ids, config: LookupConfig, *, rows: int, seed: int
    ) -> None:
        self._packed, self._ids, self._config = packed, ids, config
        self._length, self._rows, self._seed = packed.sequence_length, rows, seed
        self._batch, self._share = 0, Share()

    def next(self) -> Batch:
        """The next batch: text, then lookups."""
        rng = np.random.default_rng([self._seed, self._batch, 2])
        count = lookup_rows(self._config, self._rows)
        drawn = [draw_row(rng, self._ids, self._length, self._config.fewest) for _ in range(count)]
        self._batch += 1
        text = self._packed.next()
        columns = zip(text[:5], as_batch(drawn)[:5], strict=True)
        return _chosen([torch.cat(pair) for pair in columns], self._share)

    def share(self, index: int, count: int) -> None:
        """Make only a share of each batch's rows; the place in the data stays that of all."""
        self._share = share_of(self._rows, index, count)

    def state(self) -> dict[str, int]:
        """Batches given, and the place in the text."""
        return {"batch": self._batch, **self._packed.state()}

    def restore(self, state: dict[str, int]) -> None:
        """Go to a place that `state` returned."""
        self._batch = state["batch"]
        self._packed.restore(state)


def as_batch(rows: Sequence[LookupRow]) -> Batch:
    """Rows [R, T] of one document each."""
    tokens = torch.from_numpy(np.stack([row.tokens for row in rows]))
    weights = torch.from_numpy(np.stack([row.weights for row in rows]))[:, 1:]
    positions = torch.arange(tokens.shape[1] - 1).expand(len(rows), -1)
    parts = [tokens[:, :-1], tokens[:, 1:], weights, positions, torch.zeros_like(positions)]
    return _chosen(parts, Share())


def _chosen(parts: Sequence[Tensor], share: Share) -> Batch:
    """A batch of the rows that `share` makes."""
    tokens, targets, weights, positions, documents = (torch.stack(share.of(list(part))) for part in parts)
    trained_N = weights.flatten().nonzero().squeeze(1)
    return Batch(tokens, targets, weights, positions, documents, trained_N)


@torch.no_grad()
def measure_lookup(model: Transformer, ids: Ids, length: int) -> float:
    """The share of tokens to be looked up, in fresh rows of `ids`, that the model finds likeliest."""
    rng = np.random.default_rng(0)
    rows = [draw_row(rng, ids, length, _MEASURED_FEWEST) for _ in range(_MEASURED)]
    batch = to_device(as_batch(rows), model.device)
    asked = batch.weights_BT > 0
    likeliest_N = model.logits(model.hidden(batch.tokens_BT)[asked]).argmax(-1)
    return float((likeliest_N == batch.targets_BT[asked]).float().mean())
