"""The server under load on this machine: many streams at once.

    python benchmarks/server.py --home build/quickstart --model quickstart --seconds 600 --out docs/results
    python benchmarks/server.py --peer-llama build/bin --peer-gguf model.gguf --out docs/results
    python benchmarks/server.py --quick

`publius serve` runs as a user runs it, the load client (`load.py`, plain sockets) in a process of its own
beside it. So many streams are kept going all the time: one that ends is followed by the next. What is told:
errors, requests and tokens a second, time to the first token (p50, p99, and the longest over the median:
nobody may starve), the server's resident memory from the first minute to the last.

What serving adds to the bare engine is told by `server_overhead.py`.

Prompts are held-out questions of the model's Pocket world, or made-up ones; greedy. Without `--model`, fresh
weights of the Pocket shape with the byte tokenizer. The peer's server gets the same model as GGUF
(`publius export`, then llama.cpp's `convert_hf_to_gguf.py`), as many slots as we have rows, and the same load
through `/v1/chat/completions`; ours then too. `--quick` is a smoke test, not a measurement.
"""

from __future__ import annotations

import argparse
import bisect
import contextlib
import os
import random
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from harness import child, entry, markdown, options_of, record_of, say, write_record
from load import Load, run

from publius.core.errors import UserError
from publius.core.messages import text_of
from publius.data.pocket.world import World
from publius.release.locate import locate
from publius.testing import RunningServer, served, write_tiny_checkpoint
from publius.testing.server import free_port

STARVED, GROWN = 5.0, 0.05
"""What is asked: longest first token over the median, growth of memory."""
POCKET = {
    "hidden_size": 192, "layers": 4, "heads": 6, "kv_heads": 3, "head_dim": 32, "intermediate_size": 512,
    "max_position": 1024,
}  # fmt: skip
_EVERY = 0.25
"""Seconds between two looks at a process."""
KEY = "key-of-the-benchmark"
CHAT = {"dialect": "chat", "more": {"chat_template_kwargs": {"enable_thinking": True}}}
"""The load of both sides: llama.cpp's server opens thinking, or shuts it with a block we do not write."""


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


class Seen(NamedTuple):
    """A process at a moment."""

    at: float
    """`time.perf_counter`, which is one clock for all processes here."""
    resident: int
    """Bytes."""
    spent: float
    """Processor seconds."""


def under_load(
    options: argparse.Namespace, pid: int, load: dict[str, Any]
) -> tuple[dict[str, Any], list[Seen]]:
    """What the load client tells, with the server's processor time a token; and the process as it went.

    Both are of the same seconds: a beginning, and an end in which fewer and fewer streams are left, would be
    told as the cost of a token of many.
    """
    limit = options.warm + load["seconds"] + options.limit
    with _watching(pid) as seen:
        found = child(Path(__file__), "load", {**load, "warm": options.warm}, seconds=limit, threads=1)
    if "error" in found:
        raise UserError(f"the load client failed: {found['error']}", where="benchmarks/server.py")
    since, until = found.pop("window")
    tokens = max(1.0, found["tokens_per_second"] * (until - since))
    found["cpu_per_token"] = (spent_at(seen, until) - spent_at(seen, since)) / tokens
    return found, seen


def spent_at(seen: Sequence[Seen], moment: float) -> float:
    """Processor seconds at a moment, between the looks before and after it."""
    after = bisect.bisect_left([one.at for one in seen], moment)
    if after in (0, len(seen)):
        return seen[min(after, len(seen) - 1)].spent
    left, right = seen[after - 1], seen[after]
    return left.spent + (right.spent - left.spent) * (moment - left.at) / (right.at - left.at)


@contextlib.contextmanager
def _watching(pid: int) -> Iterator[list[Seen]]:
    """A process, looked at several times a second by a thread."""
    seen: list[Seen] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_EVERY if seen else 0.0):
            seen.append(Seen(time.perf_counter(), *status_of(pid)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


@contextlib.contextmanager
def serving(options: argparse.Namespace, model: Model) -> Iterator[RunningServer]:
    """Our server with a fresh store."""
    more = ["--rows", str(options.rows), "--queue", str(4 * options.streams), "--home", model.home]
    more += [] if model.released else ["--unreleased"]
    threads = {"OMP_NUM_THREADS": str(options.threads)}
    with tempfile.TemporaryDirectory() as folder:
        store = ["--store", f"sqlite:///{folder}/store.db"]
        with served(model.target, options=more + store, key=KEY, environment=threads) as server:
            yield server


def measured(options: argparse.Namespace, server: RunningServer, load: dict[str, Any]) -> dict[str, Any]:
    """Our server under the load."""
    given = {**load, "port": server.port, "model": server.model}
    found, memory = under_load(options, server.process.pid, given)
    found["memory"] = _memory(memory)
    if options.peer_llama is not None:
        chat = {**given, **CHAT, "seconds": options.peer_seconds}
        found["chat"], _ = under_load(options, server.process.pid, chat)
    left = [value for name, value in server.metrics().items() if "pages_in_use" in name]
    found["pages_in_use_afterwards"] = sum(left)
    found["exit_code"] = server.stop()
    return found


def _memory(seen: list[Seen]) -> dict[str, Any]:
    """From after the first minute (or tenth) to the end."""
    if not seen or not seen[-1].resident:
        return {}
    settled = seen[0].at + min(60.0, (seen[-1].at - seen[0].at) / 10)
    after = [one.resident for one in seen if one.at >= settled]
    half = len(after) // 2
    return {
        "start": seen[0].resident, "settled": after[0], "end": after[-1],
        "peak": max(one.resident for one in seen),
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
        "--threads-http", str(options.streams + 8),
    ]  # fmt: skip
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        server = RunningServer(port, "", process, Path(os.devnull))
        try:
            server.wait_ready(60)
            chat = {**CHAT, "port": port, "model": "m", "seconds": options.peer_seconds}
            chat["reuse"] = False  # it ends a connection with its stream, and does not say so
            found, memory = under_load(options, process.pid, {**load, **chat})
            return found | {"memory": _memory(memory)}
        finally:
            process.terminate()
            process.wait(20)


# ---- what is told ----


def verdicts(found: dict[str, Any]) -> list[list[str]]:
    """What was asked for, what came, and whether that is enough."""
    ours = found["ours"]
    grown = ours["memory"].get("grown_in_second_half", 0.0)
    rows = [
        ("errors", f"{sum(ours['errors'].values())}", "0", not ours["errors"]),
        ("longest first token / median", f"{ours['ttft']['max_over_median']:.2f}", f"<= {STARVED:g}",
         ours["ttft"]["max_over_median"] <= STARVED),
        ("memory, second half", f"{grown:+.1%}", f"<= {GROWN:+.0%}", grown <= GROWN),
    ]  # fmt: skip
    return [[what, got, wanted, "met" if met else "missed"] for what, got, wanted, met in rows]


def table(found: dict[str, Any]) -> str:
    """All sides."""
    sides = {"ours, Messages": found["ours"]}
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
    head = ["side", "req/s", "tokens/s", "TTFT p50 ms", "p99 ms", "max/median", "errors"]
    return markdown(head, rows)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = options_of(__doc__, "two seconds, few streams", 120.0)
    shared_options(parser)
    parser.add_argument("--seconds", type=float, default=120.0, help="of load")
    parser.add_argument("--peer-seconds", type=float, default=60.0, help="of load on Chat, theirs and ours")
    parser.add_argument("--peer-llama", type=Path, default=None, metavar="DIR", help="llama.cpp's programs")
    parser.add_argument("--peer-gguf", type=Path, default=None, metavar="FILE", help="the same model for it")
    options = parser.parse_args()
    if options.quick:
        options.streams, options.seconds, options.warm, options.max_tokens = 8, 1.0, 0.0, 16
        options.peer_seconds = 1.0
    return options


def shared_options(parser: argparse.ArgumentParser) -> None:
    """What this script and `server_overhead.py` ask alike."""
    parser.add_argument("--model", default=None, help="a run, run/stage or folder; fresh weights without")
    parser.add_argument("--home", type=Path, default=Path(), help="where runs lie")
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--rows", type=int, default=64, help="of the engine")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--warm", type=float, default=5.0, help="seconds that are not counted")


def main() -> None:
    """Measure, record, print."""
    options = arguments()
    with tempfile.TemporaryDirectory() as folder:
        model, prompts = model_of(options, Path(folder)), prompts_of(options)
        load = {
            "streams": options.streams, "max_tokens": options.max_tokens, "prompts": prompts, "key": KEY,
            "seconds": options.seconds,
        }  # fmt: skip
        with serving(options, model) as server:
            found: dict[str, Any] = {"ours": measured(options, server, load)}
        say(f"ours: {found['ours']['tokens_per_second']:,.0f} tokens/s")
        if options.peer_llama is not None:
            found["peer"] = serve_peer(options, load)
    print(table(found), end="\n\n")
    print(markdown(["asked", "found", "wanted", ""], verdicts(found)))
    if options.out is not None:
        record(options, "server", verdicts(found), found)


def record(options: argparse.Namespace, name: str, told: list[list[str]], found: dict[str, Any]) -> None:
    """Write what was found, without the names of folders here."""
    settings = {name: value for name, value in vars(options).items() if not isinstance(value, Path)}
    written = record_of(torch.device("cpu"), settings=settings, verdicts=told, **found)
    for word in ("home", "peer_llama", "peer_gguf"):
        place = getattr(options, word, None)
        if place is not None and str(place) != ".":  # where it lies here says nothing elsewhere
            shown = {"home": "HOME", "peer_llama": "DIR", "peer_gguf": "FILE"}[word]
            written["command"] = written["command"].replace(str(place), shown)
    if options.model is not None and "/" in options.model:
        written["settings"]["model"] = Path(options.model).name
        written["command"] = written["command"].replace(options.model, Path(options.model).name)
    say(f"written: {write_record(options.out, name, written)}")


if __name__ == "__main__":
    entry(main, {"load": load_side})
