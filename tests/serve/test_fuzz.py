"""Hostile bodies, torn uploads, slow clients and clients that leave: nothing breaks a real server.

PUBLIUS_FUZZ says how many hostile bodies are sent (300 unless told; 10000 before a release).
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from publius.testing import RunningServer, served, write_tiny_checkpoint
from tests.serve.hostile import MESSAGES, hostile
from tests.slow import slow

BODIES = int(os.environ.get("PUBLIUS_FUZZ", "300"))
GOOD = json.dumps({"model": "publius-haiku", "max_tokens": 5, "messages": MESSAGES["messages"][:1]}).encode()
LONG = json.dumps(
    {"model": "publius-haiku", "max_tokens": 400, "stream": True, "messages": MESSAGES["messages"][:1]}
).encode()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A random model that also writes broken UTF-8, special tokens and endless lines."""
    folder = tmp_path_factory.mktemp("fuzzed")
    model = write_tiny_checkpoint(folder / "tiny", printable=False)
    with served(model, options=["--unreleased"], folder=folder / "home") as running:
        yield running


@pytest.fixture(autouse=True)
def unharmed(server: RunningServer) -> Iterator[None]:
    """After every test: it lives, answers, and keeps no page, reply or socket of those who left."""
    before = sockets(server)
    yield
    assert server.process.poll() is None, server.log.read_text("utf-8")[-2000:]
    assert server.ask("POST", "/v1/messages", GOOD).status == 200
    deadline = time.monotonic() + 60
    left: object = True
    while left and time.monotonic() < deadline:
        left = busy(server)
        time.sleep(0.05)  # that question's own connection is closed
        left = left or max(0, sockets(server) - before)
    assert not left
    assert "Traceback" not in server.log.read_text("utf-8", "replace")


def busy(server: RunningServer) -> dict[str, float]:
    """Gauges of what is under way, where they are not zero."""
    names = ("publius_cache_pages_in_use", "publius_replies_in_flight", "publius_requests_waiting")
    found = server.metrics()
    assert all(any(line.startswith(name) for line in found) for name in names), found
    return {line: value for line, value in found.items() if line.startswith(names) and value}


def sockets(server: RunningServer) -> int:
    """Open connections of the process; 0 where the system does not tell."""
    folder = Path(f"/proc/{server.process.pid}/fd")
    if not folder.is_dir():
        return 0
    count = 0
    for link in folder.iterdir():
        with contextlib.suppress(OSError):
            count += link.readlink().name.startswith("socket:")
    return count


class Line:
    """One connection kept open, made again when the server closes it."""

    def __init__(self, server: RunningServer) -> None:
        self._server = server
        self._open = self._connect()

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=60)

    def close(self) -> None:
        self._open.close()

    def send(self, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        """Status and body of the answer."""
        given = {
            "x-api-key": self._server.key, "anthropic-version": "2023-06-01",
            "content-type": "application/json", **headers,
        }  # fmt: skip
        for again in (False, True):
            try:
                self._open.request("POST", path, body, given)
                response = self._open.getresponse()
                return response.status, response.read()
            except (ConnectionError, http.client.HTTPException):
                self._open.close()
                self._open = self._connect()
                if again:
                    raise
        raise AssertionError


def test_hostile_bodies(server):
    line = Line(server)
    seen: dict[int, int] = {}

    @settings(
        max_examples=BODIES, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(hostile())
    def send(case):
        path, body, headers = case
        status, answer = line.send(path, body, headers)
        assert status < 500, (path, body[:2000], headers, answer[:2000])
        seen[status] = seen.get(status, 0) + 1
        if status >= 400 and answer:
            json.loads(answer)

    try:
        send()
    finally:
        line.close()
    assert sum(seen.values()) >= BODIES
    assert seen.get(200, 0) > BODIES // 20 and seen.get(400, 0) > BODIES // 5, seen


def raw_request(server: RunningServer, body: bytes, *, path: str = "/v1/messages") -> bytes:
    """An HTTP request as bytes."""
    lines = [
        f"POST {path} HTTP/1.1", "host: localhost", f"x-api-key: {server.key}",
        "anthropic-version: 2023-06-01", "connection: close", "content-type: application/json",
        f"content-length: {len(body)}", "", "",
    ]  # fmt: skip
    return "\r\n".join(lines).encode() + body


def dial(server: RunningServer) -> socket.socket:
    """A connection of one's own."""
    return socket.create_connection(("127.0.0.1", server.port), timeout=60)


def test_truncated_uploads(server):
    rng = random.Random(0)
    for number in range(60):
        body = GOOD if number % 2 else LONG
        with dial(server) as line:
            whole = raw_request(server, body)
            line.sendall(whole[: rng.randrange(1, len(whole))])
            if number % 3 == 0:
                line.shutdown(socket.SHUT_WR)
                line.recv(4096)


def test_bytes_that_are_no_http(server):
    rng = random.Random(1)
    for start in (
        b"",
        b"GET ",
        b"POST /v1/messages HTTP/1.1\r\n",
        b"\x16\x03\x01",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ):
        for _ in range(5):
            with dial(server) as line, contextlib.suppress(ConnectionError):
                line.sendall(start + rng.randbytes(200) + b"\r\n\r\n")
                line.shutdown(socket.SHUT_WR)
                answer = line.recv(4096)
                assert not answer.startswith(b"HTTP/1.1 5")


def test_chunked_bodies_that_lie(server):
    head = raw_request(server, b"").replace(b"content-length: 0", b"transfer-encoding: chunked")
    for chunk in (b"ffffffffff\r\n{}", b"-1\r\n{}\r\n", b"zz\r\n", b"5\r\n{}\r\n0\r\n\r\n", b"2\r\n{}\r\n"):
        with dial(server) as line, contextlib.suppress(ConnectionError):
            line.sendall(head + chunk)
            line.shutdown(socket.SHUT_WR)
            assert not line.recv(4096).startswith(b"HTTP/1.1 5")


def test_slow_clients_hold_nobody_up(server):
    with contextlib.ExitStack() as stack:
        lines = [stack.enter_context(dial(server)) for _ in range(60)]
        whole = raw_request(server, GOOD)
        for line in lines:  # the head and half of the body, and then nothing for long
            line.sendall(whole[:-20])
        assert server.ask("POST", "/v1/messages", GOOD).status == 200
        for at in range(20):
            for line in lines:
                line.sendall(whole[len(whole) - 20 + at :][:1])
        answers = [line.recv(65536) for line in lines]
        assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)


def test_clients_that_do_not_read_hold_nobody_up(server):
    with contextlib.ExitStack() as stack:
        lines = [stack.enter_context(dial(server)) for _ in range(40)]
        for line in lines:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            line.sendall(raw_request(server, LONG))
        assert server.ask("POST", "/v1/messages", GOOD).status == 200


def test_clients_that_leave(server):
    rng = random.Random(2)
    paths = ("/v1/messages", "/v1/chat/completions", "/model/publius-haiku/invoke-with-response-stream")

    def visit(seed: int) -> None:
        own = random.Random(seed)
        for _ in range(12):
            with dial(server) as line:
                line.sendall(raw_request(server, LONG, path=own.choice(paths)))
                wanted, got = own.choice((0, 1, 300, 2000)), 0
                while got < wanted and (piece := line.recv(512)):
                    got += len(piece)

    visitors = [threading.Thread(target=visit, args=(rng.random(),)) for _ in range(8)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join()


@slow
def test_schemathesis(server, tmp_path):
    """What a tool makes of /openapi.json alone."""
    command = [
        sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()", "run",
        f"{server.url}/openapi.json", "--checks", "not_a_server_error", "--max-examples",
        str(max(5, BODIES // 100)), "--no-color", "--seed", "1",
        "-H", f"x-api-key: {server.key}", "-H", "anthropic-version: 2023-06-01",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert "Unresolvable" not in done.stdout
