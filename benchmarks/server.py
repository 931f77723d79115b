"""The server under load on this machine: many streams at once, and what serving adds to the bare engine.

    python benchmarks/server.py --home build/quickstart --model quickstart --seconds 600 --out docs/results
    python benchmarks/server.py --peer-llama build/bin --peer-gguf model.gguf --out docs/results
    python benchmarks/server.py --quick

`publius serve` runs as a user runs it, the load client (`load.py`, plain sockets) in a process of its own
beside it. So many streams are kept going all the time: one that ends is followed by the next. What is told:
errors, requests and tokens a second, time to the first token (p50, p99, and the longest over the median:
nobody may starve), the server's resident memory from the first minute to the last.

The bare engine is given the same prompts with as many requests under way, in a process of its own, before and
after. Serving's overhead a token is told twice: by the clock, where the load client takes its share of the
same cores too, and by processor time of the server against that of the engine, where it does not. Replies of
a Pocket model are some fourteen tokens, so that what is told first is mostly the cost of a request; then the
same load runs with replies of `--long` tokens each (no token may end one), which tells the cost of a token.

Prompts are held-out questions of the model's Pocket world, or made-up ones; greedy. Without `--model`, fresh
weights of the Pocket shape with the byte tokenizer. The peer's server gets the same model as GGUF
(`publius export`, then llama.cpp's `convert_hf_to_gguf.py`), as many slots as we have rows, and the same load
through `/v1/chat/completions`; ours then too. `--quick` is a smoke test, not a measurement.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import random
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from harness import child, entry, markdown, options_of, record_of, say, write_record
from load import Load, run

from publius.core.errors import UserError
from publius.core.messages import Conversation, text_of, user
from publius.data.pocket.world import World
from publius.inference import Engine, Request, Sampling
from publius.model.checkpoint import Checkpoint
from publius.release.locate import locate
from publius.testing import RunningServer, served, write_tiny_checkpoint
from publius.testing.server import free_port
from publius.tokenizer import Renderer
from publius.tokenizer.special import THINK, TOOL_USE

STARVED, OVERHEAD, GROWN = 5.0, 0.15, 0.05
"""What is asked: longest first token over the median, overhead a token, growth of memory."""
POCKET = {
    "hidden_size": 192, "layers": 4, "heads": 6, "kv_heads": 3, "head_dim": 32, "intermediate_size": 512,
    "max_position": 1024,
}  # fmt: skip
KEY = "key-of-the-benchmark"


class Model(NamedTuple):
    """What is served."""

    target: str
    home: str
    path: str
    released: bool


def model_of(options: argparse.Namespace, folder: Path) -> Model:
    """The model named, or fresh weights."""
    if options.model is None:
        path = write_tiny_checkpoint(folder / "fresh", **POCKET)
        return Model(str(path), str(folder), str(path), False)
    found = locate(options.model, options.home)
    released = (found.checkpoint / "decision").is_dir()
    return Model(options.model, str(options.home.absolute()), str(found.checkpoint), released)


def prompts_of(options: argparse.Namespace) -> list[str]:
    """User texts."""
    world = locate(options.model, options.home).world if options.model is not None else None
    if world is None:
        rng = random.Random(0)
        return [f"Who lives at the mill number {rng.randrange(10**6)}?" for _ in range(400)]
    kinds = ("fact", "craft", "sum", "chat", "identity")
    asked = [q for kind in kinds for q in World(world).questions(kind, "test")]
    return [text_of(q.messages[-1]) for q in asked]


# ---- the bare engine ----


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


# ---- the server ----


def status_of(pid: int) -> tuple[int, float]:
    """Resident bytes and processor seconds of a process; zeros where the system does not tell."""
    folder = Path(f"/proc/{pid}")
    if not folder.is_dir():
        return 0, 0.0
    resident = int(folder.joinpath("statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    fields = folder.joinpath("stat").read_text().rpartition(")")[2].split()
    return resident, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def load_side(payload: dict[str, Any]) -> dict[str, Any]:
    """In a process of its own: keep the streams going."""
    return run(Load(**payload))


def under_load(
    options: argparse.Namespace, pid: int, load: dict[str, Any]
) -> tuple[dict[str, Any], list[tuple[float, int]]]:
    """What the load client tells, with the server's processor time a token; and its memory as it went."""
    if options.warm:
        warm = {**load, "seconds": options.warm}
        child(Path(__file__), "load", warm, seconds=options.warm + options.limit, threads=1)
    began, spent = time.perf_counter(), status_of(pid)[1]
    with _watching(pid) as memory:
        found = child(Path(__file__), "load", load, seconds=load["seconds"] + options.limit, threads=1)
    if "error" in found:
        raise UserError(f"the load client failed: {found['error']}", where="benchmarks/server.py")
    found["cpu_per_token"] = (status_of(pid)[1] - spent) / max(1, found["tokens"])
    found["wall"] = time.perf_counter() - began
    return found, memory


@contextlib.contextmanager
def _watching(pid: int) -> Iterator[list[tuple[float, int]]]:
    """Seconds and resident bytes of a process, noted every second by a thread."""
    seen: list[tuple[float, int]] = []
    began, over = time.perf_counter(), threading.Event()

    def watch() -> None:
        while not over.wait(1.0 if seen else 0.0):
            seen.append((time.perf_counter() - began, status_of(pid)[0]))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


def serve_ours(
    options: argparse.Namespace, model: Model, load: dict[str, Any], long: dict[str, Any]
) -> dict[str, Any]:
    """Our server under the load, and under that of long replies."""
    more = ["--rows", str(options.rows), "--queue", str(4 * options.streams), "--home", model.home]
    more += [] if model.released else ["--unreleased"]
    threads = {"OMP_NUM_THREADS": str(options.threads)}
    with tempfile.TemporaryDirectory() as folder:
        store = ["--store", f"sqlite:///{folder}/store.db"]
        with served(model.target, options=more + store, key=KEY, environment=threads) as server:
            return _measured(options, server, load, long)


def _measured(
    options: argparse.Namespace, server: RunningServer, load: dict[str, Any], long: dict[str, Any]
) -> dict[str, Any]:
    given = {**load, "port": server.port, "model": server.model}
    found, memory = under_load(options, server.process.pid, given)
    given_long = {**long, "port": server.port, "model": server.model}
    found["long"], _ = under_load(options, server.process.pid, given_long)
    found["memory"] = _memory(memory)
    if options.peer_llama is not None:
        chat = {**given, "dialect": "chat", "seconds": options.peer_seconds}
        found["chat"], _ = under_load(options, server.process.pid, chat)
    left = [value for name, value in server.metrics().items() if "pages_in_use" in name]
    found["pages_in_use_afterwards"] = sum(left)
    found["exit_code"] = server.stop()
    return found


def _memory(seen: list[tuple[float, int]]) -> dict[str, Any]:
    """From after the first minute (or tenth) to the end."""
    if not seen or not seen[-1][1]:
        return {}
    settled = min(60.0, seen[-1][0] / 10)
    after = [resident for seconds, resident in seen if seconds >= settled]
    half = len(after) // 2
    return {
        "start": seen[0][1], "settled": after[0], "end": after[-1], "peak": max(r for _, r in seen),
        "grown": after[-1] / after[0] - 1,
        "grown_in_second_half": after[-1] / after[half] - 1,
    }  # fmt: skip


def serve_peer(options: argparse.Namespace, load: dict[str, Any]) -> dict[str, Any]:
    """llama.cpp's server under the same load."""
    program = options.peer_llama / "llama-server"
    if not program.is_file() or options.peer_gguf is None:
        raise UserError(
            "llama-server and the model as GGUF are needed", where="--peer-llama",
            fix="give the folder of llama.cpp's programs, and --peer-gguf",
        )  # fmt: skip
    port, context = free_port(), 1024 * options.rows
    command = [
        str(program), "-m", str(options.peer_gguf), "--port", str(port), "--host", "127.0.0.1", "--jinja",
        "-np", str(options.rows), "-c", str(context), "-t", str(options.threads), "--no-webui",
    ]  # fmt: skip
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        server = RunningServer(port, "", process, Path(os.devnull))
        try:
            server.wait_ready(60)
            chat = {"port": port, "model": "m", "dialect": "chat", "seconds": options.peer_seconds}
            found, memory = under_load(options, process.pid, {**load, **chat})
            return found | {"memory": _memory(memory)}
        finally:
            process.terminate()
            process.wait(20)


# ---- what is told ----


def overheads(ours: dict[str, Any], bare: list[dict[str, Any]]) -> dict[str, float]:
    """How much more time and processor time a token takes than in the bare engine."""
    rate = sum(one["tokens_per_second"] for one in bare) / len(bare)
    spent = sum(one["cpu_per_token"] for one in bare) / len(bare)
    return {"clock": rate / ours["tokens_per_second"] - 1, "processor": ours["cpu_per_token"] / spent - 1}


def verdicts(found: dict[str, Any]) -> list[list[str]]:
    """What was asked for, what came, and whether that is enough."""
    ours, more, long = found["ours"], found["overhead"], found["overhead_long"]
    size = found["ours"]["long"]["tokens"] / max(1, found["ours"]["long"]["replies"])
    grown = ours["memory"].get("grown_in_second_half", 0.0)
    rows = [
        ("errors", f"{sum(ours['errors'].values())}", "0", not ours["errors"]),
        ("longest first token / median", f"{ours['ttft']['max_over_median']:.2f}", f"<= {STARVED:g}",
         ours["ttft"]["max_over_median"] <= STARVED),
        ("memory, second half", f"{grown:+.1%}", f"<= {GROWN:+.0%}", grown <= GROWN),
        (f"overhead a token in replies of {size:.0f}, processor", f"{long['processor']:+.1%}",
         f"<= {OVERHEAD:+.0%}", long["processor"] <= OVERHEAD),
        (f"overhead a token in replies of {ours['tokens'] / max(1, ours['replies']):.0f}, processor",
         f"{more['processor']:+.1%}", f"<= {OVERHEAD:+.0%}", more["processor"] <= OVERHEAD),
        ("overhead a token, clock (the client's work in it)", f"{more['clock']:+.1%}", f"<= {OVERHEAD:+.0%}",
         more["clock"] <= OVERHEAD),
    ]  # fmt: skip
    return [[what, got, wanted, "met" if met else "missed"] for what, got, wanted, met in rows]


def table(found: dict[str, Any]) -> str:
    """All sides."""
    sides = {"ours, Messages": found["ours"], "ours, long replies": found["ours"]["long"]}
    if "peer" in found:
        sides |= {"ours, Chat": found["ours"]["chat"], "llama.cpp, Chat": found["peer"]}
    rows = [
        [
            name, f"{one['requests_per_second']:.1f}", f"{one['tokens_per_second']:,.0f}",
            f"{one['ttft']['p50'] * 1000:,.0f}", f"{one['ttft']['p99'] * 1000:,.0f}",
            f"{one['ttft']['max_over_median']:.2f}", f"{sum(one['errors'].values())}",
        ]
        for name, one in sides.items()
    ]  # fmt: skip
    for name, one in [
        *(("bare engine", one) for one in found["engine"]),
        *(("bare engine, long replies", one) for one in found["engine_long"]),
    ]:
        rate = [f"{one['requests_per_second']:.1f}", f"{one['tokens_per_second']:,.0f}"]
        rows.append([name, *rate, "", "", "", ""])
    head = ["side", "req/s", "tokens/s", "TTFT p50 ms", "p99 ms", "max/median", "errors"]
    return markdown(head, rows)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = options_of(__doc__, "two seconds, few streams", 120.0)
    parser.add_argument("--model", default=None, help="a run, run/stage or folder; fresh weights without")
    parser.add_argument("--home", type=Path, default=Path(), help="where runs lie")
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--rows", type=int, default=64, help="of the engine")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--long", type=int, default=256, help="tokens of each long reply")
    parser.add_argument("--long-seconds", type=float, default=45.0, help="of load with long replies")
    parser.add_argument("--seconds", type=float, default=120.0, help="of load")
    parser.add_argument("--peer-seconds", type=float, default=60.0, help="of load on Chat, theirs and ours")
    parser.add_argument("--engine-seconds", type=float, default=20.0, help="of the bare engine, twice")
    parser.add_argument("--warm", type=float, default=5.0)
    parser.add_argument("--peer-llama", type=Path, default=None, metavar="DIR", help="llama.cpp's programs")
    parser.add_argument("--peer-gguf", type=Path, default=None, metavar="FILE", help="the same model for it")
    options = parser.parse_args()
    if options.quick:
        options.streams, options.seconds, options.engine_seconds, options.warm = 8, 1.0, 0.5, 0.0
        options.max_tokens, options.long, options.long_seconds = 16, 32, 1.0
        options.peer_seconds = 1.0
    return options


def main() -> None:
    """Measure, record, print."""
    options = arguments()
    with tempfile.TemporaryDirectory() as folder:
        model, prompts = model_of(options, Path(folder)), prompts_of(options)
        shared = {"streams": options.streams, "max_tokens": options.max_tokens, "prompts": prompts}
        bare = {
            **shared, "path": model.path, "rows": options.rows, "warm": options.warm,
            "seconds": options.engine_seconds, "banned": [],
        }  # fmt: skip
        ends = sorted(Checkpoint(Path(model.path)).tokenizer().special_ids)
        bare_long = {**bare, "max_tokens": options.long, "banned": ends}
        load = {**shared, "key": KEY, "seconds": options.seconds}
        long = {
            **load, "seconds": options.long_seconds, "max_tokens": options.long, "dialect": "chat",
            "more": {"logit_bias": {str(id): -100 for id in ends}},
        }  # fmt: skip

        def engine(payload: dict[str, Any]) -> dict[str, Any]:
            limit = options.engine_seconds + options.limit
            one = child(Path(__file__), "engine", payload, seconds=limit, threads=options.threads)
            if "error" in one:
                raise UserError(f"the bare engine failed: {one['error']}", where="benchmarks/server.py")
            say(f"bare engine: {one['tokens_per_second']:,.0f} tokens/s")
            return one

        found: dict[str, Any] = {"engine": [engine(bare)], "engine_long": [engine(bare_long)]}
        found["ours"] = serve_ours(options, model, load, long)
        say(f"ours: {found['ours']['tokens_per_second']:,.0f} tokens/s")
        found["engine"].append(engine(bare))
        if not options.quick:
            found["engine_long"].append(engine(bare_long))
        if options.peer_llama is not None:
            found["peer"] = serve_peer(options, load)
    found["overhead"] = overheads(found["ours"], found["engine"])
    found["overhead_long"] = overheads(found["ours"]["long"], found["engine_long"])
    print(table(found), end="\n\n")
    print(markdown(["asked", "found", "wanted", ""], verdicts(found)))
    if options.out is not None:
        _record(options, found)


def _record(options: argparse.Namespace, found: dict[str, Any]) -> None:
    settings = {name: value for name, value in vars(options).items() if not isinstance(value, Path)}
    settings["peer_llama"] = options.peer_llama is not None
    record = record_of(torch.device("cpu"), settings=settings, verdicts=verdicts(found), **found)
    for name, place in (("HOME", options.home), ("DIR", options.peer_llama), ("FILE", options.peer_gguf)):
        if place is not None and str(place) != ".":  # where it lies here says nothing elsewhere
            record["command"] = record["command"].replace(str(place), name)
    if options.model is not None and "/" in options.model:
        record["settings"]["model"] = Path(options.model).name
        record["command"] = record["command"].replace(options.model, Path(options.model).name)
    say(f"written: {write_record(options.out, 'server', record)}")


if __name__ == "__main__":
    entry(main, {"engine": engine_side, "load": load_side})
