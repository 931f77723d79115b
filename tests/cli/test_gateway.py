"""`publius gateway`: what it refuses, and a process of it from start to SIGTERM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest

from publius.cli import main
from tests.serve.servers import free_port, running
from tests.serve.test_gateway import CHAT, Small, said

ROOT = Path(__file__).parents[2]
CERTAIN = 120.0
"""Seconds after which what should have happened has not."""


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--backend", "ftp://a"], "is no address of a server"),
        (["--backend", "http://[::1"], "is no address of a server"),
        (["--backend", "http://a:99999"], "is no address of a server"),
        (["--backend", "http://a", "--backend", "http://a/"], "given twice"),
        (["--backend", "http://a", "--bound", "0.5"], "bound 1 or more"),
    ],
)
def test_what_cannot_be_is_refused(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("PUBLIUS_API_KEY", raising=False)
    with pytest.raises(SystemExit) as ended:
        main(["gateway", *arguments])
    assert ended.value.code == 2 and told in capsys.readouterr().err


def test_a_process_serves_finishes_what_it_began_and_ends_well() -> None:
    small, port = Small("a"), free_port()
    with running(small.app()) as backend:
        command = [sys.executable, "-m", "publius.cli", "gateway", "--backend", backend, "--port", str(port)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PUBLIUS_API_KEY": ""}
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        try:
            with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=CERTAIN) as client:
                _until_up(client, process)
                with client.stream("POST", CHAT, json=said("stream held")) as answer:
                    pieces = answer.iter_raw()
                    assert next(pieces) == b"data: one\n\n"
                    process.send_signal(signal.SIGTERM)
                    small.go.set()
                    assert b"".join(pieces) == b"data: two\n\n"
            _, told = process.communicate(timeout=CERTAIN)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == 0, told
    assert f"http://127.0.0.1:{port}, before {backend}" in told and "Traceback" not in told


def _until_up(client: httpx2.Client, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + CERTAIN
    while True:
        try:
            if client.get("/health").json()["up"] == 1:
                return
        except httpx2.TransportError:
            pass
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
