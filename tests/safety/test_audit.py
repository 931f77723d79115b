"""An audit log is as it was written, or the first changed record is named."""

from __future__ import annotations

import json
import logging
import math
import os
import resource
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from publius.core.errors import UserError
from publius.safety.audit import AuditLog, read_content, verify
from publius.safety.monitor import Verdict

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key()


def written(path: Path, count: int = 4, **more: bytes) -> AuditLog:
    log = AuditLog(path, KEY, **more)
    for i in range(count):
        verdict = Verdict("block", "poison", "stopped", math.nan if i == 1 else 0.5, "probe")
        log.append(
            f"req_{i}", [verdict], asked=f"ask na\u00efve {i}", replied="said", versions={"model": "x"}
        )
    return log


def test_what_was_written_verifies_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = written(path)
    found = verify(path, key=PUBLIC, head=log.head)
    assert found == (4, log.head, PUBLIC.public_bytes_raw().hex(), 4)
    log.close()
    again = AuditLog(path, KEY)
    again.append("req_4", [])
    assert verify(path, key=PUBLIC)[::3] == (5, None) and again.records == 5
    assert verify(path, key=PUBLIC, head=again.head).covered == 5
    assert verify(path, key=PUBLIC, head=log.head).covered == 4, (
        "a head of earlier: no record before is missing"
    )


def test_one_changed_bit_anywhere_names_its_record(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = written(path, 3)
    data = path.read_bytes()
    for place in range(0, len(data), 7):
        changed = bytearray(data)
        changed[place] ^= 1
        path.write_bytes(changed)
        number = data[:place].count(b"\n")
        with pytest.raises(UserError, match=rf"record {number} is not as it was"):
            verify(path, key=PUBLIC, head=log.head)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_lines_moved_left_out_doubled_or_cut_are_noticed(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "audit.jsonl"
    path.unlink(missing_ok=True)
    head = written(path, 5).head
    lines = path.read_bytes().splitlines(keepends=True)
    order = data.draw(st.lists(st.integers(0, 4), max_size=7).filter(lambda order: order != [0, 1, 2, 3, 4]))
    path.write_bytes(b"".join(lines[i] for i in order))
    with pytest.raises(UserError) as caught:
        verify(path, key=PUBLIC, head=head)
    kept = next(
        (n for n, (i, j) in enumerate(zip(order, range(5), strict=False)) if i != j), min(len(order), 5)
    )
    assert f"record {kept} " in str(caught.value)


def test_a_signature_written_otherwise_is_a_change(tmp_path: Path) -> None:
    """Of the last record, which no other follows: capitals are hex too."""
    path = tmp_path / "audit.jsonl"
    written(path).close()
    *lines, last = path.read_text().splitlines(keepends=True)
    for change in (str.upper, lambda told: f"{told[:2]} {told[2:]}"):
        signature = json.loads(last)["signature"]
        path.write_text("".join([*lines, last.replace(signature, change(signature))]))
        with pytest.raises(UserError, match="record 3 is not as it was written"):
            verify(path, key=PUBLIC)


def test_a_log_forged_whole_by_another_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    other = AuditLog(path, Ed25519PrivateKey.generate())
    other.append("req", [])
    other.close()
    with pytest.raises(UserError, match=r"record 0.*signature"):
        verify(path, key=PUBLIC)
    with pytest.raises(UserError, match="record 0"):
        AuditLog(path, KEY)


def test_a_line_cut_by_a_crash_is_named_set_aside_and_not_built_upon(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "audit.jsonl"
    written(path, 2).close()
    whole = path.read_bytes().splitlines(keepends=True)
    for cut, aside in ((5, "torn-1"), (1, "torn-1-1"), (len(whole[1]) - 1, "torn-1-2")):
        path.write_bytes((whole[0] + whole[1])[:-cut])
        with pytest.raises(UserError, match="record 1 is not as it was written: its line has no end"):
            verify(path, key=PUBLIC)
        again = AuditLog(path, KEY)
        kept = path.with_name(f"audit.jsonl.{aside}")
        assert kept.read_bytes() == whole[1][:-cut] and str(kept) in caplog.messages[-1]
        assert path.read_bytes() == whole[0] and verify(path, key=PUBLIC, head=again.head).records == 1
        again.append("req_1", [])
        again.close()
        assert verify(path, key=PUBLIC).records == 2
    path.write_bytes(whole[0].replace(b"req_0", b"req_1") + whole[1][:-5])
    with pytest.raises(UserError, match="record 0"):
        AuditLog(path, KEY)
    notes = tmp_path / "notes.txt"
    notes.write_text("no log at all")
    with pytest.raises(UserError, match="record 0"):
        AuditLog(notes, KEY)
    assert notes.read_text() == "no log at all" and len(list(tmp_path.iterdir())) == 5


def test_a_record_that_does_not_fit_on_the_disk_leaves_no_half(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = written(path, 1)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            log.append("req_1", [])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before and log.records == 1
    log.append("req_2", [])
    assert verify(path, key=PUBLIC, head=log.head).records == 2


def test_one_process_writes_a_log(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = written(path, 1)
    with pytest.raises(UserError, match="another process writes this audit log"):
        AuditLog(path, KEY)
    log.append("req_1", [])
    log.close()
    with pytest.raises(OSError, match="was closed"):
        log.append("req_2", [])
    AuditLog(path, KEY).append("req_2", [])
    assert verify(path, key=PUBLIC).records == 3


def test_what_others_did_to_the_file_is_not_built_upon(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = written(path, 2)
    whole = path.read_bytes()
    for changed in (whole[:-1], whole + b"x", b""):
        path.write_bytes(changed)
        with pytest.raises(OSError, match="moved or changed by others"):
            log.append("req_2", [])
        assert path.read_bytes() == changed
    path.write_bytes(whole)
    path.rename(tmp_path / "kept")
    with pytest.raises(FileNotFoundError):
        log.append("req_2", [])
    path.write_bytes(whole)
    with pytest.raises(OSError, match="moved or changed by others"):
        log.append("req_2", [])


def test_the_head_is_told_to_who_keeps_it_elsewhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # for speed
    caplog.set_level(logging.INFO, "publius.safety")
    log = written(tmp_path / "audit.jsonl", 2001)
    log.tell("closed")
    told = [vars(record) for record in caplog.records]
    assert [one["records"] for one in told] == [1000, 2000, 2001] and told[-1]["head"] == log.head
    assert verify(tmp_path / "audit.jsonl", key=PUBLIC, head=told[0]["head"]).covered == 1000


def test_half_a_surrogate_pair_is_recorded(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl", KEY)
    log.append("req", [], asked="\ud800", replied="\udfff")
    assert verify(tmp_path / "audit.jsonl", key=PUBLIC).records == 1


def test_a_log_that_cannot_be_opened_is_one_clear_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "no/audit.jsonl"):
        with pytest.raises(UserError, match="cannot write the audit log"):
            AuditLog(path, KEY)


def test_content_is_a_digest_or_encrypted(tmp_path: Path) -> None:
    plain, sealed = tmp_path / "plain.jsonl", tmp_path / "sealed.jsonl"
    written(plain, 1)
    written(sealed, 1, content_key=b"k" * 32)
    assert verify(sealed, key=PUBLIC).records == 1
    line = sealed.read_text("utf-8")
    assert "said" not in plain.read_text("utf-8") and '"said"' not in line
    assert read_content(line, b"k" * 32) == ("ask na\u00efve 0", "said")
    with pytest.raises(UserError, match="this key"):
        read_content(line, b"l" * 32)
    with pytest.raises(UserError, match="keeps no content"):
        read_content(plain.read_text("utf-8"), b"k" * 32)
    with pytest.raises(UserError, match="5 bytes"):
        AuditLog(plain, KEY, content_key=b"short")
    record = json.loads(line)
    assert set(record) >= {"time", "request", "asked", "replied", "verdicts", "versions", "before", "number"}


def test_a_missing_log_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read"):
        verify(tmp_path / "none.jsonl", key=PUBLIC)
