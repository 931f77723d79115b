"""`publius bench engine`: what the engine does here, beside what the machine's memory and arithmetic allow.

The roofline (Williams et al. 2009): a step of B rows reads every weight once and makes 2 B operations with
each, so it cannot take less than the longer of bytes / bandwidth and operations / arithmetic. Both are
measured in the same run, by PyTorch: a sum over memory that no cache holds, and a large square product.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from publius.core.device import describe_hardware
from publius.inference.engine import Engine
from publius.inference.host import Dtype
from publius.inference.native import why_not
from publius.inference.sampling import Sampling
from publius.model.checkpoint import Checkpoint
from publius.model.config import ModelConfig
from publius.model.transformer import Transformer
from publius.tokenizer.tokenizer import Tokenizer

__all__ = ["Bench", "Line", "bench_engine", "measured_arithmetic", "measured_bandwidth"]

_ROUNDS = 5
_READ, _SIDE = 1 << 28, 1536


class Line(NamedTuple):
    """One dtype at one number of rows."""

    dtype: str
    rows: int
    read_per_second: float
    """Tokens of prompts."""
    first_token_ms: float
    """From the call to every row's first token."""
    written_per_second: float
    """New tokens of all rows, after the first of each."""
    roofline: float
    """The most new tokens a second that memory and arithmetic allow."""

    @property
    def reached(self) -> float:
        """Share of the roofline."""
        return self.written_per_second / self.roofline


@dataclass(frozen=True)
class Bench:
    """What `bench_engine` found."""

    hardware: str
    native: str
    parameters: int
    bandwidth: float
    """Bytes a second."""
    arithmetic: dict[str, float]
    """Operations a second by dtype."""
    lines: tuple[Line, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        lines = [{**line._asdict(), "reached": line.reached} for line in self.lines]
        return {**asdict(self), "lines": lines}

    def text(self) -> str:
        """For people."""
        peaks = ", ".join(f"{value / 1e9:,.0f} GFLOP/s in {name}" for name, value in self.arithmetic.items())
        head = [
            f"{self.hardware}; {self.native}; {self.parameters / 1e6:,.1f}M weights",
            f"measured: {self.bandwidth / 1e9:,.1f} GB/s of memory, {peaks}",
            f"{'weights':>9} {'rows':>5} {'read/s':>10} {'first ms':>9} {'written/s':>10} "
            f"{'roofline':>10} {'of it':>6}",
        ]
        return "\n".join(head + [
            f"{line.dtype:>9} {line.rows:>5} {line.read_per_second:>10,.0f} {line.first_token_ms:>9,.1f} "
            f"{line.written_per_second:>10,.0f} {line.roofline:>10,.0f} {line.reached:>6.0%}"
            for line in self.lines
        ])  # fmt: skip


def _fastest(work: Callable[[], object]) -> float:
    """Seconds of the fastest of a few."""
    best = float("inf")
    for _ in range(_ROUNDS):
        begun = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - begun)
    return best


def measured_bandwidth(device: torch.device) -> float:
    """Bytes a second that one large sum reads."""
    data = torch.ones(_READ // 4, device=device)
    return data.nbytes / _fastest(lambda: float(data.sum()))


def measured_arithmetic(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of one large square product."""
    square = torch.ones(_SIDE, _SIDE, device=device, dtype=dtype)
    return 2 * _SIDE**3 / _fastest(lambda: float((square @ square)[0, 0]))


def bench_engine(
    source: Checkpoint | ModelConfig,
    device: torch.device,
    *,
    prompt: int = 128,
    tokens: int = 64,
    rows: Sequence[int] = (1, 8, 64),
) -> Bench:
    """Time an engine in each dtype it has here.

    Args:
        source: a checkpoint, or a shape to fill with random weights.
        device: where.
        prompt: tokens of each prompt, each prompt its own.
        tokens: new tokens of each row; greedy.
        rows: how many at once.

    Raises:
        UserError: when prompt and tokens exceed the model's context.
    """
    model = Transformer(source, seed=0) if isinstance(source, ModelConfig) else source.load()
    model = model.to(device)
    c = model.config
    tokenizer = _Numbers(c.vocab_size)
    bandwidth = measured_bandwidth(device)
    arithmetic = {
        str(d).removeprefix("torch."): measured_arithmetic(device, d) for d in (torch.float32, torch.bfloat16)
    }
    weights = c.layers * c.layer_matrices() + c.vocab_size * c.hidden_size
    native = Engine(model, tokenizer).native
    kinds: list[tuple[Dtype, float]] = [(torch.float32, 4), (torch.bfloat16, 2)]
    if native:
        kinds.append(("int8", 1))
    lines: list[Line] = []
    for dtype, size in kinds:
        name = str(dtype).removeprefix("torch.")
        peak = arithmetic.get(name, float("inf"))  # PyTorch has no int8 product to measure: memory alone
        for count in rows:
            engine = Engine(model, tokenizer, dtype=dtype, max_batch=count)
            first, after = _timed(engine, c.vocab_size, count, prompt, tokens)
            least = max(weights * size / bandwidth, 2 * weights * count / peak)
            lines.append(
                Line(
                    name,
                    count,
                    count * prompt / first,
                    first * 1e3,
                    count * (tokens - 1) / after,
                    count / least,
                )
            )
    ways = "native pass" if native else f"PyTorch ({why_not() or device.type})"
    return Bench(describe_hardware(device), ways, c.parameters(), bandwidth, arithmetic, tuple(lines))


def _timed(engine: Engine, vocabulary: int, rows: int, prompt: int, tokens: int) -> tuple[float, float]:
    """Seconds until every row has its first token, and from there to the end; the medians of a few rounds."""
    rng = np.random.default_rng(0)
    found: list[tuple[float, float]] = []
    for _ in range(_ROUNDS + 1):
        prompts = rng.integers(0, vocabulary - 1, (rows, prompt)).tolist()
        begun = time.perf_counter()
        requests = [engine.submit(ids, Sampling(max_tokens=tokens, temperature=0)) for ids in prompts]
        while not all(request.tokens for request in requests):
            engine.step()
        first = time.perf_counter()
        while engine.step():
            pass
        found.append((first - begun, time.perf_counter() - first))
    firsts, afters = zip(*found[1:], strict=True)  # the first round packs weights and touches memory
    return float(np.median(firsts)), float(np.median(afters))


class _Numbers(Tokenizer):
    """Stands for the tokenizer: ids without text, with an end that is no id: rows go on to theirs."""

    def __init__(self, vocabulary: int) -> None:
        self.vocab_size, self.end_id = vocabulary, -1
