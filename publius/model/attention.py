"""Grouped-query attention with rotary positions, and the masks it takes.

Shapes: B rows, T positions, D hidden, H query heads, K key/value heads, d head dimension.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from publius.model.config import ModelConfig

__all__ = ["Attention", "Bias", "KVCache", "RotaryTable", "document_mask", "make_bias"]


class KVCache(Protocol):
    """What attention needs of a cache: keep this call's keys and values, return all to attend to."""

    def update(self, layer: int, k_BKTd: Tensor, v_BKTd: Tensor) -> tuple[Tensor, Tensor]:
        """Append to `layer` and return its full keys and values, oldest first."""
        ...


class RotaryTable:
    """cos and sin of every position, in fp32, made once per device (Su et al. 2021, arXiv 2104.09864).

    Not a buffer: `model.to(bfloat16)` must not round the angles, and a resized table is no weight.
    """

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._tables: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def _table(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        key = (device, dtype)
        if key not in self._tables:
            half = torch.arange(0, self._config.head_dim, 2, dtype=torch.float32, device=device)
            rates = 1.0 / (self._config.rope_theta ** (half / self._config.head_dim))
            steps = torch.arange(self._config.max_position, dtype=torch.float32, device=device)
            angles = torch.outer(steps, rates)
            self._tables[key] = torch.stack((angles.cos(), angles.sin())).to(dtype)
        return self._tables[key]

    def at(self, tokens_BT: Tensor, positions_BT: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """cos and sin [B or 1, T, 1, d/2] for these positions (None: 0..T-1 in every row).

        Raises:
            ValueError: when a row without explicit positions is longer than `max_position`.
        """
        length = tokens_BT.shape[-1]
        if positions_BT is None and length > self._config.max_position:
            raise ValueError(f"{length} positions, but max_position is {self._config.max_position}")
        table = self._table(tokens_BT.device, dtype)
        picked = table[:, None, :length] if positions_BT is None else table[:, positions_BT]
        return picked[0].unsqueeze(2), picked[1].unsqueeze(2)


def rotate(x_BTHd: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (i, i + d/2) by its position's angle: the half-rotation layout of Llama in HF."""
    first, second = x_BTHd.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def document_mask(documents_BT: Tensor) -> Tensor:
    """bool [B, 1, T, T], True = attend: causal, and within the same document of a packed row."""
    same = documents_BT[:, None, :, None] == documents_BT[:, None, None, :]
    return same.tril()


class Bias(NamedTuple):
    """What is added to attention scores; made once per forward and shared by every layer."""

    scores: Tensor | None
    """[B, 1, Tq, Tk] in the compute dtype; None is causal."""
    dense: Tensor | None
    """[B*K, H/K*T, T]: when set, scores are computed whole, by two matrix products (see `make_bias`)."""


_DENSE_LIMIT = 384


def make_bias(mask: Tensor | None, x_BTD: Tensor, config: ModelConfig, *, cached: bool) -> Bias:
    """The additive form of a bool mask, and the choice of how attention is computed.

    Masked places get the lowest finite number, so that a row with nothing to see gives no NaN.

    Training in bf16 on CPU takes the dense way for rows up to 384: SDPA's fused CPU kernel has a slow
    bf16 backward (measured on 2,048 tokens, 6 heads of 32, one core, forward and backward: rows of 128
    25 ms against 5; of 256, 23 against 11; of 512, equal). Everything else takes SDPA.
    """
    rows, length = x_BTD.shape[:2]
    training = torch.is_grad_enabled() and x_BTD.requires_grad and not cached
    slow = x_BTD.device.type == "cpu" and x_BTD.dtype == torch.bfloat16
    if not (training and slow and length <= _DENSE_LIMIT):
        return Bias(None if mask is None else _additive(mask, x_BTD.dtype), None)
    if mask is None:
        mask = torch.ones(rows, 1, length, length, dtype=torch.bool, device=x_BTD.device).tril()
    scores = _additive(mask, x_BTD.dtype)
    groups = config.heads // config.kv_heads
    dense = scores[:, :, None].expand(rows, config.kv_heads, groups, length, length)
    return Bias(scores, dense.reshape(rows * config.kv_heads, groups * length, length))


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    zeros = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return zeros.masked_fill_(~mask, torch.finfo(dtype).min)


def _dense_attention(q_BTHd: Tensor, k_BTKd: Tensor, v_BTKd: Tensor, bias: Tensor) -> Tensor:
    """Plain softmax attention [B, T, H*d]; the heads of a group are rows of one product with its keys."""
    rows, length, heads, dim = q_BTHd.shape
    kv_heads = k_BTKd.shape[2]
    groups = heads // kv_heads
    q = q_BTHd.view(rows, length, kv_heads, groups, dim).permute(0, 2, 3, 1, 4)
    q = q.reshape(rows * kv_heads, groups * length, dim)
    k = k_BTKd.transpose(1, 2).reshape(rows * kv_heads, length, dim)
    v = v_BTKd.transpose(1, 2).reshape(rows * kv_heads, length, dim)
    scores = torch.baddbmm(bias, q, k.transpose(1, 2), alpha=dim**-0.5)
    out = torch.bmm(scores.softmax(-1), v).view(rows, kv_heads, groups, length, dim)
    return out.permute(0, 3, 1, 2, 4).reshape(rows, length, heads * dim)


class Attention(nn.Module):
    """Grouped-query attention (Ainslie et al. 2023, arXiv 2305.13245) over SDPA."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, config.heads * config.head_dim, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, config.kv_heads * config.head_dim, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, config.kv_heads * config.head_dim, bias=False)
        self.o_proj = nn.Linear(config.heads * config.head_dim, config.hidden_size, bias=False)

    def forward(self, x_BTD: Tensor, cos: Tensor, sin: Tensor, bias: Bias, cache: KVCache | None) -> Tensor:
        """x_BTD (normed) -> [B, T, D]."""
        rows, length, _ = x_BTD.shape
        split = (rows, length, -1, self.head_dim)
        q = rotate(self.q_proj(x_BTD).view(split), cos, sin)
        k = rotate(self.k_proj(x_BTD).view(split), cos, sin)
        v = self.v_proj(x_BTD).view(split)
        if bias.dense is not None:
            return self.o_proj(_dense_attention(q, k, v, bias.dense))
        q, k, v, mask = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), bias.scores
        if cache is not None:
            k, v = cache.update(self.layer, k, v)
        keys = k.shape[2]
        if mask is None and 1 < length < keys:  # causal over a cache: the last query sees the last key
            seen = torch.ones(length, keys, dtype=torch.bool, device=q.device)
            mask = _additive(seen.tril(keys - length), q.dtype)
        if length == 1:  # decoding: query heads that share a key head become the rows of one product
            out = F.scaled_dot_product_attention(
                q.view(rows, k.shape[1], -1, self.head_dim), k, v, attn_mask=mask
            )
            return self.o_proj(out.reshape(rows, 1, -1))
        causal = mask is None and length == keys
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=True)
        return self.o_proj(out.transpose(1, 2).reshape(rows, length, -1))
