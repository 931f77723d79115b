"""Attention within the documents of packed rows, without a mask of places x places.

A dense mask costs as if nothing were masked, and its own memory. Two kernels for CUDA skip what is masked:

`flex`    FlexAttention (Dong et al. 2024, arXiv 2412.05496). Blocks of 128 x 128 scores are skipped, computed
          whole, or computed through the exact mask, by what is known of the documents in them.
`varlen`  FlashAttention 2 (Dao 2023, arXiv 2307.08691) over the documents laid end to end.

Both are exact: what they see is `document_mask`, within the layer's window. They are for training: without
gradients attention goes through SDPA, whatever was chosen. Neither has a gradient on CPU.

Shapes: B rows, T positions, H query heads, K key/value heads, d head dimension, n blocks of a row.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

__all__ = ["Kernel", "Packing", "attend_blocks", "document_blocks", "narrow", "row_starts"]

Kernel = Literal["sdpa", "flex", "varlen"]
"""What computes attention in training, where rows are packed or have a window."""

_BLOCK = 128
"""FlexAttention's default; its kernels cut blocks into smaller tiles as they like."""
_PADDING = torch.iinfo(torch.int32).max
"""Padding as a document of its own that comes last, as it does in a row."""


class Packing(NamedTuple):
    """Which places of packed rows belong together."""

    documents_BT: Tensor
    """A number for each document of a row; padding, at the end, has -1. Whole rows, also where a rank has
    only a stretch of them."""
    first: int = 0
    """The first token's place in the row."""
    alone: bool = False
    """No row has more than one document, and it begins at the row's first place: to be causal is enough. Only
    padding then sees more than it would, and nothing looks at padding. Known by who made the rows: a look at
    the tensor would wait for the device."""
    starts_N: Tensor | None = None
    """int32: where each document (padding too) begins in the flattened rows, then the number of places, as
    often as it takes to have always as many; `varlen` needs it."""


def document_blocks(documents_BT: Tensor | None, length: int, window: int | None, device: Any) -> BlockMask:
    """`document_mask`, within `window`, as FlexAttention takes it; made from n x n blocks, without waiting
    for the device.

    A block is skipped when no document is in both its queries and its keys, or all its keys are later or
    out of the window; it is computed without a mask when one document fills it and all its keys are earlier
    and in the window. Documents that lie in one piece, as they are packed, give the same blocks as a look at
    every place; of others some blocks are computed for nothing.

    Args:
        documents_BT: as in `Packing`; None is one document in every row.
        length: T.
        window: a token sees itself and the `window` - 1 before it; None sees all.
        device: of the tensors made.
    """
    first = torch.arange(0, length, _BLOCK, device=device)
    last = (first + (_BLOCK - 1)).clamp_max(length - 1)
    before = first[:, None] > first
    seen, whole = before | (first[:, None] == first), before & (first[:, None] + _BLOCK <= length)
    if window is not None:
        seen = seen & (first[:, None] - last < window)
        whole = whole & (last[:, None] - first < window)
    if documents_BT is not None:
        documents_BT = documents_BT.to(torch.int32)
        low, high = _ranges(documents_BT, len(first))
        seen = seen & (low[:, :, None] <= high[:, None]) & (high[:, :, None] >= low[:, None])
        one = (low == high)[:, :, None] & (low == high)[:, None]
        whole = whole & one & (low[:, :, None] == low[:, None])
    seen, whole = seen.view(-1, 1, *seen.shape[-2:]), whole.view(-1, 1, *whole.shape[-2:])
    part = seen & ~whole
    (kv, kv_at), (full_kv, full_kv_at) = _listed(part), _listed(whole & seen)
    (q, q_at), (full_q, full_q_at) = _listed(part.mT), _listed((whole & seen).mT)
    return BlockMask(
        seq_lengths=(length, length),
        kv_num_blocks=kv,
        kv_indices=kv_at,
        full_kv_num_blocks=full_kv,
        full_kv_indices=full_kv_at,
        q_num_blocks=q,
        q_indices=q_at,
        full_q_num_blocks=full_q,
        full_q_indices=full_q_at,
        BLOCK_SIZE=(_BLOCK, _BLOCK),
        mask_mod=_rule(documents_BT, window),
    )


def _ranges(documents_BT: Tensor, blocks: int) -> tuple[Tensor, Tensor]:
    """The lowest and the highest document of every block, [B, n] each."""
    rows, length = documents_BT.shape
    numbers = documents_BT.masked_fill(documents_BT < 0, _PADDING)
    missing = numbers[:, -1:].expand(rows, blocks * _BLOCK - length)
    cut = torch.cat((numbers, missing), dim=1).view(rows, blocks, _BLOCK)
    return cut.amin(-1), cut.amax(-1)


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """bool [B, 1, n, n] -> how many blocks of each row are set, and which: those first, in order."""
    order = torch.argsort(blocks.to(torch.uint8), dim=-1, descending=True, stable=True)
    return blocks.sum(-1, dtype=torch.int32).contiguous(), order.to(torch.int32).contiguous()


def _rule(documents_BT: Tensor | None, window: int | None) -> Callable[..., Tensor]:
    """The mask of one place. One function for each kind of mask, whatever the batch: compiled code is made
    for a function, and reads the documents anew each time."""
    if documents_BT is None:
        if window is None:
            return lambda _b, _h, q, k: q >= k
        return lambda _b, _h, q, k: (q >= k) & (q - k < window)
    if window is None:
        return lambda b, _h, q, k: (q >= k) & (documents_BT[b, q] == documents_BT[b, k])
    return lambda b, _h, q, k: (q >= k) & (q - k < window) & (documents_BT[b, q] == documents_BT[b, k])


def attend_blocks(q_BTHd: Tensor, k_BTKd: Tensor, v_BTKd: Tensor, blocks: BlockMask) -> Tensor:
    """Softmax attention [B, T, H*d] by FlexAttention.

    Inside a compiled block it is compiled with it; elsewhere on a GPU by itself, since without a compiler
    all scores would be made. On CPU they are, and there is no gradient.
    """
    q, k, v = (x.transpose(1, 2) for x in narrow(q_BTHd, k_BTKd, v_BTKd))
    alone = q.device.type == "cuda" and not torch.compiler.is_compiling()
    attend = _compiled() if alone else flex_attention
    out: Any = attend(q, k, v, block_mask=blocks, enable_gqa=True)
    return out.transpose(1, 2).flatten(2)


@functools.cache
def _compiled() -> Any:
    return torch.compile(flex_attention, dynamic=False)


def row_starts(rows: int, length: int, device: torch.device) -> Tensor:
    """`Packing.starts_N` of rows that are one document each."""
    return torch.arange(0, rows * length + 1, length, dtype=torch.int32, device=device)


def narrow(*parts: Tensor) -> tuple[Tensor, ...]:
    """Under autocast, in its dtype: queries and keys were turned in fp32, and kernels want one dtype."""
    kind = parts[0].device.type
    if not torch.is_autocast_enabled(kind):
        return parts
    return tuple(part.to(torch.get_autocast_dtype(kind)) for part in parts)
