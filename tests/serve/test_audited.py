"""A real server's audit log: one server writes it, and its head is told to the server's own log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from publius.release import signing_key
from publius.safety.audit import verify
from publius.testing.server import RunningServer, served, start_server


@pytest.fixture(autouse=True)
def own_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PUBLIUS_SIGNING_KEY", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def told(server: RunningServer) -> list[dict[str, Any]]:
    """What it logged of its audit log."""
    lines = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line["message"].startswith("audit log: ")]


def ask(server: RunningServer) -> None:
    question = {
        "model": server.model, "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]
    }  # fmt: skip
    assert server.ask("POST", "/v1/messages", question).status == 200


def test_one_server_writes_it_and_its_head_is_told(checkpoint: Path, tmp_path: Path) -> None:
    log, key = tmp_path / "audit.jsonl", signing_key().public_key()
    options = ["--unreleased", "--audit", str(log)]
    with served(checkpoint, options=options, folder=tmp_path / "a") as server:
        (opened,) = told(server)
        assert (opened["message"], opened["records"]) == ("audit log: opened", 0)
        ask(server)
        second = start_server([checkpoint], options, "k", tmp_path / "b", {"PUBLIUS_HOME": str(tmp_path)})
        assert second.process.wait(120) == 2
        assert "another process writes this audit log" in second.log.read_text()
        ask(server)
        assert server.stop() == 0
        closed = told(server)[-1]
        assert (closed["message"], closed["records"]) == ("audit log: closed", 2)
    assert verify(log, key=key, head=closed["head"])[::3] == (2, 2)
    with served(checkpoint, options=options, folder=tmp_path / "c") as server:
        assert told(server)[0]["head"] == closed["head"]
        ask(server)
        server.kill()
    whole = log.read_bytes()
    log.write_bytes(whole[:-9])  # as if it had been killed within the record
    with served(checkpoint, options=options, folder=tmp_path / "d") as server:
        assert "ended within record 2" in server.log.read_text() and told(server)[0]["records"] == 2
        ask(server)
        server.stop()
    assert verify(log, key=key).records == 3
    assert (tmp_path / "audit.jsonl.torn-2").read_bytes() == whole.splitlines()[2][:-8]
