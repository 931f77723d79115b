"""What training keeps on one device, by part, in bytes. Arithmetic only: nothing is allocated.

Mixed precision as the training loop does it (weights and gradients in fp32, a bf16 copy that computes),
sharded as FSDP2 does: masters, gradients and moments evenly over `shards` (Rajbhandari et al. 2020,
ZeRO, arXiv 1910.02054, section 5), bf16 weights gathered a block at a time. Tensor parallelism is meant
with sequence-parallel norms, so it divides activations too (Korthikanti et al. 2022, arXiv 2205.05198,
section 4.2). Attention and norms are fused kernels, as on CUDA: no scores and no fp32 copies are kept.
"""

from __future__ import annotations

from typing import NamedTuple

from publius.model.config import ModelConfig

__all__ = ["LOGITS_ROWS", "Memory", "activation_bytes", "training_memory"]

LOGITS_ROWS = 512
"""Tokens whose logits are there at once (`publius.model.likelihood` computes the loss in such chunks)."""
_RESERVED = 0.1
"""Share of a device left to its context, communication buffers and a fragmented allocator (assumed)."""


class Memory(NamedTuple):
    """Bytes on one device."""

    masters: float
    """fp32 weights: 4 a parameter of this shard."""
    weights: float
    """The bf16 copy: all of it on an unsharded device; else two blocks and the embeddings, gathered."""
    gradients: float
    """fp32, sharded like the masters; and the bf16 gradients of what is gathered."""
    muon: float
    """One fp32 momentum for each matrix inside the blocks."""
    adamw: float
    """Two fp32 moments for every other weight."""
    activations: float
    """What backward needs of the rows in flight."""
    logits: float
    """One chunk of logits and its gradient, bf16."""
    optimizer: float
    """Muon's largest matrix, whole, while it is made orthogonal: after backward, without activations."""
    overhead: float

    @property
    def total(self) -> float:
        """The peak: activations and logits are gone when the optimizer works."""
        state = self.masters + self.weights + self.gradients + self.muon + self.adamw
        return state + max(self.activations + self.logits, self.optimizer) + self.overhead


def activation_bytes(config: ModelConfig, tokens: float, *, recompute: bool) -> float:
    """bf16 activations that backward needs of `tokens` tokens, on one undivided device.

    A block keeps, per token: its input, the normed input, the middle and the normed middle (4 D); rotated
    queries and keys, the fused product that they and the values come from, and the attended (3 (H + K) d);
    gate, up, silu(gate) and their product (4 F).
    With `recompute` only each block's input is kept, and one block at a time is made again.
    """
    wide, queries = config.hidden_size, (config.heads + config.kv_heads) * config.head_dim
    block = 4 * wide + 3 * queries + 4 * config.intermediate_size
    ends = 2 * wide  # embedded input of the first block, normed output of the last
    kept = config.layers * wide + block if recompute else config.layers * block
    return 2.0 * tokens * (kept + ends)


def training_memory(
    config: ModelConfig,
    *,
    sequence_length: int,
    rows: int = 1,
    shards: int = 1,
    tensor: int = 1,
    context: int = 1,
    recompute: bool = True,
    device_bytes: float = 80e9,
) -> Memory:
    """Memory of one device that trains `rows` rows at a time.

    Args:
        config: the model's shape.
        sequence_length: tokens in a row.
        rows: rows in flight on one data-parallel rank.
        shards: devices that share one copy of the state.
        tensor: devices that share each matrix product.
        context: devices that share each row.
        recompute: keep only block inputs and run each block again in backward.
        device_bytes: the device's memory, a tenth of which is reserved.
    """
    parameters, matrices = config.parameters(), config.layers * config.layer_matrices()
    share = tensor * shards
    embeddings = parameters - matrices
    gathered = parameters if shards == 1 else min(parameters, 2 * config.layer_matrices() + embeddings)
    tokens = rows * sequence_length / context
    largest = config.hidden_size * config.intermediate_size
    return Memory(
        masters=4 * parameters / share,
        weights=2 * gathered / tensor,
        gradients=4 * parameters / share + 2 * min(gathered, config.layer_matrices() + embeddings) / tensor,
        muon=4 * matrices / share,
        adamw=8 * embeddings / share,
        activations=activation_bytes(config, tokens, recompute=recompute) / tensor,
        logits=2 * 2 * min(tokens, LOGITS_ROWS) * config.vocab_size / tensor,
        optimizer=(4 + 3 * 2) * largest,
        overhead=_RESERVED * device_bytes,
    )
