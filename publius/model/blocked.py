"""Attention for training on CPU: by blocks of queries, each with only the keys it may see.

Block i of the queries looks at keys up to its own last place (and, in a layer with a window, from where the
window of its first query begins), so nearly half of the scores are never made. In rows of 512 and more a
block's keys begin with the first document that any of its queries, in any row, belongs to. The result is that
of plain softmax attention; gradients are written out, from the probabilities kept.

Measured on one core with AVX512-BF16, forward and backward of 1,024 tokens, best of 25, in ms:

    heads, dtype              row     SDPA    whole   blocked
    6 of 32 (2 kv), bf16      128     17.3      5.7       4.7
                              256               11.6       5.8
                              512     27.0     25.8      11.2
                              1024    41.4     43.0      19.2
    12 of 64 (4 kv), bf16     256     45.2     26.4      17.0
                              1024   135.4    102.3      51.0
    8 of 128 (8 kv), bf16     1024   158.5    108.7      78.7
    6 of 32 (2 kv), fp32      256     11.9     14.0       9.1
                              1024    51.7     55.7      27.3

What it costs is memory: rows x heads x T^2 / 2 probabilities are kept per layer, where SDPA keeps none.

Shapes: B rows, T positions, H query heads, K key/value heads, G = H/K, d head dimension, N = B*K.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

__all__ = ["Plan", "Span", "blocked_attention", "plan_blocks", "query_spans", "seen_spans"]

_LOOK_FROM = 512
"""Rows of so many places are worth a look at their documents: 2 rows of 1,024 with documents of 380, 510 and
130 took 23.0 ms for 31.8 (two cores, 6 heads of 64); each row cut by itself, 34.2: small products are shared
badly."""
_GRAIN = 64
"""Where a block's keys may begin: few different shapes, for each of which kernels are made once."""


class Span(NamedTuple):
    """Queries `start` to `stop`, and the keys `low` to `stop` they may see."""

    start: int
    stop: int
    low: int


def query_spans(length: int, groups: int, window: int | None) -> tuple[Span, ...]:
    """Cut a row into blocks of 64 queries (128 where one head a group would make too small a product)."""
    size = 64 if groups > 1 else 128
    starts = range(0, length, size)
    lows = [0 if window is None else max(0, start - window + 1) for start in starts]
    return tuple(Span(start, min(start + size, length), low) for start, low in zip(starts, lows, strict=True))


def seen_spans(seen_TT: Tensor, groups: int) -> tuple[Span, ...]:
    """The same by a bool mask (True = attend): keys from the first that any query of a block sees."""
    firsts = seen_TT.to(torch.uint8).argmax(-1)  # 0 for a query that sees nothing
    return tuple(
        Span(start, stop, int(firsts[start:stop].min()) // _GRAIN * _GRAIN)
        for start, stop, _ in query_spans(len(seen_TT), groups, None)
    )


class Plan:
    """How the attention of a batch is computed: made once a forward, shared by layers.

    A class, not a tuple: the compiler looks into tuples, and would compile anew for every batch's documents.

    Args:
        spans: the blocks.
        biases: what is added to each block's scores, [N, queries*G, keys].
    """

    def __init__(self, spans: tuple[Span, ...], biases: tuple[Tensor, ...]) -> None:
        self.spans, self.biases = spans, biases
        # To keep a function out of graphs loads the compiler: seconds, lost on those who never compile.
        self.attend = _uncompiled() if "torch._dynamo" in sys.modules else blocked_attention
        """`blocked_attention`."""

    def narrowed(self, dtype: torch.dtype) -> Plan:
        """With biases in `dtype`."""
        lowest = torch.finfo(dtype).min  # that of fp32 would become minus infinity, and an empty row NaN
        return Plan(self.spans, tuple(bias.clamp_min(lowest).to(dtype) for bias in self.biases))


@functools.cache
def _uncompiled() -> Callable[[Tensor, Tensor, Tensor, Plan], Tensor]:
    return cast(Any, torch.compiler.disable(blocked_attention))


def plan_blocks(
    mask: Tensor, scores: Tensor, rows: int, kv_heads: int, groups: int, window: int | None
) -> Plan:
    """Cut the attention of a batch.

    Args:
        mask: bool [B or 1, 1, T, T], True = attend, never to a later place.
        scores: the same as what is added to scores, in the compute dtype.
        rows: B.
        kv_heads: K.
        groups: G.
        window: of the layers, which `mask` respects.
    """
    length = mask.shape[-1]
    look = length >= _LOOK_FROM
    spans = seen_spans(mask.any(0)[0], groups) if look else query_spans(length, groups, window)
    biases: list[Tensor] = []
    for start, stop, low in spans:
        part = scores[:, :, start:stop, None, low:stop]
        wide = part.expand(rows, kv_heads, stop - start, groups, stop - low)
        biases.append(wide.reshape(rows * kv_heads, (stop - start) * groups, stop - low))
    return Plan(spans, tuple(biases))


def blocked_attention(q_BTHd: Tensor, k_BTKd: Tensor, v_BTKd: Tensor, plan: Plan) -> Tensor:
    """Softmax attention [B, T, H*d]; the heads of a group are rows of one product with their keys.

    Not compiled (`Plan.attend`): how it is cut depends on the batch, and the gradient written here is as
    fast. Autocast would compute the parts of it in different dtypes: its dtype is taken for all.
    """
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        q, k, v = (x.to(dtype) for x in (q_BTHd, k_BTKd, v_BTKd))
        with torch.autocast("cpu", enabled=False):
            return blocked_attention(q, k, v, plan.narrowed(dtype))
    return _Blocked.apply(q_BTHd, k_BTKd, v_BTKd, plan.spans, *plan.biases)  # pyright: ignore[reportReturnType]


def _pack(x_BTHd: Tensor, kv_heads: int) -> Tensor:
    """[B, T, H, d] -> [N, T*G, d]."""
    split = x_BTHd.unflatten(2, (kv_heads, -1)).permute(0, 2, 1, 3, 4)
    return split.reshape(x_BTHd.shape[0] * kv_heads, -1, x_BTHd.shape[-1])


def _spread(x_NTd: Tensor, rows: int, length: int) -> Tensor:
    """The inverse of `_pack`, as a view: [N, T*G, d] -> [B, T, K, G, d]."""
    kv_heads, dim = x_NTd.shape[0] // rows, x_NTd.shape[-1]
    return x_NTd.view(rows, kv_heads, length, -1, dim).permute(0, 2, 1, 3, 4)


def _attend(
    q_BTHd: Tensor, k_BTKd: Tensor, v_BTKd: Tensor, spans: tuple[Span, ...], biases: tuple[Tensor, ...]
) -> tuple[Tensor, list[Tensor]]:
    """The output [B, T, H*d], and for each block what backward needs: its q, k, v and probabilities.

    Every block is packed by itself: products of bf16 copy what does not lie together, so a slice of a packed
    whole would be copied twice.
    """
    rows, dim, kv_heads = q_BTHd.shape[0], q_BTHd.shape[3], k_BTKd.shape[2]
    outs, kept = list[Tensor](), list[Tensor]()
    for (start, stop, low), bias in zip(spans, biases, strict=True):
        q = _pack(q_BTHd[:, start:stop], kv_heads)
        k, v = _pack(k_BTKd[:, low:stop], kv_heads), _pack(v_BTKd[:, low:stop], kv_heads)
        probs = torch.baddbmm(bias, q, k.transpose(1, 2), alpha=dim**-0.5).softmax(-1)
        outs.append(_spread(torch.bmm(probs, v), rows, stop - start))
        kept += [q, k, v, probs]
    return torch.cat(outs, 1).flatten(2), kept


class _Blocked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q_BTHd: Tensor, k_BTKd: Tensor, v_BTKd: Tensor, spans: tuple[Span, ...], *biases: Tensor
    ) -> Tensor:
        out, kept = _attend(q_BTHd, k_BTKd, v_BTKd, spans, biases)
        ctx.save_for_backward(*kept)
        ctx.spans, ctx.kv_heads, ctx.dim = spans, k_BTKd.shape[2], q_BTHd.shape[3]
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        kept, out_BTHd = ctx.saved_tensors, grads[0].unflatten(2, (-1, ctx.dim))
        rows, length, dim = out_BTHd.shape[0], out_BTHd.shape[1], ctx.dim
        wide = torch.promote_types(out_BTHd.dtype, torch.float32)  # many blocks add to the first keys
        grad_k = torch.zeros(rows, ctx.kv_heads, length, dim, dtype=wide, device=out_BTHd.device)
        grad_v, grad_q = torch.zeros_like(grad_k), list[Tensor]()
        for number, (start, stop, low) in enumerate(ctx.spans):
            q, k, v, probs = kept[4 * number : 4 * number + 4]
            out = _pack(out_BTHd[:, start:stop], ctx.kv_heads)
            weight = torch.bmm(out, v.transpose(1, 2))
            scores = torch.ops.aten._softmax_backward_data(weight, probs, -1, probs.dtype)
            grad_q.append(_spread(torch.bmm(scores, k), rows, stop - start))
            shape = (rows, ctx.kv_heads, stop - low, dim)
            grad_k[:, :, low:stop] += torch.bmm(scores.transpose(1, 2), q).view(shape)
            grad_v[:, :, low:stop] += torch.bmm(probs.transpose(1, 2), out).view(shape)
        found = (grad_k.mul_(dim**-0.5), grad_v)
        keys_values = [x.transpose(1, 2).to(out_BTHd.dtype) for x in found]
        queries = torch.cat(grad_q, 1).flatten(2, 3).mul_(dim**-0.5)
        return queries, *keys_values, None, *(None for _ in ctx.spans)
