"""What this machine sustains, measured in a few seconds: matrix products, and real training steps."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from publius.core.device import compute_dtype, set_threads
from publius.model.config import ModelConfig, preset
from publius.model.transformer import Transformer
from publius.pipeline.hardware import HARDWARE, Hardware
from publius.pipeline.run import testing_run
from publius.training.batches import Example, PackedBatches
from publius.training.language import LanguageConfig, language_loss
from publius.training.loop import train_loop

__all__ = ["Calibration", "calibrate", "rate"]

_LARGEST = 50_000_000
"""Models with more weights are calibrated with `pocket` opus: their steps would take too long."""

_BUSY = 0.7


class Calibration(NamedTuple):
    """FLOP/s of this machine's CPU, with `threads` threads."""

    threads: int
    dtype: str
    """What training computes in here."""
    matmul_float32: float
    matmul_bfloat16: float
    """Square products of 1,024: about the most that a step could reach."""
    step: float
    """Training steps, counted as plans count them."""
    tokens_per_second: float
    parameters: int
    """Of the model that was stepped."""
    share: float = 1.0
    """Of its threads' time that this process got; well below 1 when something else was running."""

    def hardware(self) -> Hardware:
        """The table's `cpu`, with what was measured in place of what is assumed."""
        best = max(self.matmul_float32, self.matmul_bfloat16, self.step)
        return HARDWARE["cpu"]._replace(flops=self.step, peak_flops=best)

    def text(self) -> str:
        """For people."""
        busy = (
            f"\nwarning   only {self.share:.0%} of the cores' time: close what else runs, and measure again"
        )
        return (
            f"measured  {self.step:.3g} FLOP/s in training steps ({self.tokens_per_second:,.0f} tokens/s of"
            f" {self.parameters / 1e6:.3g}M weights in {self.dtype}, {self.threads} threads);"
            f" products of 1,024: {self.matmul_bfloat16:.3g} in bfloat16,"
            f" {self.matmul_float32:.3g} in float32{busy if self.share < _BUSY else ''}"
        )


def rate(
    work: Callable[[], object],
    amount: float,
    *,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """`amount` a second, over as many calls of `work` as `seconds` take (one more goes first, unmeasured)."""
    work()
    begun, calls = clock(), 0
    while (spent := clock() - begun) < seconds or calls == 0:
        work()
        calls += 1
    return amount * calls / spent


def calibrate(config: ModelConfig | None = None, *, steps: int = 10, seconds: float = 0.3) -> Calibration:
    """Time this CPU.

    Args:
        config: the model whose steps to time; None, or one of more than 50M weights, is `pocket` opus.
        steps: training steps timed, after two that are not.
        seconds: how long each kind of matrix product is timed.
    """
    threads = set_threads()
    shape = (
        config if config is not None and config.parameters() <= _LARGEST else preset("opus", "pocket", 2048)
    )
    wall, own = time.perf_counter(), time.process_time()
    products = {dtype: _product_rate(dtype, seconds) for dtype in (torch.float32, torch.bfloat16)}
    tokens = _steps_rate(shape, steps)
    share = (time.process_time() - own) / (time.perf_counter() - wall) / threads
    return Calibration(
        threads=threads,
        dtype=str(compute_dtype(torch.device("cpu"))).removeprefix("torch."),
        matmul_float32=products[torch.float32],
        matmul_bfloat16=products[torch.bfloat16],
        step=tokens * shape.flops_per_token(_length(shape)),
        tokens_per_second=tokens,
        parameters=shape.parameters(),
        share=min(1.0, share),
    )


def _product_rate(dtype: torch.dtype, seconds: float, size: int = 1024) -> float:
    square = torch.ones(size, size, dtype=dtype)
    return rate(lambda: square @ square, 2.0 * size**3, seconds=seconds)


def _length(shape: ModelConfig) -> int:
    return min(256, shape.max_position)


def _steps_rate(shape: ModelConfig, steps: int) -> float:
    """Tokens a second of the real loop on random tokens."""
    length = _length(shape)
    noise = np.random.default_rng(0).integers(0, shape.vocab_size, (64, length + 1))
    model = Transformer(shape, seed=0)
    batches = PackedBatches([Example(row) for row in noise], sequence_length=length, rows=4, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        for count in (2, steps):
            config = LanguageConfig(
                steps=count, batch_tokens=4 * length, sequence_length=length, device="cpu", save_seconds=1e9
            )
            result = train_loop(
                testing_run(Path(folder)),
                model,
                batches,
                language_loss,
                config,
                steps=count,
                label="calibrate",
            )
    return result.tokens_per_second
