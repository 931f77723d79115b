"""A real server in a process of its own, for tests of what talks to it.

with served(write_tiny_checkpoint(tmp_path / "model"), options=["--unreleased"]) as server:
    client = anthropic.Anthropic(base_url=server.url, api_key=server.key)
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from publius.core.errors import UserError
from publius.model.checkpoint import save_checkpoint
from publius.testing.fakes import byte_tokenizer, tiny_model

__all__ = ["Answer", "RunningServer", "free_port", "served", "start_server", "write_tiny_checkpoint"]

_PRINTABLE = frozenset(bytes([byte]) for byte in range(0x20, 0x7F))
_SURE = 40.0
"""Fresh weights find all bytes about as likely; so much larger ones make choices."""


class Answer(NamedTuple):
    """What a plain HTTP request gave."""

    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


class RunningServer:
    """A server process that answers.

    Attributes:
        url: `http://127.0.0.1:PORT`.
        port: its number.
        key: the API key it was started with.
        model: the id of its first model.
        process: it.
        log: the file that holds what it writes to stdout and stderr.
    """

    def __init__(self, port: int, key: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.port, self.key, self.process, self.log = port, key, process, log
        self.url = f"http://127.0.0.1:{port}"
        self.model = ""

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        seconds: float = 120.0,
    ) -> Answer:
        """One request over a connection of its own. `body` is sent as it is when bytes, else as JSON; the key
        and the older API version are sent unless `headers` are given."""
        if headers is None:
            headers = {"x-api-key": self.key, "anthropic-version": "2023-06-01"}
        sent = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        given = {"content-type": "application/json", **headers} if sent is not None else dict(headers)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        try:
            connection.request(method, path, body=sent, headers=given)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())
        finally:
            connection.close()

    def metrics(self) -> dict[str, float]:
        """`/metrics`, by name and labels as written there."""
        lines = self.ask("GET", "/metrics").body.decode().splitlines()
        pairs = [line.rsplit(" ", 1) for line in lines if line and not line.startswith("#")]
        return {name: float(value) for name, value in pairs}

    def stop(self, seconds: float = 40.0) -> int:
        """Ask it to end (SIGTERM) and wait; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        self.process.kill()
        self.process.wait()

    def wait_ready(self, seconds: float) -> None:
        """Until `/health` says it can answer.

        Raises:
            UserError: when it ends before, or takes longer; with the end of what it wrote.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.ask("GET", "/health", headers={}).status == 200:
                    return
            time.sleep(0.02)
        tail = self.log.read_text("utf-8", "replace")[-2000:]
        ended = self.process.poll()
        what = f"not ready after {seconds:.0f} s" if ended is None else f"ended with code {ended}"
        raise UserError(f"the server is {what}: {tail}", where="served")


def write_tiny_checkpoint(folder: Path, *, seed: int = 0, printable: bool = True, **changes: Any) -> Path:
    """Write `tiny_model` with the byte tokenizer as a checkpoint that `publius serve --unreleased` takes.

    Its head is its own: a tied one says the same letter again and again.

    Args:
        folder: made when missing; returned.
        seed: of the weights.
        printable: make bytes outside printable ASCII improbable, so that what it says can be cut anywhere.
        changes: fields of ModelConfig.
    """
    tokenizer, model = byte_tokenizer(), tiny_model(seed, tie_embeddings=False, **changes)
    assert model.lm_head is not None  # since it is not tied
    with torch.no_grad():
        model.lm_head.weight *= _SURE
    if printable:
        kept = {tokenizer.end_id}
        odd = [
            i
            for i in range(tokenizer.vocab_size)
            if tokenizer.id_bytes(i) not in _PRINTABLE and i not in kept
        ]
        with torch.no_grad():
            model.lm_head.weight[odd] *= 0.01
    save_checkpoint(folder, model, tokenizer)
    return folder


def free_port() -> int:
    """One that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def served(
    *models: str | Path,
    options: Sequence[str] = (),
    key: str = "key-of-the-test",
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    seconds: float = 60.0,
) -> Iterator[RunningServer]:
    """`publius serve MODELS OPTIONS` on a free port of this machine, until the block ends.

    Args:
        models: as on the command line.
        options: further ones.
        key: PUBLIUS_API_KEY; "" for none.
        folder: where it runs and keeps its store; an empty one of its own by default.
        environment: further variables.
        seconds: it must be ready by then.

    Raises:
        UserError: when it does not become ready.
    """
    with tempfile.TemporaryDirectory(prefix="publius-served-") as own:
        server = start_server(models, options, key, folder or Path(own), environment or {})
        try:
            server.wait_ready(seconds)
            found = server.ask("GET", "/v1/models").json()["data"]
            server.model = found[0]["id"]
            yield server
        finally:
            if server.process.poll() is None:
                server.process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    server.process.wait(40)
            if server.process.poll() is None:
                server.kill()


def start_server(
    models: Sequence[str | Path],
    options: Sequence[str],
    key: str,
    folder: Path,
    environment: Mapping[str, str],
) -> RunningServer:
    """As `served`, without waiting for it to answer; ending it is the caller's."""
    folder.mkdir(parents=True, exist_ok=True)
    port, log = free_port(), folder / "server.log"
    env = {**os.environ, **environment}
    env.pop("PUBLIUS_API_KEY", None)
    if key:
        env["PUBLIUS_API_KEY"] = key
    command = [sys.executable, "-m", "publius.cli", "serve", *map(str, models), "--port", str(port), *options]
    with log.open("ab") as out:  # the process has its own
        process = subprocess.Popen(
            command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    return RunningServer(port, key, process, log)
