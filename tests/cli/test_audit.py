"""`publius audit verify`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from publius.cli import app, main
from publius.core.errors import UserError
from publius.safety.audit import AuditLog

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
HEX = KEY.public_key().public_bytes_raw().hex()


def test_verify(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path, KEY)
    log.append("req_0", [])
    result = CliRunner().invoke(app, ["audit", "verify", str(path), "--key", HEX, "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {"records": 1, "head": log.head, "key": HEX, "covered": None}
    told = CliRunner().invoke(app, ["audit", "verify", str(path), "--key", HEX, "--head", log.head])
    assert told.exit_code == 0 and log.head in told.stdout and "cut off" not in told.stdout
    path.write_bytes(path.read_bytes().replace(b"req_0", b"req_1"))
    changed = CliRunner().invoke(app, ["audit", "verify", str(path), "--key", HEX])
    assert changed.exit_code != 0
    assert isinstance(changed.exception, UserError) and "record 0" in str(changed.exception)
    wrong = CliRunner().invoke(app, ["audit", "verify", str(path), "--key", "xyz"])
    assert isinstance(wrong.exception, UserError) and "hex" in str(wrong.exception)


def test_what_was_cut_off_at_the_end_shows_only_against_a_head(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path, KEY)
    earlier, last = log.append("req_0", []), log.append("req_1", [])

    def said(*head: str, code: int = 0) -> str:
        capsys.readouterr()
        try:
            main(["audit", "verify", str(path), "--key", HEX, *head])
        except SystemExit as ended:
            assert ended.code == code
        told = capsys.readouterr()
        return told.out + told.err

    assert "2 records" in said() and "nothing was checked beyond the last line" in said()
    assert "the head given covers 1 of them" in said("--head", earlier)
    assert "cut off" not in said("--head", last)
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    assert "1 records" in said() and "record 1" in said("--head", last, code=2)
    path.write_bytes(b"")
    assert "the log holds nothing" in said(code=2) and "record 0" in said("--head", last, code=2)


def test_the_own_key_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PUBLIUS_SIGNING_KEY", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    path = tmp_path / "audit.jsonl"
    AuditLog(path, KEY).append("req_0", [])
    result = CliRunner().invoke(app, ["audit", "verify", str(path)])
    assert isinstance(result.exception, UserError) and "record 0" in str(result.exception)
