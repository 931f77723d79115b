"""The prefix cache on this CPU: what it gains where prompts begin alike, what it costs where none do.

    python benchmarks/engine_prefix.py --out docs/results
    python benchmarks/engine_prefix.py --quick

*Alike* is a round of critiques: 256 requests that share few-shot examples of 9,000 characters (2,250 tokens
at four characters a token), add a text of their own of 200 (50 tokens), and get 32 tokens each. *Unlike*: 64
requests of 64 to 192 random tokens, none beginning as another, 32 new tokens each. *Samples*, as RL draws:
16 prompts of 16 to 47 tokens, four of each, 32 new tokens. All at the 10M shape of `train_vs_hf.py` with a
context of 4,096, greedy, fresh weights, all requests given to the engine at once.

Without the cache means the same engine whose pages get no name: nothing is hashed, found, waited for or kept.
It must say the same tokens, which is checked. Alike, with and without take turns in processes of their own,
and the median of all rounds is reported. Unlike, where 1% is to be seen, two engines in one process take
turns on the same new prompts, the second of a pair first in the next, and the median of the ratios of their
times is reported, beside the quartiles. Samples, in the same way, beside an engine that shares full pages and
copies none, which is what the cache did alone. `--quick` is a smoke test, not a measurement.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import itertools
import random
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from engines import FIRST_ID, SHAPES, WIDTHS, our_engine
from harness import (
    Memory,
    child,
    entry,
    extra,
    in_rounds,
    markdown,
    options_of,
    record_of,
    say,
    write_record,
)

from publius.core.config import Config
from publius.inference import Engine, Request, Sampling
from publius.inference.pages import PAGE, PagePool
from publius.inference.scheduler import Scheduler
from publius.model import ModelConfig

CONTEXT = 4096
Draw = Callable[["Work", int], list[list[int]]]
"""Prompts of a workload; other ones for another number."""
GAIN, COST = 3.0, 0.01
"""What is asked: so many times the requests a second where prompts begin alike, so much more time at most."""


class Work(Config):
    """Requests, and how they are run."""

    size: str = "10M"
    dtype: str = "bfloat16"
    requests: int = 256
    shared: int = 2250
    """(alike) Tokens all prompts begin with."""
    own: int = 50
    """(alike) Tokens of each alone."""
    lengths: tuple[int, int] = (64, 192)
    """(unlike) Fewest and most tokens of a prompt."""
    new: int = 32
    reuse: bool = True
    """(alike) With the prefix cache."""
    pairs: int = 80
    """(unlike) With and without, so many times."""
    each: int = 64
    """(unlike) Requests of each: few, since the machine's speed changes from second to second."""
    group: int = 4
    """(samples) Of each prompt."""

    @property
    def shape(self) -> ModelConfig:
        """The model."""
        return SHAPES[self.size].model_copy(update={"max_position": CONTEXT})


class NamelessPool(PagePool):
    """Pages that nobody finds again."""

    def known(self, chain: Iterable[bytes]) -> int:
        """None."""
        return 0

    def name(self, page: int, key: bytes) -> None:
        """It gets none, and is free when its user gives it back."""


class WholeScheduler(Scheduler):
    """Shares full pages only: the page a prompt ends in is read by everyone."""

    def add(self, request: Request) -> None:
        """It has no tail that another could have."""
        super().add(request)
        request.tail = b""


class NamelessScheduler(WholeScheduler):
    """Gives every page a number nobody else has in place of the hash of what it holds."""

    _numbers = itertools.count()

    @staticmethod
    def _extend_chain(request: Request) -> None:
        for _ in range(len(request.chain), request.length // PAGE):
            request.chain.append(next(NamelessScheduler._numbers).to_bytes(8, "little"))


def engine_of(work: Work, reuse: bool, *, whole: bool = False) -> Engine:
    """An engine that is warm, with the prefix cache, of `whole` pages alone, or without."""
    engine = our_engine(work.shape, work.dtype)
    pool, scheduler = (PagePool, Scheduler) if reuse else (NamelessPool, NamelessScheduler)
    if whole:
        scheduler = WholeScheduler
    prompt = list(range(FIRST_ID, FIRST_ID + 2 * PAGE))
    with mock.patch.multiple("publius.inference.engine", PagePool=pool, Scheduler=scheduler):
        # The first request makes them.
        engine.generate([prompt], Sampling(max_tokens=work.new, temperature=0.0))
    return engine


def alike(work: Work, number: int) -> list[list[int]]:
    """Prompts with one beginning; other ones for another `number`."""
    rng, ids = random.Random(number), range(FIRST_ID, work.shape.vocab_size)
    shared = rng.choices(ids, k=work.shared)
    return [shared + rng.choices(ids, k=work.own) for _ in range(work.requests)]


def unlike(work: Work, number: int) -> list[list[int]]:
    """Prompts of always the same lengths and never the same tokens."""
    lengths, rng = random.Random(0), random.Random(number)
    ids = range(FIRST_ID, work.shape.vocab_size)
    return [rng.choices(ids, k=lengths.randint(*work.lengths)) for _ in range(work.each)]


def samples(work: Work, number: int) -> list[list[int]]:
    """New prompts, each as often as it is sampled."""
    rng, ids = random.Random(number), range(FIRST_ID, work.shape.vocab_size)
    count = max(1, work.each // work.group)
    prompts = [rng.choices(ids, k=PAGE + place % (2 * PAGE)) for place in range(0, count * 7, 7)]
    return [prompt for prompt in prompts for _ in range(work.group)]


def run(engine: Engine, prompts: Sequence[Sequence[int]], new: int) -> tuple[float, str]:
    """Seconds that all requests take together, and a hash of all that was said."""
    start = time.perf_counter()
    done = engine.generate(prompts, Sampling(max_tokens=new, temperature=0.0))
    seconds = time.perf_counter() - start
    said = [one.tokens for one in done]
    if any(len(tokens) != new for tokens in said):
        raise AssertionError("a text ended early")
    return seconds, hashlib.sha256(repr(said).encode()).hexdigest()[:16]


def time_alike(work: Work) -> dict[str, Any]:
    """In a child: requests/s of one workload."""
    memory = Memory(torch.device("cpu"))
    engine = engine_of(work, work.reuse)
    before = engine.stats.reused
    seconds, said = run(engine, alike(work, 1), work.new)
    asked = work.requests * (work.shared + work.own)
    return {
        "windows": [work.requests / seconds],
        "peak_bytes": memory.peak(),
        "said": said,
        "reused": (engine.stats.reused - before) / asked,
    }


def time_unlike(work: Work) -> dict[str, Any]:
    """In a child: seconds of every workload with and without the cache, in pairs."""
    return _paired(work, {reuse: engine_of(work, reuse) for reuse in (True, False)}, unlike)


def time_samples(work: Work) -> dict[str, Any]:
    """In a child: seconds with the last page copied and with full pages shared alone, in pairs."""
    return _paired(
        work, {copies: engine_of(work, True, whole=not copies) for copies in (True, False)}, samples
    )


def _paired(work: Work, engines: dict[bool, Engine], draw: Draw) -> dict[str, Any]:
    pairs: list[list[float]] = []
    for number in range(work.pairs + 1):
        prompts, found = draw(work, number), dict[bool, tuple[float, str]]()
        for reuse in (True, False) if number % 2 else (False, True):
            found[reuse] = run(engines[reuse], prompts, work.new)
        if found[True][1] != found[False][1]:
            raise AssertionError("the prefix cache changed a text")
        pairs.append([found[True][0], found[False][0]])
    return {"pairs": pairs[1:], "reused": engines[True].stats.reused}  # the first warms up


def summary(
    with_it: dict[str, Any], without: dict[str, Any], none: dict[str, Any], sampled: dict[str, Any]
) -> dict[str, Any]:
    """The three ratios, each None when a side failed."""
    line: dict[str, Any] = {"gain": None, "cost": None, "samples": None}
    if "error" not in sampled:
        line["samples"] = extra(sampled["pairs"])
    if "error" not in with_it and "error" not in without:
        if with_it["said"] != without["said"]:
            raise AssertionError("the prefix cache changed a text")
        line["gain"] = with_it["tokens_per_second"] / without["tokens_per_second"]
    if "error" not in none:
        line["cost"] = extra(none["pairs"])
    return line


def _row(work: Work, found: dict[str, Any], ratio: dict[str, float]) -> list[str]:
    """What was reused, both rates and the time, of a workload in pairs."""
    rates = (work.each / statistics.median(side) for side in zip(*found["pairs"], strict=True))
    more, low, high = (ratio[name] for name in ("median", "low", "high"))
    time = f"{more:+.2%} time ({low:+.2%} to {high:+.2%}, {len(found['pairs'])} pairs)"
    return [f"{found['reused']} tokens", *(f"{rate:.2f} requests/s" for rate in rates), time]


def table(work: Work, line: dict[str, Any], results: Sequence[dict[str, Any]]) -> str:
    """Markdown: the three workloads."""
    alike_with, alike_without, none, sampled = results
    rows: list[list[str]] = []
    if line["gain"] is not None:
        rows.append(
            [
                f"{work.requests} that share {work.shared:,} of {work.shared + work.own:,} tokens",
                f"{alike_with['reused']:.1%}",
                f"{alike_with['tokens_per_second']:.2f} requests/s",
                f"{alike_without['tokens_per_second']:.2f} requests/s",
                f"{line['gain']:.2f}x",
                f"{GAIN:.0f}x: {'met' if line['gain'] >= GAIN else 'missed'}",
            ]
        )
    if line["cost"] is not None:
        met = f"at most {COST:.0%}: {'met' if line['cost']['median'] <= COST else 'missed'}"
        what = f"{work.each} of {work.lengths[0]} to {work.lengths[1]} tokens, nothing shared"
        rows.append([what, *_row(work, none, line["cost"]), met])
    if line["samples"] is not None:
        what = f"{work.each // work.group} prompts of 16 to 47 tokens, {work.group} samples each"
        rows.append([what, *_row(work, sampled, line["samples"]), "reported"])
    failed = [[result["error"], *[""] * 5] for result in results if "error" in result]
    return markdown(["requests", "reused", "with", "without", "ratio", "wanted"], rows + failed)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = options_of(__doc__, "1M, few and short requests", 1800.0)
    parser.add_argument("--size", choices=list(SHAPES), default="10M")
    parser.add_argument("--dtype", choices=list(WIDTHS), default="bfloat16")
    parser.add_argument(
        "--rounds", type=int, default=3, help="of requests that begin alike; 0 leaves them out"
    )
    parser.add_argument("--pairs", type=int, default=80, help="of requests that do not, and of samples")
    options = parser.parse_args()
    if options.quick:
        options.size, options.rounds, options.pairs = "1M", 1, 2
    return options


def main() -> None:
    """Measure, record, print."""
    options = arguments()
    few = (
        {"requests": 8, "each": 8, "shared": 200, "own": 10, "lengths": (16, 40), "new": 4}
        if options.quick
        else {}
    )
    work = Work(size=options.size, dtype=options.dtype, pairs=options.pairs, **few)

    def ask(handler: str, asked: Work) -> dict[str, Any]:
        payload = asked.model_dump(mode="json")
        result = child(Path(__file__), handler, payload, seconds=options.limit, threads=options.threads)
        told = result.get("error") or result.get("windows") or extra(result["pairs"])
        say(f"{handler} {'with' if asked.reuse else 'without'}: {told}")
        return result

    both = [work, work.model_copy(update={"reuse": False})]
    results = [{"error": "left out"}] * 2
    if options.rounds:
        results = in_rounds([functools.partial(ask, "alike", one) for one in both], options.rounds)
    results += [ask("unlike", work), ask("samples", work)]
    line = summary(*results)
    print(table(work, line, results))
    if options.out is not None:
        plain = {name: value for name, value in vars(options).items() if name != "out"}
        names = ("alike_with", "alike_without", "unlike", "samples")
        record = record_of(
            torch.device("cpu"), settings=plain, work=work.model_dump(mode="json"), summary=line,
            **dict(zip(names, results, strict=True)),
        )  # fmt: skip
        say(f"written: {write_record(options.out, 'engine-prefix', record)}")


if __name__ == "__main__":
    entry(
        main,
        {
            "alike": lambda payload: time_alike(Work.model_validate(payload)),
            "unlike": lambda payload: time_unlike(Work.model_validate(payload)),
            "samples": lambda payload: time_samples(Work.model_validate(payload)),
        },
    )
