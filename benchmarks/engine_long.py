"""One very long prompt: does it fit in the memory that was planned, and is every chunk read right?

    python benchmarks/engine_long.py --out docs/results
    python benchmarks/engine_long.py --size 350M --device cuda --dtype bfloat16 --out docs/results
    python benchmarks/engine_long.py --quick

A prompt of random ids, 200,000 of them unless told, at the 10M shape, is read by the engine in its chunks,
and then by the model's own forward in one piece; log-probabilities of some ids at places spread over the
whole prompt are compared. Weights are fresh (seed 0), with queries and keys made larger, so that attention
picks its places instead of averaging them all.

Planned is what the sizes say beforehand: the weights twice (as loaded and as packed), keys and values of
every token, rotary tables, what a step of 1,024 tokens works with, and 64 MB beside. The peak is measured,
above what the process had before. `--dtype` is of the engine's weights and cache; on a CPU the reference
computes in fp32 with the same weights.

Each side is a process of its own. Expect some forty minutes on two cores. `--quick` is a smoke test.
"""

from __future__ import annotations

import functools
import itertools
import random
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import torch
from engines import FIRST_ID, SHAPES, our_engine
from harness import Memory, child, entry, markdown, options_of, record_of, say, write_record

from publius.core.config import Config
from publius.inference import Request, Sampling
from publius.inference.engine import STEP_TOKENS
from publius.inference.kv_cache import token_bytes
from publius.model import ModelConfig
from publius.model.transformer import Block, Transformer

SIZES = {
    **SHAPES,
    "350M": ModelConfig(
        vocab_size=50_304, hidden_size=1024, layers=26, heads=16, kv_heads=4, head_dim=64,
        intermediate_size=2816, max_position=2048,
    ),
}  # fmt: skip
LARGER = 2.0
"""What queries and keys are multiplied by. With 6, fp32 itself is 1e-2 off (from fp64, at 4,000 tokens)."""
IDS = 32
"""Compared at every place."""
PROCESS = 1 << 26
"""Bytes for what Python and the allocator hold beside."""
NEAR = {"float32": 1e-3, "bfloat16": 0.1}
"""Largest difference that passes for equal."""
_EVERY = 20.0
"""Seconds between two lines of progress."""


class Long(Config):
    """A prompt, and how it is read."""

    size: str = "10M"
    tokens: int = 200_000
    places: int = 24
    dtype: str = "float32"
    device: str = "cpu"

    @property
    def shape(self) -> ModelConfig:
        """The model."""
        return SIZES[self.size].model_copy(update={"max_position": self.tokens + 1})

    def prompt(self) -> list[int]:
        """Random ids."""
        return random.Random(0).choices(range(FIRST_ID, self.shape.vocab_size), k=self.tokens)

    def targets(self) -> dict[int, list[int]]:
        """Which ids are compared, by place: the first, the last, and those between."""
        rng = random.Random(1)
        last = self.tokens - 1
        at = sorted({round(i * last / (self.places - 1)) for i in range(self.places)})
        return {place: rng.sample(range(self.shape.vocab_size), IDS) for place in at}

    def planned(self) -> int:
        """Bytes, from the sizes alone."""
        c, dtype = self.shape, getattr(torch, self.dtype)
        weights = c.parameters() * (4 + dtype.itemsize)
        rows = 4 * STEP_TOKENS * (4 * c.hidden_size + 2 * c.intermediate_size + 2 * c.heads * c.head_dim)
        tables = 2 * 4 * c.max_position * c.head_dim
        scored = 4 * len(self.targets()) * c.vocab_size
        return weights + self.tokens * token_bytes(c, dtype) + rows + tables + scored + PROCESS


def sharpen(model: Transformer) -> None:
    """Make queries and keys larger, in place."""
    with torch.no_grad():
        for block in model.model.layers:
            assert isinstance(block, Block)
            attention = block.self_attn
            rows = (attention.heads + attention.kv_heads) * attention.head_dim
            attention.qkv_proj.weight[:rows] *= LARGER


def read(long: Long) -> dict[str, Any]:
    """In a child: the engine."""
    device = torch.device(long.device)
    memory = Memory(device)
    engine = our_engine(
        long.shape, long.dtype, max_batch=1, cache_tokens=long.tokens + 1, device=device, change=sharpen
    )
    request = Request(long.prompt(), Sampling(max_tokens=1), targets=long.targets())
    over = threading.Event()
    start = time.perf_counter()

    def tell() -> None:
        while not over.wait(_EVERY):
            done, seconds = engine.stats.read, time.perf_counter() - start
            # Attention makes the time of a place grow with it, so the time left goes by squares.
            left = seconds * ((long.tokens / max(1, done)) ** 2 - 1)
            say(f"{done:,} of {long.tokens:,} tokens, {done / seconds:,.0f}/s, {left:,.0f} s left at most")

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        engine.complete([request])
    finally:
        over.set()
        teller.join()
    seconds = time.perf_counter() - start
    scores = [request.scores[place] for place in long.targets()]
    return {"seconds": seconds, "peak_bytes": memory.peak(), "scores": scores}


@torch.no_grad()
def reference(long: Long) -> dict[str, Any]:
    """In a child: the model's own forward, all tokens at once."""
    device = torch.device(long.device)
    model = Transformer(long.shape, seed=0).eval().requires_grad_(False)
    sharpen(model)
    if long.dtype != "float32":  # the weights the engine has
        model.to(getattr(torch, long.dtype))
    model.to(device, torch.float32 if device.type == "cpu" else None)
    start = time.perf_counter()
    hidden = model.hidden(torch.tensor([long.prompt()], device=device))
    targets = long.targets()
    logp = model.logits(hidden[0, list(targets)]).float().log_softmax(-1)
    scores = [logp[row, ids].tolist() for row, ids in enumerate(targets.values())]
    return {"seconds": time.perf_counter() - start, "scores": scores, "deviation": float(logp.std())}


def summary(long: Long, engine: dict[str, Any], whole: dict[str, Any]) -> dict[str, Any]:
    """What is asked, each None when its side failed."""
    line: dict[str, Any] = {"planned_bytes": long.planned(), "inside": None, "largest": None, "equal": None}
    if "error" not in engine:
        line["inside"] = engine["peak_bytes"] <= line["planned_bytes"]
        line["tokens_per_second"] = long.tokens / engine["seconds"]
    if "error" not in engine and "error" not in whole:
        ours, theirs = (itertools.chain.from_iterable(side["scores"]) for side in (engine, whole))
        apart = [abs(a - b) for a, b in zip(ours, theirs, strict=True)]
        line["largest"], line["typical"] = max(apart), statistics.median(apart)
        line["equal"] = line["largest"] <= NEAR[long.dtype]
    return line


def table(long: Long, line: dict[str, Any], engine: dict[str, Any], whole: dict[str, Any]) -> str:
    """Markdown."""
    rows: list[list[str]] = []
    for name, side in (("engine", engine), ("one piece", whole)):
        if "error" in side:
            rows.append([name, side["error"], ""])
    if line["inside"] is not None:
        peak, planned = (x / 2**20 for x in (engine["peak_bytes"], line["planned_bytes"]))
        rows.append(["time", f"{engine['seconds']:,.0f} s", f"{line['tokens_per_second']:,.0f} tokens/s"])
        rows.append(["peak memory", f"{peak:,.0f} MiB of {planned:,.0f} planned", _word(line["inside"])])
    if line["equal"] is not None:
        told = f"largest {line['largest']:.1e}, median {line['typical']:.1e} (wanted {NEAR[long.dtype]:.0e})"
        rows.append([f"log-probabilities at {len(long.targets())} places", told, _word(line["equal"])])
    return markdown([f"{long.tokens:,} tokens, {long.size}, {long.dtype}", "", ""], rows)


def _word(met: bool) -> str:
    return "met" if met else "missed"


def main() -> None:
    """Measure, record, print."""
    parser = options_of(__doc__, "1M, 3,000 tokens", 7200.0)
    parser.add_argument("--size", choices=list(SIZES), default="10M")
    parser.add_argument("--tokens", type=int, default=200_000)
    parser.add_argument("--dtype", choices=list(NEAR), default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-reference", action="store_true", help="read it, compare nothing")
    options = parser.parse_args()
    if options.quick:
        options.size, options.tokens = "1M", 3000
    long = Long(size=options.size, tokens=options.tokens, dtype=options.dtype, device=options.device)
    ask = functools.partial(
        child, Path(__file__), payload=long.model_dump(mode="json"), seconds=options.limit,
        threads=options.threads, show=True,
    )  # fmt: skip
    engine = ask(handler="engine")
    say(f"engine: {engine.get('error') or round(engine['seconds'])} s")
    whole = {"error": "left out"} if options.no_reference else ask(handler="reference")
    line = summary(long, engine, whole)
    print(table(long, line, engine, whole))
    if options.out is not None:
        record = record_of(
            torch.device(options.device), work=long.model_dump(mode="json"), threads=options.threads,
            summary=line, engine=engine, reference=whole,
        )  # fmt: skip
        say(f"written: {write_record(options.out, 'engine-long', record)}")


if __name__ == "__main__":
    entry(
        main,
        {
            "engine": lambda payload: read(Long.model_validate(payload)),
            "reference": lambda payload: reference(Long.model_validate(payload)),
        },
    )
