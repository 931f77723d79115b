"""What a model would cost before anyone trains it: weights, memory, FLOPs, hours.

Nothing here shards anything yet. The largest presets are constructed on the meta device (shapes, no
storage) so that the numbers come from the real module tree, and planned.
"""

from __future__ import annotations

from typing import Any

import torch

from publius.model.config import ModelConfig
from publius.model.transformer import Transformer

__all__ = ["meta_model", "plan_model"]


def meta_model(config: ModelConfig) -> Transformer:
    """The model with shapes and no storage: 230B parameters construct in well under a second."""
    with torch.device("meta"):
        return Transformer(config)


def plan_model(
    config: ModelConfig,
    tokens: float,
    seq_len: int,
    *,
    flops_per_second: float = 989e12,
    utilisation: float = 0.4,
    device_bytes: float = 80e9,
) -> dict[str, Any]:
    """Predicted cost of training `config` on `tokens` tokens in rows of `seq_len`.

    Memory: fp32 master, fp32 gradient, bf16 copy, and optimizer moments (Muon keeps one fp32 moment
    per block matrix, AdamW two for the rest). Activations assume one row per device and every block
    recomputed in backward. `devices` is the fewest whose memory holds an even (ZeRO-3) split of the
    state beside one row's activations; hours are device-hours at `utilisation` of peak.

    Args:
        config: the model's shape.
        tokens: tokens to train on.
        seq_len: row length.
        flops_per_second: one device's peak (default: H100 SXM dense bf16).
        utilisation: the fraction of peak expected.
        device_bytes: one device's memory.
    """
    parameters = sum(p.numel() for p in meta_model(config).parameters())
    matrices = config.layers * config.layer_matrices()
    state = parameters * (4 + 4 + 2) + 4 * matrices + 8 * (parameters - matrices)
    widest = 2 * config.intermediate_size + 2 * config.hidden_size + 2 * config.heads * config.head_dim
    activations = 2 * seq_len * (config.layers * config.hidden_size + 2 * widest)
    flops = config.flops_per_token(seq_len) * tokens
    room = device_bytes * 0.9 - activations
    return {
        "parameters": parameters,
        "tokens": tokens,
        "flops": flops,
        "state_bytes": state,
        "activation_bytes": activations,
        "weight_bytes_bf16": 2 * parameters,
        "kv_bytes_per_token": 4 * config.layers * config.kv_heads * config.head_dim,
        "devices": max(1, -int(-state // room)) if room > 0 else None,
        "device_hours": flops / (flops_per_second * utilisation) / 3600,
    }
