"""What training a model would take, before anyone does: memory, layout, FLOPs, hours, energy, money.

Nothing runs. Every number is arithmetic over a shape, a table of machines and an expected share of their
peak, and the plan prints all three. Held against published runs in docs/training.md.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple, cast

from publius.core.errors import UserError
from publius.model.config import ModelConfig, Scale, Tier, preset
from publius.model.hf_config import config_from_hf
from publius.model.memory import training_memory
from publius.model.parallel import Communication, Layout, choose_layout, communication
from publius.pipeline.hardware import PUE, Cluster
from publius.training.pretrain import ASSUMED_VOCABULARY
from publius.training.scaling import Derived, derive

__all__ = ["TrainingPlan", "plan_training", "read_model", "tier_shape"]

_EXPOSED_LIMIT = 0.25
"""Tensor-parallel messages above this share of the arithmetic are warned of."""


class TrainingPlan(NamedTuple):
    """A plan; hours are of arithmetic at `mfu`, without restarts, evaluation and idle time."""

    config: ModelConfig
    derived: Derived
    cluster: Cluster
    layout: Layout
    communication: Communication
    mfu: float
    mfu_source: str
    flops: float
    hours: float
    device_hours: float
    kwh: float
    dollars: float
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        layout = self.layout._asdict() | {
            "memory": self.layout.memory._asdict() | {"total": self.layout.memory.total},
            "ranks": self.layout.ranks,
        }
        return {
            "model": self.config.model_dump(),
            "parameters": self.config.parameters(),
            "derived": self.derived._asdict(),
            "cluster": {"devices": self.cluster.devices, "hardware": self.cluster.hardware._asdict()},
            "layout": layout,
            "memory_other_recompute": self._other_memory(),
            "communication": self.communication._asdict(),
            "mfu": self.mfu,
            "mfu_source": self.mfu_source,
            "pue": PUE,
            "flops_per_token": self.config.flops_per_token(self.derived.sequence_length),
            "flops": self.flops,
            "hours": self.hours,
            "device_hours": self.device_hours,
            "kwh": self.kwh,
            "dollars": self.dollars,
            "warnings": list(self.warnings),
        }

    def _other_memory(self) -> dict[str, float]:
        """The peak under this layout, if blocks were recomputed where they are not, or the other way."""
        at, row = self.layout, self.cluster.hardware
        memory = training_memory(
            self.config, sequence_length=self.derived.sequence_length, rows=at.rows, shards=at.shards,
            tensor=at.tensor, context=at.context, recompute=not at.recompute, device_bytes=row.memory_bytes,
        )  # fmt: skip
        return {"activations": memory.activations, "total": memory.total}

    def text(self) -> str:
        """For people: sizes, memory by part, layout, time, cost, and everything that was assumed."""
        return "\n".join([*self._size_lines(), *self._memory_lines(), *self._cost_lines()])

    def _size_lines(self) -> list[str]:
        c, d = self.config, self.derived
        return [
            f"model     {_count(c.parameters())} weights: {c.layers} layers of {c.hidden_size},"
            f" {c.heads} heads ({c.kv_heads} key/value), feed-forward {c.intermediate_size},"
            f" vocabulary {c.vocab_size:,}",
            f"tokens    {_count(d.tokens)}: {d.steps:,} steps of {d.batch_tokens:,},"
            f" rows of {d.sequence_length:,}",
            f"rates     Muon {d.muon_lr:.2g}, AdamW {d.adamw_lr:.2g}, warm-up {d.warmup} steps,"
            f" decay over the last {d.decay_fraction:.0%} (rules: publius/training/scaling.py)",
            f"cluster   {self.cluster.name}",
            f"layout    {self.layout.describe()}; no pipeline (rules: publius/model/parallel.py)",
        ]

    def _memory_lines(self) -> list[str]:
        memory, other = self.layout.memory, self._other_memory()
        names = {
            "masters": "fp32 weights",
            "weights": "bf16 weights",
            "gradients": "gradients",
            "muon": "Muon's moments",
            "adamw": "AdamW's moments",
            "activations": "activations, recomputed" if self.layout.recompute else "activations, kept",
            "logits": "logits, one chunk",
            "optimizer": "Muon at work, after backward",
            "overhead": "reserved",
        }
        lines = [f"  {names[part]:<30}{size / 1e9:9.2f} GB" for part, size in memory._asdict().items()]
        room = self.cluster.hardware.memory_bytes / 1e9
        lines.append(f"  {'peak':<30}{memory.total / 1e9:9.2f} GB of {room:.0f}")
        verb = "kept" if self.layout.recompute else "recomputed"
        lines.append(
            f"  were activations {verb}: {other['activations'] / 1e9:.2f} GB,"
            f" peak {other['total'] / 1e9:.2f} GB"
        )
        return ["memory of one device, at its peak (no key/value cache in training)", *lines]

    def _share(self) -> str:
        sustained, row = self.mfu * self.cluster.hardware.peak_flops, self.cluster.hardware
        if row.flops == row.peak_flops == sustained:  # no peak is known
            return f"{sustained:.3g} FLOP/s sustained"
        return f"{self.mfu:.1%} of {row.peak_flops:.4g} FLOP/s"

    def _cost_lines(self) -> list[str]:
        c, row, length = self.config, self.cluster.hardware, self.derived.sequence_length
        said = self.communication
        matrices = c.layers * c.layer_matrices() + c.vocab_size * c.hidden_size
        work = self.hours * 3600 / self.derived.steps
        return [
            f"FLOPs     {self.flops:.4g} = tokens x (6 x {matrices:.4g} weights in products"
            f" + 6 x {c.layers} layers x {c.heads * c.head_dim} x {length:,});"
            " the causal half of attention, counted once",
            f"messages  {said.hidden_seconds:.3g} s beside {work:.3g} s of arithmetic a step,"
            f" and {said.exposed_seconds:.3g} s of tensor parallelism's in it",
            f"time      {self.hours:,.4g} hours, {self.device_hours:,.4g} device-hours",
            f"energy    {self.kwh:,.4g} kWh",
            f"cost      ${self.dollars:,.4g}",
            f"assumed   {self._share()} ({self.mfu_source}); {row.watts:.0f} W a device"
            f" x {PUE} for the building; ${row.dollars_per_hour:.2f} a device-hour;"
            f" links {row.link_bytes / 1e9:.0f} GB/s in a node of {row.node},"
            f" {row.network_bytes / 1e9:.4g} GB/s out of it; no restarts, no idle time",
            *(f"warning   {warning}" for warning in self.warnings),
        ]


def plan_training(
    config: ModelConfig,
    tokens: float | None,
    cluster: Cluster,
    *,
    sequence_length: int | None = None,
    mfu: float | None = None,
    mfu_source: str = "",
) -> TrainingPlan:
    """Plan training `config` on `tokens` tokens (None: 20 a weight) on all of `cluster`.

    Args:
        config: the model's shape.
        tokens: tokens to train on.
        cluster: devices and their kind.
        sequence_length: tokens in a row; None is the model's own, or what the batch holds four of.
        mfu: expected share of the devices' peak; None is the table's.
        mfu_source: where `mfu` is from, for the print.

    Raises:
        UserError: for rows longer than the model takes, an impossible share, or when nothing fits.
    """
    if mfu is not None and not 0 < mfu <= 1:
        raise UserError(f"an MFU of {mfu:g}", where="--mfu", fix="give a share of peak between 0 and 1: 0.4")
    if sequence_length is not None and not 2 <= sequence_length <= config.max_position:
        raise UserError(
            f"rows of {sequence_length:,} tokens, but the model takes 2 to {config.max_position:,}",
            where="--seq",
            fix="shorten the rows, or give the model a larger max_position",
        )
    row = cluster.hardware
    source = mfu_source or ("as given" if mfu is not None else f"the table's, for {row.name}")
    share = row.mfu if mfu is None else mfu
    derived = derive(config, tokens, sequence_length=sequence_length)
    length = derived.sequence_length
    layout = choose_layout(
        config, cluster, batch_tokens=derived.batch_tokens, sequence_length=length, mfu=share
    )
    derived = derived._replace(
        batch_tokens=layout.batch_tokens, steps=max(1, round(derived.tokens / layout.batch_tokens))
    )
    said = communication(config, layout, cluster, length)
    flops = config.flops_per_token(length) * derived.tokens
    device_hours = flops / (row.peak_flops * share) / 3600
    hours = device_hours / cluster.devices
    return TrainingPlan(
        config, derived, cluster, layout, said, share, source, flops, hours, device_hours,
        device_hours * row.watts / 1000 * PUE, device_hours * row.dollars_per_hour,
        tuple(_warnings(layout, said, hours, derived.steps)),
    )  # fmt: skip


def _warnings(layout: Layout, said: Communication, hours: float, steps: int) -> list[str]:
    work = hours * 3600 / steps
    warnings: list[str] = []
    if said.hidden_seconds > work:
        slower = said.hidden_seconds / work
        warnings.append(
            f"communication bound: messages take {slower:.2g} times the arithmetic,"
            f" so expect {hours * slower:,.4g} hours; more tokens a rank would help"
            " (a larger batch, fewer devices, more memory)"
        )
    if said.exposed_seconds > _EXPOSED_LIMIT * work:
        warnings.append(
            f"tensor parallelism's messages are {said.exposed_seconds / work:.0%} of the arithmetic"
        )
    if layout.recompute:
        warnings.append(
            "blocks are recomputed, a third more arithmetic than the FLOPs count: an MFU that was measured"
            " without would be lower"
        )
    return warnings


def _count(number: float) -> str:
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6)):
        if number >= size:
            return f"{number / size:.4g}{unit}"
    return f"{number:,.0f}"


def tier_shape(tier: str, scale: str, vocab_size: int | None = None) -> ModelConfig:
    """The family's `tier` at `scale`; without a vocabulary the usual one of its scale is assumed.

    Raises:
        UserError: for an unknown tier or scale, or no vocabulary.
    """
    if vocab_size is not None and vocab_size < 1:
        raise UserError(f"a vocabulary of {vocab_size}", where="--vocab", fix="give at least 1")
    known = cast("Scale", scale)
    return preset(cast("Tier", tier), known, vocab_size or ASSUMED_VOCABULARY.get(known, 1))


def read_model(path: Path) -> ModelConfig:
    """The shape in a Hugging Face `config.json`, or in the folder that holds one.

    Raises:
        UserError: when it cannot be read, or is of another family.
    """
    file = path / "config.json" if path.is_dir() else path
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(
            f"no model config could be read: {error}",
            where=str(file),
            fix="give a checkpoint folder or its config.json",
        ) from error
    if not isinstance(raw, dict):
        raise UserError("the model config is not a JSON object", where=str(file), fix="give a config.json")
    return config_from_hf(raw, where=str(file))
