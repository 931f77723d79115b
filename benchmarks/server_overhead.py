"""What serving adds to the bare engine, a token: both in turn, several times.

    python benchmarks/server_overhead.py --home build/quickstart --model quickstart --out docs/results
    python benchmarks/server_overhead.py --quick

Where two things that are to be compared run minutes apart, a machine's own unrest is larger than what is to
be seen. So `publius serve` stays up, and load on it (`load.py`, in a process of its own beside it) and the
engine alone, with the same prompts and as many requests under way, take turns; each round of load is held
against the engine before and after it. Told is the median of the rounds, and their range.

A token's overhead is told twice: by processor time of the server against that of the engine, and by the
clock, where the load client takes its share of the same cores. Replies of a Pocket model are some eighteen
tokens, so that what is told of them is mostly the cost of a request; replies of `--long` tokens (none may end
before) tell the cost of a token. `--quick` is a smoke test, not a measurement.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import child, entry, markdown, options_of, say
from server import KEY, Model, load_side, model_of, prompts_of, record, serving, shared_options, under_load

from publius.core.errors import UserError
from publius.core.messages import Conversation, user
from publius.inference import Engine, Request, Sampling
from publius.model.checkpoint import Checkpoint
from publius.testing import RunningServer
from publius.tokenizer import Renderer
from publius.tokenizer.special import THINK, TOOL_USE

OVERHEAD = 0.15
"""What is asked: at most so much more a token."""


def engine_side(payload: dict[str, Any]) -> dict[str, Any]:
    """Tokens a second of an engine with so many requests under way, and its processor time a token."""
    checkpoint = Checkpoint(Path(payload["path"]))
    tokenizer = checkpoint.tokenizer()
    engine = Engine(checkpoint.load(), tokenizer, max_batch=payload["rows"])
    renderer, rng = Renderer(tokenizer), random.Random(0)
    never = {tokenizer.special[name]: -math.inf for name in (THINK, TOOL_USE)}
    never |= dict.fromkeys(payload["banned"], -100.0)
    sampling = Sampling(max_tokens=payload["max_tokens"], temperature=0.0, logit_bias=never)
    prompts = [renderer.prompt(Conversation(messages=(user(text),))) for text in payload["prompts"]]
    prompts = [ids for ids in prompts if len(ids) + payload["max_tokens"] <= engine.context]
    live: list[Request] = []
    tokens = requests = 0
    for seconds in (payload["warm"], payload["seconds"]):  # the first is not counted
        tokens, requests, before = 0, 0, sum(len(one.tokens) for one in live)
        began, spent = time.perf_counter(), time.process_time()
        while time.perf_counter() - began < seconds:
            while len(live) < payload["streams"]:
                live.append(engine.submit(rng.choice(prompts), sampling))
            engine.step()
            over = [one for one in live if one.stop_reason is not None]
            tokens, requests = tokens + sum(len(one.tokens) for one in over), requests + len(over)
            live = [one for one in live if one.stop_reason is None]
        tokens += sum(len(one.tokens) for one in live) - before
    took = time.perf_counter() - began
    return {
        "tokens_per_second": tokens / took, "requests_per_second": requests / took,
        "cpu_per_token": (time.process_time() - spent) / tokens,
    }  # fmt: skip


def bare(options: argparse.Namespace, payload: dict[str, Any]) -> dict[str, Any]:
    """The engine alone, in a process of its own."""
    limit = options.engine_seconds + options.limit
    one = child(Path(__file__), "engine", payload, seconds=limit, threads=options.threads)
    if "error" in one:
        raise UserError(f"the bare engine failed: {one['error']}", where="benchmarks/server_overhead.py")
    return one


def overheads(ours: dict[str, Any], beside: list[dict[str, Any]]) -> dict[str, float]:
    """How much more time and processor time a token takes than in the bare engine."""
    rate = sum(one["tokens_per_second"] for one in beside) / len(beside)
    spent = sum(one["cpu_per_token"] for one in beside) / len(beside)
    return {"clock": rate / ours["tokens_per_second"] - 1, "processor": ours["cpu_per_token"] / spent - 1}


def rounds(
    options: argparse.Namespace, running: RunningServer, alone: dict[str, Any], load: dict[str, Any]
) -> dict[str, Any]:
    """Both in turn: engine, server, engine, server, ..., engine."""
    load = {**load, "port": running.port, "model": running.model}
    engines = [bare(options, alone)]
    servers: list[dict[str, Any]] = []
    for number in range(options.rounds):
        servers.append(under_load(options, running.process.pid, load)[0])
        engines.append(bare(options, alone))
        more = overheads(servers[-1], engines[-2:])
        say(f"round {number + 1}: processor {more['processor']:+.1%}, clock {more['clock']:+.1%}")
    more = [overheads(one, engines[i : i + 2]) for i, one in enumerate(servers)]
    return {
        "tokens_a_reply": sum(s["tokens"] for s in servers) / max(1, sum(s["replies"] for s in servers)),
        "errors": sum(sum(one["errors"].values()) for one in servers),
        "engines": engines, "servers": servers,
        **{kind: [one[kind] for one in more] for kind in ("processor", "clock")},
    }  # fmt: skip


def verdicts(found: dict[str, Any]) -> list[list[str]]:
    """What was asked for, what came, and whether that is enough."""
    rows: list[list[str]] = []
    for one in (found["long"], found["short"]):
        for kind, note in (("processor", "processor"), ("clock", "clock (the client's work in it)")):
            middle = statistics.median(one[kind])
            rows.append([
                f"overhead a token in replies of {one['tokens_a_reply']:.0f}, {note}",
                f"{middle:+.1%} ({min(one[kind]):+.1%} to {max(one[kind]):+.1%})", f"<= {OVERHEAD:+.0%}",
                "met" if middle <= OVERHEAD else "missed",
            ])  # fmt: skip
    return rows


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = options_of(__doc__, "a second a side, few streams", 120.0)
    shared_options(parser)
    parser.set_defaults(warm=2.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--long", type=int, default=256, help="tokens of each long reply")
    parser.add_argument("--seconds", type=float, default=8.0, help="of load a round")
    parser.add_argument("--engine-seconds", type=float, default=6.0, help="of the bare engine a round")
    options = parser.parse_args()
    if options.quick:
        options.streams, options.rounds, options.seconds, options.engine_seconds = 8, 1, 0.5, 0.5
        options.max_tokens, options.long, options.warm = 16, 32, 0.0
    return options


def _loads(options: argparse.Namespace, model: Model) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Name -> what the engine is given, and what the load client."""
    ends = sorted(Checkpoint(Path(model.path)).tokenizer().special_ids)
    shared = {"streams": options.streams, "prompts": prompts_of(options)}
    alone = {
        **shared, "path": model.path, "rows": options.rows, "warm": options.warm / 2,
        "seconds": options.engine_seconds,
    }  # fmt: skip
    load = {**shared, "key": KEY, "seconds": options.seconds}
    endless = {"dialect": "chat", "more": {"logit_bias": {str(id): -100 for id in ends}}}
    short, long = {"max_tokens": options.max_tokens}, {"max_tokens": options.long}
    return {
        "short": ({**alone, **short, "banned": []}, {**load, **short}),
        "long": ({**alone, **long, "banned": ends}, {**load, **long, **endless}),
    }


def main() -> None:
    """Measure, record, print."""
    options, found = arguments(), dict[str, Any]()
    with tempfile.TemporaryDirectory() as folder:
        model = model_of(options, Path(folder))
        with serving(options, model) as running:
            for name, (alone, load) in _loads(options, model).items():
                found[name] = rounds(options, running, alone, load)
    print(markdown(["asked", "found (range of rounds)", "wanted", ""], verdicts(found)))
    if options.out is not None:
        record(options, "server-overhead", verdicts(found), found)


if __name__ == "__main__":
    entry(main, {"engine": engine_side, "load": load_side})
