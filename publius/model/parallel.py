"""How a model is laid out over a cluster, by stated rules, and what its devices then say to each other.

The rules, in this order:

1. Every data-parallel rank trains at least one row a step, so ranks x row length is at most one and a half
   times the batch that was asked for (which is then rounded to whole rows on every rank).
2. Tensor parallelism stays inside a node, is 1, 2, 4 or 8, and divides the key/value heads.
3. Context parallelism (2, 4, ... 64 devices a row) only when no layout without it fits.
4. State is sharded over some or all ranks (FSDP) and repeated over the rest (HSDP); a rank trains as many
   rows at a time as it holds.
5. Of all that fits, the layout with the least estimated time a token (of equals, the fewest devices in a
   tensor-parallel group, then activations kept, then the fewest shards): arithmetic (a third more when blocks
   are recomputed) or the messages that hide behind it, whichever is longer, and tensor parallelism's
   messages, which do not hide.

Pipeline parallelism is not used. This file plans; it shards nothing.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from publius.core.errors import UserError
from publius.model.config import ModelConfig
from publius.model.memory import Memory, training_memory
from publius.model.transformer import Transformer
from publius.pipeline.hardware import Cluster

__all__ = ["Communication", "Layout", "choose_layout", "communication", "meta_model"]

_TENSOR = (1, 2, 4, 8)
_CONTEXT = (1, 2, 4, 8, 16, 32, 64)
_BATCH_SLACK = 1.5


def meta_model(config: ModelConfig) -> Transformer:
    """The model with shapes and no storage: 230B parameters construct in well under a second."""
    with torch.device("meta"):
        return Transformer(config)


class Layout(NamedTuple):
    """One way to use every device. `tensor` x `context` devices are one data-parallel rank."""

    shards: int
    """Devices (of one tensor-parallel place) that share a copy of the state; context ranks count."""
    replicas: int
    """Copies of the state: 1 is plain FSDP."""
    tensor: int
    context: int
    rows: int
    """Rows a rank trains at a time."""
    accumulation: int
    """Times it does so in a step."""
    recompute: bool
    batch_tokens: int
    """Of the whole cluster, in whole rows on every rank."""
    memory: Memory
    """Of one device."""

    @property
    def ranks(self) -> int:
        """Data-parallel ranks."""
        return self.shards * self.replicas // self.context

    def describe(self) -> str:
        """In words."""
        kind = "one copy of the state on each device" if self.shards == 1 else f"FSDP over {self.shards}"
        parts = [
            kind
            if self.replicas == 1 or self.shards == 1
            else f"HSDP, {self.replicas} copies over {self.shards} each"
        ]
        parts += [f"tensor parallel {self.tensor}"] if self.tensor > 1 else []
        parts += [f"context parallel {self.context}"] if self.context > 1 else []
        parts.append(f"{self.ranks} x {self.rows} rows x {self.accumulation} a step")
        parts.append("blocks recomputed" if self.recompute else "activations kept")
        return ", ".join(parts)


class Communication(NamedTuple):
    """What one device sends in one step, and how long that takes at the links' rated speed."""

    state_bytes: float
    """Weights gathered for forward and for backward (bf16), gradients scattered (fp32), every micro-batch;
    and once a step the gradients summed over the replicas."""
    tensor_bytes: float
    context_bytes: float
    hidden_seconds: float
    """State and context messages: they run beside the arithmetic."""
    exposed_seconds: float
    """Tensor-parallel messages: the next product waits for them."""


def communication(
    config: ModelConfig, layout: Layout, cluster: Cluster, sequence_length: int
) -> Communication:
    """Messages of a step under `layout` on `cluster`, per device.

    A gather that spans nodes enters each node once, over the ports of all its members there.
    """
    link, port, node = cluster.hardware.link_bytes, cluster.hardware.network_bytes, cluster.hardware.node
    parameters = config.parameters() / layout.tensor
    again = 1 if layout.recompute else 0
    others = (layout.shards - 1) / layout.shards
    gathered = layout.accumulation * parameters * (2 + 2 + 4) * others
    members = max(1, min(node // layout.tensor, layout.shards))
    wide = layout.tensor * layout.shards > node
    seconds = gathered / (min(link, port * members) if wide else link)
    summed = 2 * 4 * parameters / layout.shards * (layout.replicas - 1) / layout.replicas
    seconds += summed / (link if layout.tensor * layout.shards * layout.replicas <= node else port)
    tokens = layout.rows * layout.accumulation * sequence_length / layout.context
    away = (layout.tensor - 1) / layout.tensor
    tensor = config.layers * (8 + 4 * again) * 2 * tokens * config.hidden_size * away
    keys = 2 * config.kv_heads * config.head_dim / layout.tensor
    context = config.layers * (3 + again) * 2 * tokens * keys * (layout.context - 1)
    seconds += context / (link if layout.tensor * layout.context <= node else port)
    return Communication(gathered + summed, tensor, context, seconds, tensor / link)


def choose_layout(
    config: ModelConfig, cluster: Cluster, *, batch_tokens: int, sequence_length: int, mfu: float
) -> Layout:
    """The layout that the rules above give.

    Args:
        config: the model's shape.
        cluster: the devices; all are used.
        batch_tokens: tokens a step, wanted.
        sequence_length: tokens in a row.
        mfu: expected share of peak, to weigh arithmetic against messages.

    Raises:
        UserError: when nothing fits, with what would.
    """
    found = _search(config, cluster, batch_tokens, sequence_length, mfu)
    if found is None:
        raise _refusal(config, cluster, batch_tokens, sequence_length, mfu)
    return found


def _search(
    config: ModelConfig, cluster: Cluster, batch_tokens: int, length: int, mfu: float
) -> Layout | None:
    for context in _CONTEXT:
        if context > 1 and length % (2 * context):
            return None
        fitting = [
            layout
            for tensor in _TENSOR
            if tensor <= cluster.hardware.node and config.kv_heads % tensor == 0
            for layout in _fitting(config, cluster, batch_tokens, length, tensor, context)
        ]
        if fitting:
            return min(fitting, key=lambda each: _seconds(config, each, cluster, length, mfu))
    return None


def _fitting(
    config: ModelConfig, cluster: Cluster, batch_tokens: int, length: int, tensor: int, context: int
) -> list[Layout]:
    """Layouts with these two sizes that fit, fewest shards first, each with as many rows as it holds."""
    ranks, left = divmod(cluster.devices, tensor * context)
    if left or ranks == 0 or ranks * length > _BATCH_SLACK * batch_tokens:
        return []
    rows_a_rank = max(1, round(batch_tokens / length / ranks))
    layouts: list[Layout] = []
    for recompute in (False, True):
        for shards in _divisors(ranks * context):
            sizes = {
                rows: training_memory(
                    config, sequence_length=length, rows=rows, shards=shards, tensor=tensor, context=context,
                    recompute=recompute, device_bytes=cluster.hardware.memory_bytes,
                )
                for rows in _divisors(rows_a_rank)
            }  # fmt: skip
            fits = [rows for rows, memory in sizes.items() if memory.total <= cluster.hardware.memory_bytes]
            if fits:
                rows = max(fits)
                layouts.append(
                    Layout(
                        shards, ranks * context // shards, tensor, context, rows, rows_a_rank // rows,
                        recompute, rows_a_rank * ranks * length, sizes[rows],
                    )
                )  # fmt: skip
    return layouts


def _seconds(config: ModelConfig, layout: Layout, cluster: Cluster, length: int, mfu: float) -> float:
    """Estimated time for a token, rule 5."""
    said = communication(config, layout, cluster, length)
    flops = config.flops_per_token(length) * layout.batch_tokens / cluster.devices
    work = flops / (mfu * cluster.hardware.peak_flops) * (4 / 3 if layout.recompute else 1)
    return (max(work, said.hidden_seconds) + said.exposed_seconds) / layout.batch_tokens


def _divisors(number: int) -> list[int]:
    low = [each for each in range(1, math.isqrt(number) + 1) if number % each == 0]
    return sorted({*low, *(number // each for each in low)})


def _refusal(config: ModelConfig, cluster: Cluster, batch_tokens: int, length: int, mfu: float) -> UserError:
    """Why nothing fits, and the nearest number of devices with which something would."""
    row, where = cluster.hardware, f"{config.parameters() / 1e9:.3g}B weights on {cluster.name}"
    if length > _BATCH_SLACK * batch_tokens:
        return UserError(
            f"a batch of {batch_tokens:,} tokens is less than one row of {length:,}",
            where=where,
            fix="use shorter rows (--seq), or train on more tokens, with which the batch grows",
        )
    sizes = [row.node * 2**power for power in range(15)]
    if row.node == 8:
        sizes = [1, 2, 4, *sizes]
    good = [n for n in sizes if _search(config, Cluster(n, row), batch_tokens, length, mfu) is not None]
    larger = next((n for n in good if n > cluster.devices), None)
    smaller = next((n for n in reversed(good) if n < cluster.devices), None)
    smallest = training_memory(
        config, sequence_length=length, shards=cluster.devices, device_bytes=row.memory_bytes
    )
    if smallest.total <= row.memory_bytes or (smaller is not None and larger is None):
        sized = [f"at most {smaller}x{row.name}"] if smaller is not None else []
        sized += [f"{larger}x{row.name} (several to a row)"] if larger is not None else []
        return UserError(
            f"a batch of {batch_tokens:,} tokens has too few rows of {length:,} to give every rank one",
            where=where,
            fix=f"use {', or '.join([*sized, 'shorter rows (--seq)'])}",
        )
    if larger is not None:
        return UserError(
            f"no layout fits: {smallest.total / 1e9:,.0f} GB a device, {row.memory_bytes / 1e9:.0f} GB there"
            f" (one row of {length:,} tokens, state sharded over all, blocks recomputed)",
            where=where,
            fix=f"use at least {larger}x{row.name}, devices with more memory, or shorter rows (--seq)",
        )
    return UserError(
        f"no number of {row.name} holds one row of {length:,} tokens of this model",
        where=where,
        fix="use devices with more memory, or shorter rows (--seq)",
    )
