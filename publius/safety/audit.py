"""The audit log: what was decided about each exchange, in a file that shows when it was changed.

One JSON record a line. Each holds the hash of the line before it, so that no record can be changed, left out,
moved or put in between without all after it showing it; and each is signed with an Ed25519 key, so that
nobody without the key can write the file anew. What is cut off at the end shows only against a head kept
elsewhere: `AuditLog.head` gives it, `verify` takes it.

A record says when, which request, which layers said what, and under which versions. What was asked and said
is kept as a digest only, or encrypted too (AES-256-GCM, a key of its own): an audit log must not be the leak.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import math
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from publius.core.errors import UserError
from publius.safety.monitor import Verdict

__all__ = ["AuditLog", "Verified", "digest", "read_content", "verify"]

_START = "0" * 64
_NONCE = 12


def digest(content: str) -> str:
    """The sha256 that stands for a content, hex."""
    return hashlib.sha256(content.encode()).hexdigest()


def _canonical(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _said(verdict: Verdict) -> dict[str, Any]:
    score = verdict.score if math.isfinite(verdict.score) else None  # JSON has no NaN
    return {**verdict._asdict(), "score": score}


def _coded(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


class Verified(NamedTuple):
    """A log that is as it was written."""

    records: int
    head: str
    """The hash of the last line: keep it elsewhere, and what is cut off at the end shows too."""
    key: str
    """The public key all were signed with, hex."""


class AuditLog:
    """Appends records to one file. One process writes it; its threads may share this.

    Args:
        path: the file; one that is there is gone on with, after it has been verified.
        key: signs.
        content_key: 32 bytes; with it contents are kept, encrypted. Without it only their digests are.

    Raises:
        UserError: when the file that is there is damaged or signed by another key.
    """

    def __init__(self, path: Path, key: Ed25519PrivateKey, *, content_key: bytes | None = None) -> None:
        if content_key is not None and len(content_key) != 32:
            raise UserError(
                f"the content key has {len(content_key)} bytes", where="AuditLog.content_key", fix="give 32"
            )
        self._path, self._key, self._lock = path, key, threading.Lock()
        self._cipher = None if content_key is None else AESGCM(content_key)
        self._number, self.head = 0, _START
        if path.exists() and path.stat().st_size:
            known = verify(path, key=key.public_key())
            self._number, self.head = known.records, known.head

    def append(
        self,
        request_id: str,
        verdicts: Sequence[Verdict],
        *,
        asked: str = "",
        replied: str = "",
        versions: Mapping[str, str] | None = None,
        milliseconds: float | None = None,
    ) -> str:
        """Add a record; it is on the disk when this returns.

        Args:
            request_id: of the exchange.
            verdicts: of every layer that spoke.
            asked, replied: the contents; only their digests are kept without a content key.
            versions: of weights, policy and constitution.
            milliseconds: spent on it.

        Returns:
            the new head.
        """
        record: dict[str, Any] = {
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
            "request": request_id,
            "asked": digest(asked),
            "replied": digest(replied),
            "verdicts": [_said(verdict) for verdict in verdicts],
            "versions": dict(versions or {}),
        }
        if milliseconds is not None:
            record["milliseconds"] = round(milliseconds, 3)
        if self._cipher is not None:
            nonce = os.urandom(_NONCE)
            plain = json.dumps({"asked": asked, "replied": replied}).encode()
            record["content"] = _coded(nonce + self._cipher.encrypt(nonce, plain, request_id.encode()))
        with self._lock:
            record |= {"number": self._number, "before": self.head}
            record["signature"] = self._key.sign(_canonical(record)).hex()
            line = _canonical(record)
            with self._path.open("ab") as file:
                file.write(line + b"\n")
                file.flush()
                os.fsync(file.fileno())
            self._number, self.head = self._number + 1, hashlib.sha256(line).hexdigest()
            return self.head


def verify(path: Path, *, key: Ed25519PublicKey, head: str | None = None) -> Verified:
    """Check every record of a log.

    Args:
        path: the file.
        key: that signed it.
        head: as known from elsewhere; None cannot tell whether records are missing at the end.

    Raises:
        UserError: naming the first record that is not as it was written.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the audit log: {error.strerror}", where=str(path)) from None
    before, count = _START, 0
    lines = data.split(b"\n")
    for number, line in enumerate(lines[:-1]):
        told = _wrong(line, number, before, key)
        if told:
            raise _changed(path, number, told)
        before, count = hashlib.sha256(line).hexdigest(), number + 1
    if lines[-1]:
        raise _changed(path, count, "its line has no end")
    if head is not None and head != before:
        raise _changed(path, count, "it is missing: the log ends before the head that is known")
    return Verified(count, before, key.public_bytes_raw().hex())


def _changed(path: Path, number: int, told: str) -> UserError:
    return UserError(
        f"record {number} is not as it was written: {told}",
        where=f"{path}, line {number + 1}",
        fix="trust nothing from this record on; compare with a copy",
    )


def _wrong(line: bytes, number: int, before: str, key: Ed25519PublicKey) -> str:
    """What is wrong with a line; empty when nothing is."""
    try:
        record = json.loads(line)
        if not isinstance(record, dict) or _canonical(record) != line:
            return "its line is not in the form it was written in"
        signature = bytes.fromhex(record.pop("signature"))
        key.verify(signature, _canonical(record))
    except (ValueError, KeyError, TypeError, RecursionError):
        return "it is no signed record"
    except InvalidSignature:
        return "its signature is not the key's"
    if record.get("number") != number:
        return f"it says it is record {record.get('number')}"
    return "" if record.get("before") == before else "it does not follow the one before it"


def read_content(line: str, content_key: bytes) -> tuple[str, str]:
    """What was asked and replied, of one line of a log that kept it.

    Raises:
        UserError: when the line kept none, or the key is another.
    """
    record = json.loads(line)
    if "content" not in record:
        raise UserError("the record keeps no content", where=f"record {record.get('number')}")
    data = base64.b64decode(record["content"])
    try:
        plain = AESGCM(content_key).decrypt(data[:_NONCE], data[_NONCE:], str(record["request"]).encode())
    except (InvalidTag, ValueError):
        raise UserError(
            "the content cannot be read with this key", where=f"record {record.get('number')}",
            fix="give the key it was written with",
        ) from None  # fmt: skip
    found = json.loads(plain)
    return found["asked"], found["replied"]
