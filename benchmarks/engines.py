"""One case of generation, run by our engine or by transformers: the same shape, weights, numbers of tokens.

*Decode*: rows of random prompts are read, and then only the steps after every row's first token are timed, so
that what is compared is tokens/s of decoding, sampling (greedy) and the loop around it included. *Requests*:
many prompts of mixed lengths, each with its own number of new tokens, from the first submitted to the last
finished, reading included. Text never ends early: no token ends it, and what was said is counted.

Transformers' side is `LlamaForCausalLM` (SDPA) with `generate`: its growing cache, eager; or its static cache
with the compiled forward. For requests: its continuous batching, or padded batches of requests of like
length. Compiling and warm-up are not timed.
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from harness import Memory
from sides import peer_model
from train_vs_hf import SIZES
from transformers import GenerationConfig, LlamaForCausalLM
from transformers.generation import CompileConfig, ContinuousBatchingConfig

from publius.core.config import Config
from publius.inference import Engine, Sampling
from publius.inference.host import Dtype
from publius.model import ModelConfig
from publius.model.transformer import Transformer
from publius.testing import byte_tokenizer

__all__ = ["SHAPES", "EngineCase", "Job", "bandwidth", "generate", "jobs", "our_engine", "weight_bytes"]

SHAPES: dict[str, ModelConfig] = {
    **{name: SIZES[name].shape for name in ("1M", "10M")},
    "125M": ModelConfig(
        vocab_size=32_000, hidden_size=768, layers=12, heads=12, kv_heads=4, head_dim=64,
        intermediate_size=2112, max_position=2048,
    ),
}  # fmt: skip
WIDTHS = {"float32": 4, "bfloat16": 2, "int8": 1}
"""Bytes of a weight."""
WARM = 3
"""Generations before the first timed one: code is compiled in the first, some of it again in the second."""
MODES = {"compiled": "default", "tuned": "max-autotune"}
"""torch.compile's."""
FIRST_ID = 13
"""Ids below are special in the byte tokenizer."""


class EngineCase(Config):
    """What is generated, by whom, and how it is timed."""

    size: str
    """A name in SHAPES."""
    side: Literal["ours", "hf", "llama"]
    work: Literal["decode", "requests"] = "decode"
    mode: str
    """ours: float32, bfloat16, int8. hf: float32 or bfloat16, then eager, compiled, tuned, batching:N or
    padded:N. llama: the type of its weights."""
    rows: int = 1
    prompt: int = 64
    new: int = 64
    """Tokens of a row."""
    count: int = 64
    """(requests) How many."""
    longest: tuple[int, int] = (512, 256)
    """(requests) Most tokens of a prompt, and most new ones; the least are 16."""
    windows: int = 3
    """Of requests, each is one workload."""
    seconds: float = 2.0
    """Of decoding in a window, at least."""
    threads: int = 1
    reads: bool = False
    """(ours) Read memory before and after every window."""
    path: str = ""
    """(llama) The file of weights."""
    programs: str = ""
    """(llama) The folder of its programs."""

    @property
    def shape(self) -> ModelConfig:
        """The model."""
        return SHAPES[self.size]


class Job(NamedTuple):
    """A request."""

    prompt: list[int]
    new: int


_Runner = Callable[[Sequence[Job]], list[list[int]]]
"""Answers requests: the tokens of each."""


class _Once(NamedTuple):
    """One timed stretch."""

    tokens: int
    seconds: float
    said: list[int]
    """By the first row."""


def weight_bytes(shape: ModelConfig, dtype: str) -> int:
    """Bytes of weights that a decoded token reads: every matrix and the head, once."""
    weights = shape.layers * shape.layer_matrices() + shape.vocab_size * shape.hidden_size
    return weights * WIDTHS[dtype]


def prompts(case: EngineCase, number: int) -> list[list[int]]:
    """The rows' prompts in generation `number`: no two alike, so that none is in a prefix cache."""
    rng = random.Random(number)
    ids = range(FIRST_ID, case.shape.vocab_size)
    return [rng.choices(ids, k=case.prompt) for _ in range(case.rows)]


def jobs(case: EngineCase, number: int) -> list[Job]:
    """Requests whose lengths are always the same and whose tokens are those of window `number`."""
    lengths, tokens = random.Random(0), random.Random(number)
    ids = range(FIRST_ID, case.shape.vocab_size)
    made: list[Job] = []
    for _ in range(case.count):
        size, new = (lengths.randint(16, most) for most in case.longest)
        made.append(Job(tokens.choices(ids, k=size), new))
    return made


def generate(case: EngineCase) -> dict[str, Any]:
    """Run a case of `ours` or `hf` here and now: windows of tokens/s, the first text, peak memory."""
    memory = Memory(torch.device("cpu"))
    torch.manual_seed(0)
    if case.work == "requests":
        found = _requests(case)
    else:
        found = _windows(case, _our_decode(case) if case.side == "ours" else _its_decode(case))
    return {**found, "peak_bytes": memory.peak()}


def _windows(case: EngineCase, once: Callable[[int], _Once]) -> dict[str, Any]:
    """Generate, warm-up first, until every window has its seconds.

    `reads`, when asked for, are the bytes/s that could be read beside each window: what a memory that others
    use too gives changes within seconds.
    """
    said = [once(number).said for number in range(WARM)]
    numbers = itertools.count(WARM)
    rates: list[float] = []
    edges = [max(bandwidth(0.5, 1))] if case.reads else []
    for _ in range(case.windows):
        tokens, seconds = 0, 0.0
        while not tokens or seconds < case.seconds:
            done = once(next(numbers))
            tokens, seconds = tokens + done.tokens, seconds + done.seconds
        rates.append(tokens / seconds)
        edges += [max(bandwidth(0.5, 1))] if case.reads else []
    reads = {"reads": [max(pair) for pair in itertools.pairwise(edges)]} if case.reads else {}
    return {"windows": rates, "said": said[0], **reads}


# ---- ours ----


def our_engine(
    shape: ModelConfig, dtype: str, change: Callable[[Transformer], None] | None = None, **settings: Any
) -> Engine:
    """An engine over fresh weights (seed 0, then `change`d) whose text no token ends."""
    kinds: dict[str, Dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": "int8"}
    tokenizer = byte_tokenizer()
    tokenizer.end_id = -1
    model = Transformer(shape, seed=0).eval()
    if change is not None:
        change(model)
    return Engine(model, tokenizer, dtype=kinds[dtype], **settings)


def _our_decode(case: EngineCase) -> Callable[[int], _Once]:
    engine = our_engine(case.shape, case.mode)

    def once(number: int) -> _Once:
        greedy = Sampling(max_tokens=case.new, temperature=0.0)
        rows = [engine.submit(prompt, greedy) for prompt in prompts(case, number)]
        while not all(row.tokens for row in rows):
            engine.step()
        before, start = sum(len(row.tokens) for row in rows), time.perf_counter()
        while engine.step():
            pass
        seconds = time.perf_counter() - start
        _all_said([row.tokens for row in rows], [case.new] * case.rows)
        return _Once(case.rows * case.new - before, seconds, rows[0].tokens)

    return once


def _all_said(said: Sequence[Sequence[int]], wanted: Sequence[int]) -> None:
    found = list(map(len, said))
    if found != list(wanted):
        raise AssertionError(f"{sum(found)} tokens were said, not {sum(wanted)}")


# ---- transformers ----


class _Clock:
    """A streamer that only notes when tokens come; the prompt comes first."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        """Tokens have come."""
        self.marks.append(time.perf_counter())

    def end(self) -> None:
        """No more will."""


def _peer(case: EngineCase) -> LlamaForCausalLM:
    """Transformers' model with our weights; nothing ends its text."""
    model = peer_model(case.shape, 0).eval().requires_grad_(False)
    model.to(getattr(torch, case.mode.split(":")[0]))
    model.generation_config.eos_token_id = None
    return model


def _greedy(new: int, how: str = "eager") -> GenerationConfig:
    config = GenerationConfig(do_sample=False, max_new_tokens=new, eos_token_id=None, pad_token_id=0)
    if how in MODES:
        config.cache_implementation = "static"
        config.compile_config = CompileConfig(fullgraph=False, dynamic=False, mode=MODES[how])
        config.compile_config._compile_all_devices = True  # else only accelerators compile
    return config


@torch.no_grad()
def _said(
    model: LlamaForCausalLM, rows: Sequence[Sequence[int]], config: GenerationConfig, **more: Any
) -> Any:
    """Tokens [rows, new] after prompts that are padded on the left."""
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return model.generate(ids, attention_mask=mask, generation_config=config, **more)[:, width:]


def _its_decode(case: EngineCase) -> Callable[[int], _Once]:
    model = _peer(case)
    config = _greedy(case.new, case.mode.split(":")[1])

    def once(number: int) -> _Once:
        clock = _Clock()
        said = _said(model, prompts(case, number), config, streamer=clock).tolist()
        _all_said(said, [case.new])
        marks = clock.marks[1:]
        return _Once(len(marks) - 1, marks[-1] - marks[0], said[0])

    return once


# ---- requests ----


def _requests(case: EngineCase) -> dict[str, Any]:
    """Tokens/s of all requests together, one workload a window, after a warm-up on a few."""
    few = [Job(job.prompt, min(job.new, 16)) for job in jobs(case, -1)]
    rates: list[float] = []
    first: list[int] = []
    with contextlib.ExitStack() as stack:
        if case.side == "ours":
            run = _our_requests(case)
        else:
            _, how, rows = case.mode.split(":")
            run = _padded(case, int(rows)) if how == "padded" else _batching(case, int(rows), stack)
        run(few[: max(4, len(few) // 4)])
        for number in range(case.windows):
            work = jobs(case, number)
            start = time.perf_counter()
            said = run(work)
            seconds = time.perf_counter() - start
            wanted = [job.new for job in work]
            _all_said(said, wanted)
            rates.append(sum(wanted) / seconds)
            first = first or said[0]
    return {"windows": rates, "said": first}


def _our_requests(case: EngineCase) -> _Runner:
    engine = our_engine(case.shape, case.mode)

    def run(work: Sequence[Job]) -> list[list[int]]:
        samplings = [Sampling(max_tokens=job.new, temperature=0.0) for job in work]
        return [list(done.tokens) for done in engine.generate([job.prompt for job in work], samplings)]

    return run


def _batching(case: EngineCase, rows: int, stack: contextlib.ExitStack) -> _Runner:
    """Its continuous batching, at most `rows` at once.

    Its own guess at the size of its cache takes most of the free memory, which costs many seconds at the
    start and gains nothing, so it is given: room for all requests. Its settings matter little on a CPU (pages
    of 16 to 256, steps of 256 or 1,024 tokens: within 10%); compiling makes it some five times slower, since
    every step has another shape.
    """
    model, page = _peer(case), 64
    pages = case.count * -(-(sum(case.longest) + 1) // page)
    config = ContinuousBatchingConfig(
        page_size=page, num_blocks=pages, max_batch_tokens=1024, max_requests_per_batch=rows
    )
    running = model.continuous_batching_context_manager(
        generation_config=_greedy(case.longest[1]), continuous_batching_config=config, warmup=False
    )
    manager = stack.enter_context(running)

    def run(work: Sequence[Job]) -> list[list[int]]:
        names = [manager.add_request(job.prompt, max_new_tokens=job.new) for job in work]
        said: dict[str, list[int]] = {}
        while len(said) < len(work):
            result = manager.get_result(timeout=1)
            if result is None and not manager.is_running():
                raise RuntimeError("continuous batching ended before its requests")
            if result is not None and result.is_finished():
                said[result.request_id] = result.generated_tokens
        return [said[name] for name in names]

    return run


def _padded(case: EngineCase, rows: int) -> _Runner:
    """Batches of `rows`, those that want most tokens together; what a row did not want is not counted."""
    model = _peer(case)

    def run(work: Sequence[Job]) -> list[list[int]]:
        order = sorted(range(len(work)), key=lambda i: (work[i].new, len(work[i].prompt)))
        said: list[list[int]] = [[]] * len(work)
        for first in range(0, len(order), rows):
            group = order[first : first + rows]
            most = max(work[i].new for i in group)
            tokens = _said(model, [work[i].prompt for i in group], _greedy(most))
            for row, i in zip(tokens, group, strict=True):
                said[i] = row[: work[i].new].tolist()
        return said

    return run


# ---- memory ----


def bandwidth(gigabytes: float, times: int) -> list[float]:
    """Bytes/s of reading much memory with all threads, in several ways; the largest is what can be had.

    The memory is asked for in large pages, where the system has them.
    """
    size = int(gigabytes * 2**30) // 2**16 * 2**16
    held = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        held.madvise(mmap.MADV_HUGEPAGE)
    floats = torch.frombuffer(held, dtype=torch.float32).fill_(1.0)
    whole, table, vector = floats.view(torch.int32), floats.view(-1, 4096), torch.ones(4096)
    ways: list[Callable[[], object]] = [
        lambda: floats.sum(),
        lambda: floats.amax(),
        lambda: whole.sum(dtype=torch.int32),
        lambda: torch.mv(table, vector),
    ]
    rates: list[float] = []
    for _ in range(times):
        for read in ways:
            start = time.perf_counter()
            read()
            rates.append(size / (time.perf_counter() - start))
    return rates
