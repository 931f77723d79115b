"""Context parallelism: each rank computes a stretch of every row, with the keys and values of all of it.

Ranks of a context group hold the same rows. Each embeds, attends from and feeds forward its own places; in
every layer keys and values are gathered, and in backward their gradients go back to where they came from.
What it costs: per layer one gather of K and V of the whole row forward (again when blocks are recomputed)
and one sum backward, and a mask of [rows, places here, whole row]. Exact: the same sums as on one rank. With
grouped queries K and V are a fraction of the activations, so for rows that fit this beats passing them round
a ring; PyTorch's own ring (`torch.distributed.tensor.experimental`) takes no document mask, and not the CPU.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from publius.core.errors import UserError
from publius.model.packed import Packing
from publius.model.transformer import Transformer
from publius.training.batches import Batch
from publius.training.distributed.ranks import Ranks

__all__ = ["ContextParallel", "check_rows"]


class _Gather(torch.autograd.Function):
    """[B, K, T/n, d] of each rank -> [B, K, T, d], stretches in order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group, ctx.length = group, x.shape[2]
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(group.size())]
        dist.all_gather(parts, x.contiguous(), group=group)
        return torch.cat(parts, dim=2)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:
        summed = grads[0].contiguous()
        dist.all_reduce(summed, group=ctx.group)
        rank = dist.get_rank(ctx.group)
        return summed[:, :, rank * ctx.length : (rank + 1) * ctx.length], None


class _Gathered:
    """A cache of keys and values, to the eyes of attention: those of the other ranks."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group

    def update(self, layer: int, k_BKTd: Tensor, v_BKTd: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the whole row."""
        both = _Gather.apply(torch.cat((k_BKTd, v_BKTd)), self.group)
        k, v = both.chunk(2)  # pyright: ignore[reportAttributeAccessIssue]
        return k, v


class ContextParallel(nn.Module):
    """A language model to a loss function that has `share` of a batch.

    Args:
        model: sharded, or whole.
        ranks: with a context group.

    Raises:
        UserError: for another kind of model.
    """

    def __init__(self, model: nn.Module, ranks: Ranks) -> None:
        super().__init__()
        if not isinstance(model, Transformer) or ranks.context_group is None:
            raise UserError(
                f"context parallelism trains language models only, not a {type(model).__name__}",
                where="parallel.context",
                fix="set it to 1",
            )
        self.model, self.ranks = model, ranks
        self._others = _Gathered(ranks.context_group)

    @property
    def head_weight(self) -> Tensor:
        """The model's."""
        return self.model.head_weight

    @property
    def compiled_loss(self) -> bool:
        """The model's."""
        return self.model.compiled_loss

    def hidden(self, tokens_BT: Tensor, *, positions_BT: Tensor, packing: Packing) -> Tensor:
        """Hidden states of this rank's places; the documents are those of whole rows."""
        return self.model.hidden(tokens_BT, positions_BT=positions_BT, packing=packing, cache=self._others)

    def share(self, batch: Batch) -> Batch:
        """This rank's stretch of every row; documents stay whole.

        Raises:
            UserError: when the rows cannot be shared so.
        """
        length, count = batch.tokens_BT.shape[1], self.ranks.layout.context
        check_rows(length, count, self.model.config.sliding_window)
        size = length // count
        first = self.ranks.context_index * size
        here = slice(first, first + size)
        weights_BT = batch.weights_BT[:, here]
        return Batch(
            batch.tokens_BT[:, here],
            batch.targets_BT[:, here],
            weights_BT,
            batch.positions_BT[:, here],
            batch.documents_BT,
            (weights_BT > 0).flatten().nonzero().squeeze(1),
            first,
        )


def check_rows(length: int, count: int, window: int | None) -> None:
    """Can rows of `length` be shared by `count` ranks?

    Raises:
        UserError: when they cannot be cut evenly, or a sliding window is shorter than the row.
    """
    if length % count:
        raise UserError(
            f"rows of {length} places cannot be cut into {count} stretches",
            where="parallel.context",
            fix=f"make sequence_length a multiple of {count}",
        )
    if window is not None and window < length:
        raise UserError(
            f"context parallelism has no sliding window yet, and the model's is {window}, under {length}",
            where="parallel.context",
            fix="set it to 1, or use rows no longer than the window",
        )
