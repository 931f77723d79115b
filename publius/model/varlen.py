"""Attention document by document, by PyTorch's variable-length kernel (GPUs).

A file of its own because its import loads PyTorch's compiler, which takes seconds: `make_biases` imports it
when this kernel is chosen, and nothing else does.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from publius.model.packed import narrow

__all__ = ["attend_documents"]

_GROUPED: dict[str, Any] = (
    {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}
)
"""PyTorch 2.11 takes fewer key heads without being told so."""


def attend_documents(
    q_BTHd: Tensor, k_BTKd: Tensor, v_BTKd: Tensor, starts_N: Tensor, window: int | None
) -> Tensor:
    """Causal softmax attention [B, T, H*d] within documents, by FlashAttention over the flattened rows."""
    rows, length = q_BTHd.shape[:2]
    q, k, v = (x.flatten(0, 1) for x in narrow(q_BTHd, k_BTKd, v_BTKd))
    reach = -1 if window is None else window - 1  # theirs leaves the token itself out
    out: Any = varlen_attn(q, k, v, starts_N, starts_N, length, length, window_size=(reach, 0), **_GROUPED)
    return out.view(rows, length, -1)
