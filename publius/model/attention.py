"""Grouped-query attention with rotary positions, and the masks it takes.

Shapes: B rows, T positions, D hidden, H query heads, K key/value heads, d head dimension.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask

from publius.model.blocked import Plan, plan_blocks
from publius.model.config import ModelConfig
from publius.model.fused import Fused
from publius.model.norm import RMSNorm
from publius.model.packed import (
    Kernel,
    Packing,
    attend_blocks,
    document_blocks,
    row_starts,
)
from publius.model.rope import DynamicRope, rotation

__all__ = ["Attention", "Bias", "Biases", "KVCache", "RotaryTable", "document_mask", "make_biases"]


class KVCache(Protocol):
    """What attention needs of a cache: keep this call's keys and values, return all to attend to."""

    def update(self, layer: int, k_BKTd: Tensor, v_BKTd: Tensor) -> tuple[Tensor, Tensor]:
        """Append to `layer` and return its full keys and values, oldest first."""
        ...


class RotaryTable:
    """cos and sin of every position, in fp32, made once per device (Su et al. 2021, arXiv 2104.09864).

    Not a buffer: `model.to(bfloat16)` must not round the angles, and a resized table is no weight.

    The dynamic variant turns every position by the length of the longest row of the call, once that is over
    `max_position`, as transformers does: such a table is made for the call and not kept.
    """

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._tables: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def _table(self, device: torch.device, dtype: torch.dtype, length: int) -> Tensor:
        """[2, positions, d/2] for rows of `length`."""
        c, key = self._config, (device, dtype)
        stretched = length > c.max_position
        if not stretched and key in self._tables:
            return self._tables[key]
        with torch.inference_mode(False):  # made there and kept, it could not be trained with afterwards
            turn = rotation(
                c.rope, c.rope_theta, c.head_dim, max_position=c.max_position, length=length, device=device
            )
            steps = torch.arange(max(length, c.max_position), dtype=torch.float32, device=device)
            angles = torch.outer(steps, turn.rates)
            table = (torch.stack((angles.cos(), angles.sin())) * turn.scale).to(dtype)
        if not stretched:
            self._tables[key] = table
        return table

    def at(self, tokens_BT: Tensor, positions_BT: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """cos and sin [B or 1, T, 1, d/2] for these positions (None: 0..T-1 in every row).

        Raises:
            ValueError: when a row without explicit positions is longer than `rotary_limit`.
        """
        width, limit = tokens_BT.shape[-1], self._config.rotary_limit
        if positions_BT is None and width > limit:
            raise ValueError(f"{width} positions, but max_position is {limit}")
        length = width if positions_BT is None else 0
        if isinstance(self._config.rope, DynamicRope) and positions_BT is not None:
            length = int(positions_BT.max()) + 1
        table = self._table(tokens_BT.device, dtype, length)
        picked = table[:, None, :width] if positions_BT is None else table[:, positions_BT]
        return picked[0].unsqueeze(2), picked[1].unsqueeze(2)


def rotate(x_BTHd: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (i, i + d/2) by its position's angle: the half-rotation layout of Llama in HF."""
    first, second = x_BTHd.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def document_mask(documents_BT: Tensor, first: int = 0, count: int | None = None) -> Tensor:
    """bool [B, 1, T, T], True = attend: causal, and within the same document of a packed row.

    With `first` and `count`, [B, 1, count, T]: the queries of those places only.
    """
    queries = documents_BT if count is None else documents_BT[:, first : first + count]
    same = queries[:, None, :, None] == documents_BT[:, None, None, :]
    return same.tril(first)


class Bias(NamedTuple):
    """What is added to attention scores, or what else says which of them count; made once per forward and
    shared by layers."""

    scores: Tensor | None
    """[B, 1, Tq, Tk] in the compute dtype; None is causal (within the layer's window, if it has one)."""
    plan: Plan | None = None
    """When given, attention is computed by blocks of queries."""
    blocks: BlockMask | None = None
    """When given, by FlexAttention."""
    starts: Tensor | None = None
    """When given, document by document (`Packing.starts_N`)."""
    attend: Callable[[Tensor, Tensor, Tensor, Tensor, int | None], Tensor] | None = None
    """How, then: `varlen.attend_documents`."""


class Biases(NamedTuple):
    """One for layers that see everything before a token, one for layers with a sliding window."""

    full: Bias
    windowed: Bias


_BLOCKED_LIMIT = 1024


def make_biases(
    mask: Tensor | None,
    x_BTD: Tensor,
    positions_BT: Tensor | None,
    config: ModelConfig,
    *,
    cached: bool,
    learns: bool = False,
    packing: Packing | None = None,
    kernel: Kernel = "sdpa",
) -> Biases:
    """The additive form of a bool mask, and the choice of how attention is computed.

    Masked places get the lowest finite number, so that a row with nothing to see gives no NaN. A window
    counts places in the row; over a cache, where only the end of the row is given, it counts positions.

    Training on CPU takes blocks of queries (`blocked`, measured there) for rows up to 1,024: beyond, what it
    keeps for backward grows too large, but in layers whose window is no longer. Everything else takes SDPA,
    but for training with a `kernel` that needs no dense mask (`packed`). A batch whose rows are one
    document each is plainly causal; on CPU only in rows over 1,024, so that shorter ones stay what they
    were to the bit.

    Args:
        mask: as `Transformer.hidden`.
        x_BTD: the embedded tokens.
        positions_BT: of them.
        config: of the model.
        learns: blocks learn though what they read (`x_BTD`) does not.
        cached: there are keys and values from before.
        packing: instead of a mask.
        kernel: for training.
    """
    length, window = x_BTD.shape[1], config.sliding_window
    training = torch.is_grad_enabled() and (x_BTD.requires_grad or learns) and not cached
    short = window is not None and not cached and length <= window
    if training and kernel != "sdpa" and mask is None:
        return _sparse(packing, x_BTD, None if short else window, kernel)
    on_cpu = x_BTD.device.type == "cpu"
    blocked = training and on_cpu and length <= _BLOCKED_LIMIT
    if packing is not None and not (packing.alone and not cached and (length > _BLOCKED_LIMIT or not on_cpu)):
        mask = document_mask(packing.documents_BT, packing.first, length)
    full = _bias(mask, x_BTD, config, blocked, None)
    if window is None or short:
        return Biases(full, full)
    if mask is not None:
        if cached and positions_BT is not None:
            keys = torch.arange(mask.shape[-1], device=mask.device)
            near = keys > positions_BT[:, None, :, None] - window
        else:
            near = _band(length, mask.shape[-1], window, mask.device)
        mask = mask & near
    elif not cached:
        mask = _band(length, length, window, x_BTD.device)
    near = blocked or (training and on_cpu and window <= _BLOCKED_LIMIT)
    return Biases(full, _bias(mask, x_BTD, config, near, window))


def _sparse(packing: Packing | None, x_BTD: Tensor, window: int | None, kernel: Kernel) -> Biases:
    """For a kernel that skips what is masked; `window` is None when no layer's is shorter than a row. What is
    plainly causal has no faster way than SDPA's."""
    rows, length = x_BTD.shape[:2]
    packed = None if packing is None or packing.alone else packing
    if kernel == "flex":
        documents = None if packed is None else packed.documents_BT
        make = lambda window: Bias(None, blocks=document_blocks(documents, length, window, x_BTD.device))  # noqa: E731
    else:
        starts = row_starts(rows, length, x_BTD.device) if packed is None else packed.starts_N
        if starts is None:
            raise ValueError("the varlen kernel needs a packing with starts_N")
        attend = importlib.import_module("publius.model.varlen").attend_documents  # see there
        make = lambda _: Bias(None, starts=starts, attend=attend)  # noqa: E731
    full = Bias(None) if packed is None else make(None)
    return Biases(full, full if window is None else make(window))


def _bias(mask: Tensor | None, x_BTD: Tensor, config: ModelConfig, blocked: bool, window: int | None) -> Bias:
    if not blocked:
        return Bias(None if mask is None else _additive(mask, x_BTD.dtype))
    rows, length = x_BTD.shape[:2]
    if mask is None:
        mask = _band(length, length, None, x_BTD.device)
    scores, groups = _additive(mask, x_BTD.dtype), config.heads // config.kv_heads
    return Bias(scores, plan_blocks(mask, scores, rows, config.kv_heads, groups, window))


def _band(queries: int, keys: int, window: int | None, device: torch.device) -> Tensor:
    """bool [1, 1, queries, keys]: causal, the last query at the last key, at most `window` keys each."""
    seen = torch.ones(1, 1, queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
    return seen if window is None else seen.triu(keys - queries - window + 1)


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    zeros = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return zeros.masked_fill_(~mask, torch.finfo(dtype).min)


class Attention(nn.Module):
    """Grouped-query attention (Ainslie et al. 2023, arXiv 2305.13245) over SDPA."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        self.window, self.rotary = config.window(layer), layer not in config.no_rope_layers
        self.heads, self.kv_heads = config.heads, config.kv_heads
        out, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
        rows = {"q_proj": out, "k_proj": kv, "v_proj": kv}
        self.qkv_proj = Fused(config.hidden_size, rows, bias=config.qkv_bias)
        self.o_proj = nn.Linear(out, config.hidden_size, bias=config.o_bias)
        self.q_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else None

    def forward(
        self, x_BTD: Tensor, cos: Tensor, sin: Tensor, biases: Biases, cache: KVCache | None
    ) -> Tensor:
        """x_BTD (normed) -> [B, T, D]."""
        rows, length, _ = x_BTD.shape
        qkv = self.qkv_proj(x_BTD).view(rows, length, -1, self.head_dim)
        qk, v = qkv.split((self.heads + self.kv_heads, self.kv_heads), dim=2)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = qk.split((self.heads, self.kv_heads), dim=2)
            qk = torch.cat((self.q_norm(q), self.k_norm(k)), dim=2)
        if self.rotary:
            qk = rotate(qk, cos, sin)
        q, k = qk.split((self.heads, self.kv_heads), dim=2)
        bias = biases.full if self.window is None else biases.windowed
        if bias.plan is not None:
            return self.o_proj(bias.plan.attend(q, k, v, bias.plan))
        if bias.blocks is not None:
            return self.o_proj(attend_blocks(q, k, v, bias.blocks))
        if bias.starts is not None and bias.attend is not None:
            return self.o_proj(bias.attend(q, k, v, bias.starts, self.window))
        q, k, v, mask = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), bias.scores
        if cache is not None:
            k, v = cache.update(self.layer, k, v)
        keys = k.shape[2]
        outside = self.window is not None and keys > self.window
        if mask is None and (1 < length < keys or (cache is not None and outside)):
            mask = _additive(_band(length, keys, self.window, q.device), q.dtype)
        if length == 1:  # decoding: query heads that share a key head become the rows of one product
            grouped = q.reshape(rows, k.shape[1], -1, self.head_dim)
            out = F.scaled_dot_product_attention(grouped, k, v, attn_mask=mask)
            return self.o_proj(out.reshape(rows, 1, -1))
        causal = mask is None and length == keys
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=True)
        return self.o_proj(out.transpose(1, 2).reshape(rows, length, -1))
