"""The one training loop, shared by pretraining, fine-tuning and the reward model.

    batch -> loss -> backward -> (accumulate) -> clip -> Muon + AdamW -> log -> (save, evaluate)

Weights are kept in fp32. In bf16 a copy of the model is cast from them once a step, and computes; its
gradients are added up in fp32. (Autocast casts at every operation: 10-20% slower on CPU.)

Everything a step depends on (weights, moments, place in the data, RNG) is saved by `run.save`, so that a
run killed at any moment ends, on CPU, bit-identical to one that was not.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from publius.core.config import Config, execution
from publius.core.device import compute_dtype, pick_device, set_threads
from publius.core.errors import UserError
from publius.model.transformer import Block
from publius.pipeline.run import Run
from publius.training.batches import BatchSource
from publius.training.optimizer import OptimizerConfig, Optimizers, build_optimizers, schedule

__all__ = ["LoopConfig", "LoopResult", "LossSum", "to_device", "train_loop"]

B = TypeVar("B")
_BAD_STEPS = 3


class LoopConfig(Config):
    """How long and how to train. Fields made with `execution` do not change what is made (on one
    kind of hardware; `dtype="auto"` follows it, and other hardware rounds differently)."""

    optimizer: OptimizerConfig = OptimizerConfig()
    grad_clip: float = Field(default=1.0, gt=0)
    """Largest global norm of the gradient (of the mean loss)."""
    accumulation: int = Field(default=1, ge=1)
    """Batches a step."""
    seed: int = 0
    eval_every: int = Field(default=0, ge=0)
    """Steps between evaluations; 0 is only at the end."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    save_seconds: float = execution(30.0, ge=0)
    """Seconds between saved states."""
    save_every: int = execution(0, ge=0)
    """Steps between saved states, beside `save_seconds`; 0 is never."""
    device: str = execution("auto")
    compile: bool = execution(False)
    """torch.compile each block: 5-15 s at the start, faster steps after; not worth it on tiny runs."""
    threads: int | None = execution(None)
    """CPU threads; None respects OMP_NUM_THREADS."""


class LossSum(NamedTuple):
    """What a loss function returns: a sum, what to divide it by, and the tokens it cost."""

    total: Tensor
    """Scalar sum of the loss over the batch."""
    denominator: Tensor
    """Scalar weight of the batch; the step's gradient is sum(total) / sum(denominator)."""
    tokens: int
    """Tokens the model read."""


class LoopResult(NamedTuple):
    """How training went."""

    steps: int
    loss: float
    """Mean of the last (up to) 20 steps."""
    skipped: int
    """Steps skipped because the loss or gradient was not finite."""
    tokens: int
    tokens_per_second: float
    evaluation: dict[str, float]
    """What `evaluate` returned at the end."""


class _Progress:
    """The counters that are saved."""

    def __init__(self) -> None:
        self.step = self.skipped = self.bad = self.tokens = 0
        self.seconds = 0.0
        self.recent: list[float] = []

    def result(self, evaluation: dict[str, float]) -> LoopResult:
        loss = sum(self.recent) / len(self.recent) if self.recent else math.nan
        rate = self.tokens / self.seconds if self.seconds else 0.0
        return LoopResult(self.step, loss, self.skipped, self.tokens, rate, evaluation)


class _Twin:
    """The module that computes: the model itself in fp32, else a copy in `dtype` cast once a step."""

    def __init__(self, model: nn.Module, dtype: torch.dtype, compiled: bool) -> None:
        self._masters: list[Tensor] = list(model.parameters())
        self.module = model if dtype == torch.float32 else copy.deepcopy(model).to(dtype)
        self._copies: list[Tensor] = list(self.module.parameters())
        self.module.train()
        if compiled:
            for block in self.module.modules():
                if isinstance(block, Block):
                    block.compile(dynamic=False)

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the weights over, and forget gradients."""
        for master in self._masters:
            master.grad = None
        if self._copies[0] is not self._masters[0]:
            torch._foreach_copy_(self._copies, self._masters)  # pyright: ignore[reportPrivateImportUsage]

    @torch.no_grad()
    def collect(self) -> None:
        """Add the copy's gradients to the masters', in fp32."""
        if self._copies[0] is self._masters[0]:
            return
        for master, copied in zip(self._masters, self._copies, strict=True):
            if copied.grad is not None:
                wide = copied.grad.float()
                master.grad = wide if master.grad is None else master.grad.add_(wide)
                copied.grad = None


def to_device(batch: B, device: torch.device) -> B:
    """A NamedTuple of tensors (and other things), with its tensors moved to `device`."""
    if device.type == "cpu":
        return batch
    parts: Any = batch
    return type(batch)(*(p.to(device, non_blocking=True) if isinstance(p, Tensor) else p for p in parts))


def train_loop(
    run: Run,
    model: nn.Module,
    batches: BatchSource[B],
    loss: Callable[[Any, B], LossSum],
    config: LoopConfig,
    *,
    steps: int,
    flops_per_token: float = 0.0,
    evaluate: Callable[[], dict[str, float]] | None = None,
    label: str = "train",
) -> LoopResult:
    """Train `model` in place for `steps` optimizer steps; continue if the run has a saved state.

    Args:
        run: takes the log (`step`, `loss`, `lr`, `grad_norm`, `tokens_per_second`), counts and states.
        model: fp32 weights, on any device; moved to the config's. Left there, in eval mode.
        batches: where batches (NamedTuples of tensors) come from.
        loss: (module, batch) -> LossSum. The module is `model` or a bf16 copy: use no other.
        config: optimizers, clipping, precision, device.
        steps: optimizer steps in all.
        flops_per_token: forward and backward, for the record.
        evaluate: numbers to log every `eval_every` steps and at the end; called with `model` in eval mode.
        label: shown beside the progress bar.

    Raises:
        UserError: when loss or gradient is not finite three steps in a row.
    """
    if config.threads is not None:
        set_threads(config.threads)
    device = pick_device(config.device)
    model.to(device)
    torch.manual_seed(config.seed)
    optimizers = build_optimizers(model, config.optimizer)
    twin = _Twin(model, compute_dtype(device, config.dtype), config.compile)
    seen = _Progress()
    if (state := run.restore()) is not None:
        _load_state(state, model, optimizers, batches, seen)
    counted, saved, wanted = seen.tokens, time.monotonic(), config.eval_every
    with run.progress(label, steps) as ticker:
        ticker.advance(seen.step)
        while seen.step < steps:
            line = _step(twin, model, optimizers, batches, loss, config, seen, steps, device)
            run.count(tokens=seen.tokens - counted, flops=(seen.tokens - counted) * flops_per_token)
            counted = seen.tokens
            if evaluate and wanted and seen.step % wanted == 0 and seen.step < steps:
                line |= _evaluate(model, evaluate)
            run.log(**line)
            ticker.advance(1, f"loss {line['loss']:.3f}  {line['tokens_per_second']:,.0f} tok/s")
            due = time.monotonic() - saved >= config.save_seconds
            if seen.step < steps and (due or (config.save_every and seen.step % config.save_every == 0)):
                run.save(lambda folder: _save_state(folder, model, optimizers, batches, seen))
                saved = time.monotonic()
    for parameter in model.parameters():
        parameter.grad = None
    evaluation = _evaluate(model, evaluate) if evaluate else {}
    if evaluation:
        run.log(step=seen.step, **evaluation)
    model.eval()
    return seen.result(evaluation)


def _step(
    twin: _Twin,
    model: nn.Module,
    optimizers: Optimizers,
    batches: BatchSource[B],
    loss: Callable[[Any, B], LossSum],
    config: LoopConfig,
    seen: _Progress,
    steps: int,
    device: torch.device,
) -> dict[str, Any]:
    """One optimizer step; the line to log."""
    begun = time.monotonic()
    twin.refresh()
    total, denominator, tokens = 0.0, 0.0, 0
    for _ in range(config.accumulation):
        part = loss(twin.module, to_device(batches.next(), device))
        part.total.backward()
        twin.collect()
        total, denominator = total + part.total.detach(), denominator + part.denominator.detach()
        tokens += part.tokens
    value = float(total / denominator)
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    torch._foreach_mul_(grads, 1.0 / float(denominator))  # pyright: ignore[reportPrivateImportUsage]
    norm = float(torch.nn.utils.get_total_norm(grads, foreach=True))
    multiplier = schedule(seen.step, steps, config.optimizer)
    seen.step += 1
    seen.tokens += tokens
    if math.isfinite(value) and math.isfinite(norm):
        if norm > config.grad_clip:
            torch._foreach_mul_(grads, config.grad_clip / norm)  # pyright: ignore[reportPrivateImportUsage]
        optimizers.step(multiplier)
        seen.bad = 0
        seen.recent = [*seen.recent[-19:], value]
    else:
        seen.skipped, seen.bad = seen.skipped + 1, seen.bad + 1
        if seen.bad >= _BAD_STEPS:
            raise UserError(
                f"loss or gradient was not finite {_BAD_STEPS} steps in a row (loss {value}, norm {norm})",
                where=f"step {seen.step} of {steps}",
                fix="lower optimizer.muon_lr and optimizer.adamw_lr, or look for broken training data",
            )
    seconds = time.monotonic() - begun
    seen.seconds += seconds
    lr = multiplier * config.optimizer.adamw_lr
    return {
        "step": seen.step, "loss": value, "lr": lr, "grad_norm": norm, "tokens_per_second": tokens / seconds,
    }  # fmt: skip


def _evaluate(model: nn.Module, evaluate: Callable[[], dict[str, float]]) -> dict[str, float]:
    training = model.training
    model.eval()
    with torch.no_grad():
        numbers = evaluate()
    model.train(training)
    return numbers


def _save_state(
    folder: Path, model: nn.Module, optimizers: Optimizers, batches: BatchSource[Any], seen: _Progress
) -> None:
    state = {f"model.{name}": value.detach() for name, value in model.named_parameters()}
    state |= {f"optimizer.{name}": value for name, value in optimizers.tensors().items()}
    state["rng.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        state["rng.cuda"] = torch.cuda.get_rng_state()
    plain = {name: value.cpu().contiguous().clone() for name, value in state.items()}
    save_file(plain, folder / "state.safetensors")
    words = {"batches": batches.state(), "progress": vars(seen)}
    (folder / "state.json").write_text(json.dumps(words), encoding="utf-8")


def _load_state(
    folder: Path, model: nn.Module, optimizers: Optimizers, batches: BatchSource[Any], seen: _Progress
) -> None:
    state = load_file(folder / "state.safetensors")
    words = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(state[f"model.{name}"])
    optimizers.restore(
        {n.removeprefix("optimizer."): v for n, v in state.items() if n.startswith("optimizer.")}
    )
    torch.set_rng_state(state["rng.cpu"])
    if "rng.cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["rng.cuda"])
    batches.restore(words["batches"])
    vars(seen).update(words["progress"])
