"""First weights with which looking back is learned in some hundred steps instead of never.

To find what followed the last time, a layer must carry each token to the place after it, and a later one must
look there for its own token and repeat what it finds (induction heads: Olsson et al. 2022, arXiv 2209.11895).
From random weights no part is of use without the others, so small models stay long where nothing is
gained. Two of the three are given here, after mimetic initialisation (Trockman and Kolter 2023,
arXiv 2305.09828), and training makes the third:

- heads of the first layer look one, two, three, ... places back, by the biases of their queries and keys
- in the layers above, what a head writes is what it read (its output is its values' transpose)
- embeddings are large enough to be told from what layers add

All of it is trained further like any other weights.
"""

from __future__ import annotations

import torch

from publius.core.errors import UserError
from publius.model.attention import Attention
from publius.model.transformer import Block, Transformer

__all__ = ["mimetic"]

_EMBEDDING = 0.1
"""Standard deviation, where the plain one is 0.02."""
_PAIRS = 4
"""Rotary pairs that tell distances: the fastest. Slow ones hardly tell one place from the next."""
_STRENGTH = 16.0
"""Scores at the place looked for, in nats; the places beside it have 83% of that."""
_CONTENT = 0.1
"""What is left of the first layer's random queries and keys."""
_COPY = 2.0
"""Size of the outputs made of values, in sizes of the random ones."""


@torch.no_grad()
def mimetic(model: Transformer) -> None:
    """Write these weights into a fresh model, in place.

    Raises:
        UserError: for a model without biases on queries and keys, or with norms on them.
    """
    config = model.config
    if not config.qkv_bias or config.qk_norm or 0 in config.no_rope_layers:
        raise UserError(
            "a mimetic start gives the first layer's queries and keys a direction of their own: it needs "
            "qkv_bias, no qk_norm, and rotary positions in layer 0",
            where="pretrain.model",
            fix="set qkv_bias (as Qwen2 has it), or leave mimetic out",
        )
    model.model.embed_tokens.weight.mul_(_EMBEDDING / 0.02)
    first, *above = (block.self_attn for block in model.model.layers if isinstance(block, Block))
    _look_back(first, config.rope_theta)
    for attention in above:
        _copy(attention)


def _look_back(attention: Attention, theta: float) -> None:
    """Key/value head j, and the query heads that share it, at the token j + 1 places before.

    Queries point along the first half of the fastest pairs, keys the same turned back by j + 1 places.
    """
    d, queries, keys = attention.head_dim, attention.heads, attention.kv_heads
    pairs = min(_PAIRS, d // 2)
    rates = theta ** (-torch.arange(pairs) * 2 / d)
    size = (_STRENGTH * d**0.5 / pairs) ** 0.5
    bias_q, bias_k = torch.zeros(queries, d), torch.zeros(keys, d)
    bias_q[:, :pairs] = size
    turns = torch.outer(torch.arange(1, keys + 1), rates)
    bias_k[:, :pairs], bias_k[:, d // 2 : d // 2 + pairs] = size * turns.cos(), size * turns.sin()
    both = torch.cat((bias_q.flatten(), bias_k.flatten()))
    attention.qkv_proj.bias[: len(both)] = both.to(attention.qkv_proj.bias)
    attention.qkv_proj.weight[: len(both)] *= _CONTENT


def _copy(attention: Attention) -> None:
    """The output of each query head is the transpose of the values it reads."""
    d, queries, keys = attention.head_dim, attention.heads, attention.kv_heads
    values = attention.qkv_proj.weight[(queries + keys) * d :].unflatten(0, (keys, d))
    written = values.repeat_interleave(queries // keys, 0).flatten(0, 1).T
    output = attention.o_proj.weight
    output.copy_(written * (_COPY * output.std() / written.std()))
