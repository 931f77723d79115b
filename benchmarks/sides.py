"""One training case, run by us or by transformers: the same shapes, first weights, data, rates and steps.

Ours is the real loop (`publius.training.loop`) on packed rows: batches, masks, guard, clipping, log and all.
Transformers' side is `LlamaForCausalLM` (SDPA) with torch's fused AdamW, as its users write it, its batches
made beforehand. It reads the same rows, so the same tokens, but as one causal stretch: documents see those
before them, which is less work than a mask. With `masked` it gets positions and a 4-D mask, and then its
loss must be ours.
"""

from __future__ import annotations

import contextlib
import gc
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from harness import MarkedRun, Memory, windows
from pydantic import Field
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from publius.core.config import Config
from publius.model import ModelConfig
from publius.model.attention import document_mask
from publius.model.fused import split_weights
from publius.model.hf_config import config_to_hf
from publius.model.packed import Kernel
from publius.model.transformer import Transformer
from publius.training.batches import Batch, Example, PackedBatches
from publius.training.language import LanguageConfig, language_loss
from publius.training.loop import train_loop
from publius.training.optimizer import OptimizerConfig, schedule

__all__ = [
    "Case",
    "batches_of",
    "documents",
    "mean_context",
    "outcome",
    "peer_model",
    "rates",
    "real_tokens",
    "time_steps",
    "train",
]


class Case(Config):
    """What is trained, by whom, and how it is timed."""

    side: Literal["ours", "hf", "nanochat"]
    shape: ModelConfig
    sequence_length: int
    rows: int
    dtype: Literal["float32", "autocast", "bfloat16"] = "bfloat16"
    """`bfloat16` is a bf16 copy of fp32 weights for us, bf16 weights and moments for transformers."""
    compiled: bool = False
    """Ours: each block. Theirs: the whole model."""
    blocks: bool = False
    """(hf) Compile each block instead: outside of them its causal mask is seen to be one, and left out."""
    muon: bool = False
    """Muon for the matrices; else AdamW for all."""
    masked: bool = False
    """(hf) Packed rows as ours: positions and a 4-D mask."""
    recompute: bool = False
    """(ours) Blocks are computed again in backward."""
    attention: Kernel = "sdpa"
    """(ours) What computes attention."""
    alone: bool = False
    """Every row is one document."""
    device: str = "cpu"
    warm: int = Field(default=3, ge=1)
    windows: int = Field(default=5, ge=1)
    per_window: int = Field(default=3, ge=1)
    adamw_lr: float = 0.0007
    """Low enough that no mode of 30M weights spikes in its first steps (at 0.002 some did, by luck)."""
    muon_lr: float = 0.01
    seed: int = 0
    path: str = ""
    """(nanochat) The checkout."""

    @property
    def steps(self) -> int:
        """In all."""
        return self.warm + self.windows * self.per_window

    @property
    def mode(self) -> str:
        """A name for tables."""
        words = [self.dtype, "compiled" if self.compiled else "blocks" if self.blocks else "eager"]
        words += [] if self.attention == "sdpa" else [self.attention]
        named = {"Muon": self.muon, "mask": self.masked, "recomputed": self.recompute, "alone": self.alone}
        return " ".join(words + [word for word, holds in named.items() if holds])


def documents(vocab: int, tokens: int, median: int, seed: int) -> list[Example]:
    """At least `tokens` tokens of made-up text that can be learned, in documents of log-normal length.

    Words come by Zipf's law; after each, a fixed other word follows half of the time.
    """
    rng = np.random.default_rng(seed)
    follows = rng.permutation(vocab)
    table = np.empty((8, vocab), np.int64)
    table[0] = np.arange(vocab)
    for i in range(1, len(table)):
        table[i] = follows[table[i - 1]]
    words = (vocab ** rng.random(tokens)).astype(np.int64) - 1
    starts = rng.random(tokens) < 0.5
    starts[0] = True
    places = np.arange(tokens)
    last = np.maximum.accumulate(np.where(starts, places, 0))
    ids = table[(places - last) % len(table), words[last]]
    examples: list[Example] = []
    begin = 0
    while begin < tokens:
        length = int(np.clip(median * math.exp(rng.standard_normal()), 8, 4 * median))
        examples.append(Example(ids[begin : begin + length]))
        begin += length
    return examples


def batches_of(case: Case) -> PackedBatches:
    """The packed rows of a case: enough for one epoch."""
    places = case.steps * case.rows * case.sequence_length
    examples = documents(case.shape.vocab_size, places + places // 8, case.sequence_length // 2, case.seed)
    if case.alone:
        ids = np.concatenate([example.tokens for example in examples])
        width = case.sequence_length + 1
        examples = [Example(ids[begin : begin + width]) for begin in range(0, len(ids) - width + 1, width)]
    return PackedBatches(examples, sequence_length=case.sequence_length, rows=case.rows, seed=case.seed)


def rates(case: Case) -> OptimizerConfig:
    """The optimizer both sides have (transformers without Muon)."""
    return OptimizerConfig(
        matrices=case.muon, adamw_lr=case.adamw_lr, muon_lr=case.muon_lr, warmup=5, decay_fraction=0.0
    )


def real_tokens(case: Case) -> list[int]:
    """Tokens each step trains on, padding left out."""
    source = batches_of(case)
    return [int(source.next().weights_BT.count_nonzero()) for _ in range(case.steps)]


def mean_context(case: Case) -> float:
    """Tokens that a token sees in its document, itself counted; the mean over what is trained on."""
    source = batches_of(case)
    seen = [
        batch.positions_BT[batch.weights_BT > 0] + 1.0 for batch in (source.next() for _ in range(case.steps))
    ]
    return float(torch.cat(seen).mean())


def outcome(case: Case, marks: list[float], losses: list[float], peak: int, weights: int) -> dict[str, Any]:
    """What a case returns: rates, losses, memory."""
    timed = windows(marks, real_tokens(case), case.warm, case.per_window)
    last = losses[-case.per_window :]
    return {
        "tokens_per_second": timed.median,
        "windows": timed.tokens_per_second,
        "spread": timed.spread,
        "first_loss": losses[0],
        "last_loss": sum(last) / len(last),
        "losses": losses,
        "steps": case.steps,
        "peak_bytes": peak,
        "weights": weights,
    }


def train(case: Case) -> dict[str, Any]:
    """Run a case of `ours` or `hf` here and now."""
    return _ours(case) if case.side == "ours" else _hf(case)


def _ours(case: Case) -> dict[str, Any]:
    config = LanguageConfig(
        steps=case.steps,
        batch_tokens=case.rows * case.sequence_length,
        sequence_length=case.sequence_length,
        optimizer=rates(case),
        dtype="float32" if case.dtype == "float32" else "bfloat16",
        compile=case.compiled,
        recompute="block" if case.recompute else "none",
        attention=case.attention,
        device=case.device,
        save_seconds=1e9,
    )
    memory = Memory(torch.device(case.device))
    model = Transformer(case.shape, seed=case.seed)
    with tempfile.TemporaryDirectory() as folder:
        run = MarkedRun(Path(folder) / "run")
        train_loop(run, model, batches_of(case), language_loss, config, steps=case.steps)
    return outcome(case, run.marks, run.losses, memory.peak(), case.shape.parameters())


def peer_model(shape: ModelConfig, seed: int) -> LlamaForCausalLM:
    """Transformers' model with the weights that ours starts from."""
    words = config_to_hf(shape)
    for name in ("architectures", "model_type", "torch_dtype"):
        words.pop(name)
    config = LlamaConfig(**words)
    config._attn_implementation = "sdpa"
    model = LlamaForCausalLM(config)
    mine = split_weights(Transformer(shape, seed=seed))
    missing, unexpected = model.load_state_dict(mine, strict=False)
    if unexpected or set(missing) - {"lm_head.weight"}:
        raise AssertionError(f"the two models differ: {missing} {unexpected}")
    model.tie_weights()
    return model


def _hf(case: Case) -> dict[str, Any]:
    device = torch.device(case.device)
    memory = Memory(device)
    plain = peer_model(case.shape, case.seed)
    plain.to(device, torch.bfloat16 if case.dtype == "bfloat16" else torch.float32).train()
    weights = sum(p.numel() for p in plain.parameters())
    model: Any = torch.compile(plain, dynamic=False) if case.compiled else plain
    for layer in plain.model.layers if case.blocks else ():
        layer.compile(dynamic=False)
    optimizer = _adamw(plain, rates(case))
    source = batches_of(case)
    batches = [_peer_batch(source.next(), case.masked) for _ in range(case.steps)]
    narrow = contextlib.nullcontext
    if case.dtype == "autocast":
        narrow = lambda: torch.autocast(device.type, torch.bfloat16)  # noqa: E731

    def step(number: int) -> torch.Tensor:
        for group in optimizer.param_groups:
            group["lr"] = case.adamw_lr * schedule(number, case.steps, rates(case))
        optimizer.zero_grad(set_to_none=True)
        batch = {name: part.to(device, non_blocking=True) for name, part in batches[number].items()}
        with narrow():
            loss = model(**batch, labels=batch["shift_labels"], use_cache=False).loss
        loss.backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 1.0, foreach=True)
        optimizer.step()
        return loss

    marks, losses = time_steps(step, case.steps)
    return outcome(case, marks, losses, memory.peak(), weights)


def _adamw(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    wide = [p for p in model.parameters() if p.ndim >= 2]
    thin = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": wide, "weight_decay": config.weight_decay},
        {"params": thin, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.adamw_lr, betas=config.betas, eps=1e-10, fused=True)


def _peer_batch(batch: Batch, masked: bool) -> dict[str, torch.Tensor]:
    """A batch in transformers' words: places without a weight are not learned (-100)."""
    targets = batch.targets_BT.masked_fill(batch.weights_BT == 0, -100)
    found = {"input_ids": batch.tokens_BT, "shift_labels": targets}
    if masked:
        found |= {
            "attention_mask": document_mask(batch.documents_BT),
            "position_ids": batch.positions_BT,
        }
    return found


def time_steps(step: Callable[[int], torch.Tensor], steps: int) -> tuple[list[float], list[float]]:
    """Call `step` for each number; when each ended, and its loss. Garbage waits, as in our loop."""
    marks: list[float] = []
    losses: list[float] = []
    gc.disable()
    gc.freeze()
    for number in range(steps):
        losses.append(float(step(number).detach()))
        marks.append(time.perf_counter())
    gc.enable()
    return marks, losses
