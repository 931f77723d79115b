"""The one training loop, shared by pretraining, fine-tuning and the reward model.

    batch -> loss -> backward -> (accumulate) -> guard -> clip -> Muon + AdamW -> log -> (save, evaluate)

Weights are kept in fp32; in bf16 a copy computes (`twin`). Batches are made one ahead (`prefetch`). A step
that would do harm is skipped before its update (`guard`).

Everything a step depends on (weights, moments, place in the data, RNG, the guard's memory) is saved by
`run.save`, so that a run killed at any moment ends, on CPU, bit-identical to one that was not. SIGTERM and
Ctrl-C save at the end of the step.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from publius.core.config import Config, execution
from publius.core.device import compute_dtype, pick_device, set_threads
from publius.model.packed import Kernel
from publius.model.transformer import Transformer
from publius.pipeline.run import Run
from publius.training.alone import Alone
from publius.training.batches import BatchSource
from publius.training.compiling import compile_blocks
from publius.training.distributed import ParallelConfig
from publius.training.distributed.layout import in_job
from publius.training.guard import Guard
from publius.training.kernels import attention_kernel
from publius.training.optimizer import OptimizerConfig, schedule
from publius.training.prefetch import Prefetched
from publius.training.twin import Twin

if TYPE_CHECKING:
    from publius.training.distributed.session import Session

__all__ = ["LoopConfig", "LoopResult", "LossSum", "to_device", "train_loop"]

B = TypeVar("B")
_SWEEP_EVERY = 200
"""Steps between collections of garbage."""


class LoopConfig(Config):
    """How long and how to train. Fields made with `execution` do not change what is made (on one
    kind of hardware; `dtype="auto"` follows it, and other hardware rounds differently)."""

    optimizer: OptimizerConfig = OptimizerConfig()
    grad_clip: float = Field(default=1.0, gt=0)
    """Largest global norm of the gradient (of the mean loss)."""
    spike_sigmas: float | None = Field(default=8.0, gt=0)
    """Skip a step whose loss is this many standard deviations, and a nat, above the mean of the last 100;
    None skips only what is not finite. Runs of up to 100 steps never look."""
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
    compile: bool | Literal["auto"] = execution("auto")
    """torch.compile each block: some 25 s at the start, steps 8% faster after. `auto`: on CPU, when the run
    is long enough and the machine has a compiler. Without one a run goes on uncompiled, come what may."""
    attention: Kernel | Literal["auto"] = execution("auto")
    """What computes attention in training: `sdpa`, or on CUDA `flex` or `varlen`, which skip what is masked
    between packed documents or lies out of a window. All agree up to rounding. `auto` is `sdpa` until the
    others are measured."""
    recompute: Literal["none", "block"] = execution("none")
    """`block` keeps only each block's input for backward and computes the rest again: less memory, about a
    third more work, the same gradients."""
    threads: int | None = execution(None)
    """CPU threads; None respects OMP_NUM_THREADS."""
    parallel: ParallelConfig = execution(ParallelConfig())
    """How ranks share the work, where there are several (`publius run --nproc`)."""


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
    """Steps skipped because loss or gradient was not finite, or the loss jumped."""
    tokens: int
    tokens_per_second: float
    evaluation: dict[str, float]
    """What `evaluate` returned at the end."""


class _Progress:
    """The counters that are saved."""

    def __init__(self) -> None:
        self.step = self.tokens = 0
        self.seconds = 0.0


def to_device(batch: B, device: torch.device) -> B:
    """A NamedTuple of tensors (and other things), with its tensors moved to `device`."""
    return batch if device.type == "cpu" else _each(batch, lambda part: part.to(device, non_blocking=True))


def _pinned(batch: B) -> B:
    """In memory that a GPU copies from while it works."""
    return _each(batch, lambda part: part.contiguous().pin_memory())


def _each(batch: B, change: Callable[[Tensor], Tensor]) -> B:
    parts: Any = batch
    return type(batch)(*(change(part) if isinstance(part, Tensor) else part for part in parts))


def train_loop(
    run: Run,
    model: nn.Module,
    batches: BatchSource[B],
    loss: Callable[[Any, B], LossSum],
    config: LoopConfig,
    *,
    steps: int,
    tokens: int = 0,
    flops_per_token: float = 0.0,
    evaluate: Callable[[], dict[str, float]] | None = None,
    label: str = "train",
    beside: Callable[[Path], object] | None = None,
) -> LoopResult:
    """Train `model` in place for `steps` optimizer steps; continue if the run has a saved state.

    Args:
        run: takes the log (`step`, `loss`, `lr`, `grad_norm`, `tokens_per_second`; of a skipped step also
            `skipped`, the reason, and `batch_*`, its place in the data), counts and states.
        model: fp32 weights, on any device; moved to the config's. Left there, in eval mode. In a job of
            several ranks it is sharded meanwhile, and left whole on rank 0's CPU, empty on the others.
        batches: where batches (NamedTuples of tensors) come from.
        loss: (module, batch) -> LossSum. The module is `model` or a bf16 copy: use no other.
        config: optimizers, clipping, precision, device.
        steps: optimizer steps in all.
        tokens: that all steps will read, about; 0 when unknown. With `compile="auto"` it decides.
        flops_per_token: forward and backward, for the record.
        evaluate: numbers to log every `eval_every` steps and at the end; called with `model` in eval mode.
        label: shown beside the progress bar.
        beside: writes what else a resumed stage needs into the folder of every saved state.

    Raises:
        UserError: when three steps in a row had to be skipped (see `guard`).
        Stopped: after SIGTERM, with the state saved (KeyboardInterrupt: after Ctrl-C).
    """
    if config.threads is not None:
        set_threads(config.threads)
    work = tokens * flops_per_token
    with _Training(model, batches, loss, config, steps, work, run.join) as training:
        training.beside = beside
        training.resume(run)
        _steps(run, training, flops_per_token, evaluate, label)
        run.settle()
        evaluation = _evaluate(model, evaluate) if evaluate else {}
        if evaluation:
            run.log(step=training.seen.step, **evaluation)
    model.eval()
    return training.result(evaluation)


def _steps(
    run: Run,
    training: _Training[B],
    flops_per_token: float,
    evaluate: Callable[[], dict[str, float]] | None,
    label: str,
) -> None:
    """Every step that is left, with log, evaluations and saved states."""
    config, seen, steps = training.config, training.seen, training.steps
    counted, saved, wanted = seen.tokens, time.monotonic(), config.eval_every
    with _quiet_collector(), training.ahead(), run.progress(label, steps) as ticker, run.stoppable():
        ticker.advance(seen.step)
        while seen.step < steps:
            line = training.step()
            run.count(tokens=seen.tokens - counted, flops=(seen.tokens - counted) * flops_per_token)
            counted = seen.tokens
            if evaluate and wanted and seen.step % wanted == 0 and seen.step < steps:
                line |= _evaluate(training.model, evaluate)
            run.log(**line)
            ticker.advance(1, f"loss {line['loss']:.3f}  {line['tokens_per_second']:,.0f} tok/s")
            run.stop_here(training.save)
            due = run.agree(time.monotonic() - saved >= config.save_seconds)
            if seen.step < steps and (due or (config.save_every and seen.step % config.save_every == 0)):
                run.save(training.save)
                saved = time.monotonic()
            if seen.step % _SWEEP_EVERY == 0:
                gc.collect()


class _Training(Generic[B]):
    """All that a step reads and changes. One `step` is one optimizer step."""

    def __init__(
        self,
        model: nn.Module,
        batches: BatchSource[B],
        loss: Callable[[Any, B], LossSum],
        config: LoopConfig,
        steps: int,
        flops: float = 0.0,
        join: Callable[..., Session | None] | None = None,
    ) -> None:
        self.model, self.loss, self.config, self.steps = model, loss, config, steps
        self.source = batches
        self.batches: BatchSource[B] | Prefetched[B] = batches
        self.device = pick_device(config.device)
        dtype = compute_dtype(self.device, config.dtype)
        shapes = [part.config for part in model.modules() if isinstance(part, Transformer)]
        context = config.parallel.context if in_job() else 1
        kernel = attention_kernel(config.attention, self.device, dtype, shapes, context=context)
        torch.manual_seed(config.seed)
        joined = join(model, batches, config.parallel, config.optimizer, dtype, self.device) if join else None
        self.session: Alone | Session = joined or Alone(model, config.optimizer, dtype, self.device)
        wanted = config.compile if self.session.compiles or config.compile != "auto" else False
        compiled = compile_blocks(wanted, self.device, flops)
        recompute = config.recompute == "block"
        self.twin = Twin(model, self.session.dtype, compiled=compiled, recompute=recompute, kernel=kernel)
        self.guard = Guard(config.spike_sigmas)
        self.seen = _Progress()
        self.beside: Callable[[Path], object] | None = None

    def __enter__(self) -> _Training[B]:
        return self

    def __exit__(self, *error: object) -> None:
        self.twin.close()
        self.session.close(failed=error[0] is not None)

    @contextmanager
    def ahead(self) -> Iterator[None]:
        """Inside, batches are drawn one ahead."""
        left = (self.steps - self.seen.step) * self.config.accumulation
        with Prefetched(self.source, left, self._prepared) as self.batches:
            yield

    def _prepared(self, batch: B) -> B:
        batch = self.session.share(batch)
        return _pinned(batch) if self.device.type == "cuda" else batch

    def step(self) -> dict[str, Any]:
        """One optimizer step; the line to log."""
        begun, place = time.monotonic(), self.batches.state()
        self.twin.refresh()
        total, denominator, tokens = 0.0, 0.0, 0
        for _ in range(self.config.accumulation):
            part = self.session.loss(self.loss, self.twin, to_device(self.batches.next(), self.device))
            part.total.backward()
            self.twin.collect()
            total, denominator = total + part.total.detach(), denominator + part.denominator.detach()
            tokens += part.tokens
        gradients = self.session.gradients(self.twin)
        value, norm, scale, tokens = self._measure(gradients, total, denominator, tokens)
        multiplier = schedule(self.seen.step, self.steps, self.config.optimizer)
        self.seen.step += 1
        self.seen.tokens += tokens
        line: dict[str, Any] = {
            "step": self.seen.step,
            "loss": value,
            "lr": multiplier * self.config.optimizer.adamw_lr,
            "grad_norm": norm,
        }
        skip = self.guard.judge(value, norm, f"step {self.seen.step} of {self.steps}, batch {place}")
        if skip is None:
            torch._foreach_mul_(gradients, scale)  # pyright: ignore[reportPrivateImportUsage]
            self.session.optimizers.step(multiplier)
        else:
            line |= {"skipped": skip} | {f"batch_{name}": number for name, number in place.items()}
        seconds = time.monotonic() - begun
        self.seen.seconds += seconds
        return line | {"tokens_per_second": tokens / seconds}

    def _measure(
        self, gradients: list[Tensor], total: Any, denominator: Any, tokens: int
    ) -> tuple[float, float, float, int]:
        """Mean loss, gradient norm, the factor for the summed gradients (one read from the device), and the
        tokens of all ranks."""
        summed, weight, summed_norm, tokens = self.session.sums(gradients, total, denominator, tokens)
        if not weight:
            return math.nan, math.nan, 0.0, tokens
        norm = summed_norm / weight
        scale = min(1.0, self.config.grad_clip / norm if norm else 1.0) / weight
        return summed / weight, norm, scale, tokens

    def save(self, folder: Path) -> Callable[[], None] | None:
        """Write the state of this moment, between two steps, into `folder`; what is returned waits for what
        is still being written."""
        if self.beside is not None:
            self.beside(folder)
        words = {"batches": self.batches.state(), "progress": vars(self.seen), "guard": self.guard.state()}
        return self.session.save(folder, words)

    def resume(self, run: Run) -> None:
        """Go on from the run's saved state, if it has one."""
        if (folder := run.restore()) is not None:
            words = self.session.load(folder)
            self.source.restore(words["batches"])
            self.guard.restore(words["guard"])
            vars(self.seen).update(words["progress"])

    def result(self, evaluation: dict[str, float]) -> LoopResult:
        """What came of it."""
        recent = self.guard.recent[-20:]
        loss = sum(recent) / len(recent) if recent else math.nan
        rate = self.seen.tokens / self.seen.seconds if self.seen.seconds else 0.0
        return LoopResult(self.seen.step, loss, self.guard.skipped, self.seen.tokens, rate, evaluation)


@contextmanager
def _quiet_collector() -> Iterator[None]:
    """No collection of Python garbage inside but those asked for: it stops everything at any moment, to look
    through what will not change (torch's own objects are set aside)."""
    enabled, free = gc.isenabled(), not gc.get_freeze_count()
    gc.disable()
    if free:
        gc.freeze()
    try:
        yield
    finally:
        if free:
            gc.unfreeze()
        if enabled:
            gc.enable()


def _evaluate(model: nn.Module, evaluate: Callable[[], dict[str, float]]) -> dict[str, float]:
    training = model.training
    model.eval()
    with torch.no_grad():
        numbers = evaluate()
    model.train(training)
    return numbers
