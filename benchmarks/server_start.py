"""The server's beginning and its ends: cold to the first token, SIGTERM under load, kill -9 within a batch.

    python benchmarks/server_start.py --home build/quickstart --model quickstart --out docs/results
    python benchmarks/server_start.py --quick

- *Cold*: from the start of the process `publius serve` to the first token of a stream, which is asked for as
  soon as the port is open; several times, the operating system's cache of files warm.
- *SIGTERM*: many long streams are under way when the signal comes. Each must come to its own end or to an
  `error` event, none may be cut, and the process must be gone in 30 seconds.
- *kill -9*: a batch of 1,000 is being worked on when the process is killed, several times. Started again on
  the same store the server must finish it, each result exactly once.

Without `--model`, fresh weights of the Pocket shape.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from harness import entry, markdown, options_of, record_of, say, write_record
from server import KEY, Model, model_of, prompts_of

from publius.testing import RunningServer, served
from publius.testing.server import start_server

COLD, GONE = 5.0, 30.0
"""Seconds that are asked for: to the first token, and from SIGTERM to the end."""
STREAM_ENDS = {b'"message_stop"': "end", b"event: error": "error event"}


def options_for(model: Model, folder: Path) -> list[str]:
    """Of `publius serve`, with a store in `folder`."""
    more = [] if model.released else ["--unreleased"]
    return [*more, "--home", model.home, "--store", f"sqlite:///{folder}/store.db"]


def stream_request(port: int, model: str, prompt: str, max_tokens: int) -> bytes:
    """A stream asked for, as bytes."""
    body = json.dumps(
        {
            "model": model, "max_tokens": max_tokens, "stream": True,
            "messages": [{"role": "user", "content": prompt}],
        }
    ).encode()  # fmt: skip
    head = [
        "POST /v1/messages HTTP/1.1", f"host: 127.0.0.1:{port}", f"x-api-key: {KEY}",
        "anthropic-version: 2023-06-01", "connection: close", f"content-length: {len(body)}", "", "",
    ]  # fmt: skip
    return "\r\n".join(head).encode() + body


def cold(model: Model, prompt: str, folder: Path) -> dict[str, float]:
    """Seconds from the start of the process to an open port, and to the first token."""
    began = time.perf_counter()
    server = start_server([model.target], options_for(model, folder), KEY, folder, {})
    try:
        while True:
            with (
                contextlib.suppress(ConnectionRefusedError),
                socket.create_connection(("127.0.0.1", server.port), timeout=60) as line,
            ):
                opened = time.perf_counter() - began
                line.sendall(stream_request(server.port, "publius-haiku", prompt, 16))
                seen = b""
                while b'"content_block_delta"' not in seen:
                    piece = line.recv(65536)
                    assert piece, seen
                    seen += piece
                return {"open": opened, "first_token": time.perf_counter() - began}
            assert server.process.poll() is None, server.log.read_text()
            time.sleep(0.005)
    finally:
        server.kill()


def how_it_ended(
    server: RunningServer, prompt: str, max_tokens: int, begun: threading.Barrier, into: list[str]
) -> None:
    """Follow one stream to its end."""
    seen, ready = b"", False
    try:
        with socket.create_connection(("127.0.0.1", server.port), timeout=90) as line:
            line.sendall(stream_request(server.port, server.model, prompt, max_tokens))
            while piece := line.recv(65536):
                if not ready:
                    ready = True
                    begun.wait(60)
                seen = (seen + piece)[-4000:]
    except OSError as error:
        into.append(type(error).__name__)
        return
    whole = seen.endswith(b"0\r\n\r\n")
    into.append(next((word for mark, word in STREAM_ENDS.items() if mark in seen and whole), "cut"))


def terminated(
    model: Model, prompts: Sequence[str], streams: int, max_tokens: int, folder: Path
) -> dict[str, Any]:
    """What becomes of streams under way when SIGTERM comes."""
    ends: list[str] = []
    with served(model.target, options=options_for(model, folder), key=KEY, folder=folder) as server:
        begun = threading.Barrier(streams + 1)
        followers = [
            threading.Thread(
                target=how_it_ended, args=(server, prompts[i % len(prompts)], max_tokens, begun, ends)
            )
            for i in range(streams)
        ]  # fmt: skip
        for follower in followers:
            follower.start()
        begun.wait(120)  # all have begun to write
        began = time.perf_counter()
        code = server.stop(60)
        took = time.perf_counter() - began
        for follower in followers:
            follower.join()
    return {"streams": streams, "ends": dict(collections.Counter(ends)), "seconds": took, "exit_code": code}


def killed(model: Model, prompts: Sequence[str], requests: int, kills: int, folder: Path) -> dict[str, Any]:
    """A batch through several kills: how many results each request has."""
    asked = [
        {
            "custom_id": f"request-{i}",
            "params": {
                "model": "publius-haiku", "max_tokens": 24,
                "messages": [{"role": "user", "content": prompts[i % len(prompts)]}],
            },
        }
        for i in range(requests)
    ]  # fmt: skip
    began, batch, alive = time.perf_counter(), "", []
    for life in range(kills + 1):
        with served(model.target, options=options_for(model, folder), key=KEY, folder=folder) as server:
            if not batch:
                made = server.ask("POST", "/v1/messages/batches", {"requests": asked})
                assert made.status == 200, made.body
                batch = made.json()["id"]
            born = time.perf_counter()
            if life < kills:
                time.sleep(0.5 + 0.5 * life)
                ended = server.ask("GET", f"/v1/messages/batches/{batch}").json()["ended_at"]
                server.kill()
                alive.append({"seconds": time.perf_counter() - born, "ended": ended is not None})
                continue
            while (found := server.ask("GET", f"/v1/messages/batches/{batch}").json())["ended_at"] is None:
                time.sleep(0.1)
            results = server.ask("GET", f"/v1/messages/batches/{batch}/results").body.decode().splitlines()
    times = collections.Counter(json.loads(line)["custom_id"] for line in results)
    return {
        "requests": requests, "kills": alive, "seconds": time.perf_counter() - began,
        "counts": found["request_counts"], "once": sum(count == 1 for count in times.values()),
        "more_than_once": sum(count > 1 for count in times.values()), "none": requests - len(times),
    }  # fmt: skip


def verdicts(found: dict[str, Any]) -> list[list[str]]:
    """What was asked for, what came, and whether that is enough."""
    first = statistics.median(one["first_token"] for one in found["cold"])
    term, batch = found["sigterm"], found["kill"]
    ends = ", ".join(f"{count} {how}" for how, count in term["ends"].items())
    told = f"{term['seconds']:.1f} ({ends}; code {term['exit_code']})"
    tidy = set(term["ends"]) <= set(STREAM_ENDS.values()) and term["seconds"] <= GONE
    rows = [
        ("cold to first token, s", f"{first:.2f}", f"<= {COLD:g}", first <= COLD),
        ("SIGTERM to exit, s", told, f"<= {GONE:g}", tidy),
        (
            f"results of {batch['requests']} after {len(batch['kills'])} kills",
            f"{batch['once']} once, {batch['more_than_once']} more often, {batch['none']} none",
            "each once",
            batch["once"] == batch["requests"],
        ),
    ]  # fmt: skip
    return [[what, got, wanted, "met" if met else "missed"] for what, got, wanted, met in rows]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = options_of(__doc__, "once each, few streams, a small batch", 120.0)
    parser.add_argument("--model", default=None, help="a run, run/stage or folder; fresh weights without")
    parser.add_argument("--home", type=Path, default=Path(), help="where runs lie")
    parser.add_argument("--times", type=int, default=5, help="cold starts")
    parser.add_argument("--streams", type=int, default=100, help="under way at SIGTERM")
    parser.add_argument("--max-tokens", type=int, default=900, help="of each of them")
    parser.add_argument("--requests", type=int, default=1000, help="of the batch")
    parser.add_argument("--kills", type=int, default=3, help="within the batch")
    options = parser.parse_args()
    if options.quick:
        options.times, options.streams, options.requests, options.kills = 1, 6, 30, 1
        options.max_tokens = 60
    return options


def main() -> None:
    """Measure, record, print."""
    options = arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, prompts = model_of(options, folder), prompts_of(options)
        found: dict[str, Any] = {"cold": []}
        for number in range(options.times):
            found["cold"].append(cold(model, prompts[0], folder / f"cold-{number}"))
            say(f"cold: {found['cold'][-1]['first_token']:.2f} s")
        # rows for all of them: a stream that waits for one has not begun
        found["sigterm"] = terminated(
            model, prompts, min(options.streams, 60), options.max_tokens, folder / "sigterm"
        )
        say(f"SIGTERM: {found['sigterm']}")
        found["kill"] = killed(model, prompts, options.requests, options.kills, folder / "kill")
        say(f"kill -9: {found['kill']}")
    print(markdown(["asked", "found", "wanted", ""], verdicts(found)))
    if options.out is not None:
        settings = {name: value for name, value in vars(options).items() if not isinstance(value, Path)}
        record = record_of(torch.device("cpu"), settings=settings, verdicts=verdicts(found), **found)
        if str(options.home) != ".":  # where it lies here says nothing elsewhere
            record["command"] = record["command"].replace(str(options.home), "HOME")
        say(f"written: {write_record(options.out, 'server-start', record)}")


if __name__ == "__main__":
    entry(main, {})
