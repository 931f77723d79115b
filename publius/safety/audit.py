"""The audit log: what was decided about each exchange, in a file that shows when it was changed.

One JSON record a line. Each holds the hash of the line before it, so that no record can be changed, left out,
moved or put in between without all after it showing it; and each is signed with an Ed25519 key, so that
nobody without the key can write the file anew. What is cut off at the end shows only against a head kept
elsewhere: `AuditLog.head` gives it, and is logged now and then; `verify` takes it.

A record says when, which request, which layers said what, and under which versions. What was asked and said
is kept as a digest only, or encrypted too (AES-256-GCM, a key of its own): an audit log must not be the leak.
"""

from __future__ import annotations

import base64
import datetime
import errno
import fcntl
import hashlib
import itertools
import json
import logging
import math
import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from publius.core.errors import UserError
from publius.safety.monitor import Verdict

__all__ = ["AuditLog", "Verified", "digest", "read_content", "verify"]

_log = logging.getLogger("publius.safety.audit")
_START = "0" * 64
_NONCE = 12
_EVERY = 1000
"""Records from one line of the program's log that tells the head to the next."""


def digest(content: str) -> str:
    """The sha256 that stands for a content, hex."""
    # half a surrogate pair, which JSON may hold, is content too
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


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
    covered: int | None = None
    """How many records the known head speaks of: none of those is missing. None: no head was given."""


class AuditLog:
    """Appends records to one file. One process writes it, and holds its lock until `close`; its threads may
    share this.

    Args:
        path: the file; one that is there is gone on with, after it has been verified. Half a record at its
            end, of a process that was killed or a disk that was full, is set aside in a file beside it.
        key: signs.
        content_key: 32 bytes; with it contents are kept, encrypted. Without it only their digests are.

    Raises:
        UserError: when the file that is there is damaged or signed by another key, another process writes it,
            or it cannot be opened.
    """

    def __init__(self, path: Path, key: Ed25519PrivateKey, *, content_key: bytes | None = None) -> None:
        if content_key is not None and len(content_key) != 32:
            raise UserError(
                f"the content key has {len(content_key)} bytes", where="AuditLog.content_key", fix="give 32"
            )
        self._path, self._key, self._lock = path, key, threading.Lock()
        self._cipher = None if content_key is None else AESGCM(content_key)
        try:
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        except OSError as error:
            raise UserError(
                f"cannot write the audit log: {error.strerror}", where=str(path), fix="mend its access"
            ) from None
        self._closed = weakref.finalize(self, os.close, self._file)
        try:
            self._lock_file()
            self._go_on()
        except BaseException:
            self._closed()
            raise

    @property
    def records(self) -> int:
        """How many it holds."""
        return self._number

    def _lock_file(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                "another process writes this audit log", where=str(self._path),
                fix="stop the other server first, or give this one a log of its own",
            ) from None  # fmt: skip
        except OSError as error:
            raise UserError(
                f"cannot lock the audit log: {error.strerror}", where=str(self._path),
                fix="keep it on a disk that knows locks",
            ) from None  # fmt: skip

    def _go_on(self) -> None:
        """Verify what is there, and set aside the half of a record that a kill may have left at its end."""
        with open(self._file, "rb", closefd=False) as file:
            data = file.read()
        heads, torn = _heads(data, self._path, self._key.public_key())
        self._number, self.head, self._size = len(heads) - 1, heads[-1], len(data) - len(torn)
        if not torn:
            return
        if not self._number and not torn.startswith(b"{"):  # a text of somebody's, and no log
            raise _changed(self._path, 0, "its line has no end")
        place = _beside(self._path, self._number, torn)
        os.ftruncate(self._file, self._size)
        os.fsync(self._file)
        _log.warning(
            "the audit log ended within record %d: its %d bytes are in %s", self._number, len(torn), place,
            extra=self._told(),
        )  # fmt: skip

    def _told(self) -> dict[str, Any]:
        return {"file": str(self._path), "records": self._number, "head": self.head}

    def tell(self, when: str) -> None:
        """Write the head and the number of records to the program's log, which is kept elsewhere."""
        _log.info("audit log: %s", when, extra=self._told())

    def close(self) -> None:
        """Let another process write it; nothing can be appended after."""
        with self._lock:
            self._closed()

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
        """Add a record; it is on the disk when this returns, and nothing of it is when this raises.

        Args:
            request_id: of the exchange.
            verdicts: of every layer that spoke.
            asked, replied: the contents; only their digests are kept without a content key.
            versions: of weights, policy and constitution.
            milliseconds: spent on it.

        Returns:
            the new head.

        Raises:
            OSError: when it cannot be written, or somebody else moved or changed the file.
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
            self._write(line + b"\n")
            self._number, self.head = self._number + 1, hashlib.sha256(line).hexdigest()
            if self._number % _EVERY == 0:
                self.tell("more records")
            return self.head

    def _write(self, line: bytes) -> None:
        if not self._closed.alive:
            raise OSError(errno.EBADF, "the audit log was closed", str(self._path))
        ours, there = os.fstat(self._file), self._path.stat()
        if not os.path.samestat(ours, there) or ours.st_size != self._size:
            raise OSError(errno.ESTALE, "the audit log was moved or changed by others", str(self._path))
        try:
            left = memoryview(line)
            while left:
                left = left[os.write(self._file, left) :]
            os.fsync(self._file)
        except BaseException:
            os.ftruncate(self._file, self._size)  # half a record would make what follows look forged
            raise
        self._size += len(line)


def _beside(path: Path, number: int, torn: bytes) -> Path:
    """Keep half a record in a file of its own; no earlier one is written over.

    Raises:
        UserError: when it cannot be kept.
    """
    for again in itertools.count():
        place = path.with_name(f"{path.name}.torn-{number}" + (f"-{again}" if again else ""))
        try:
            with place.open("xb") as file:
                file.write(torn)
                file.flush()
                os.fsync(file.fileno())
            return place
        except FileExistsError:
            continue
        except OSError as error:
            place.unlink(missing_ok=True)
            raise UserError(
                f"cannot set aside the half of a record that the audit log ends with: {error.strerror}",
                where=str(place), fix="free space, or mend the folder's access",
            ) from None  # fmt: skip
    raise AssertionError


def verify(path: Path, *, key: Ed25519PublicKey, head: str | None = None) -> Verified:
    """Check every record of a log.

    Args:
        path: the file.
        key: that signed it.
        head: as known from elsewhere, of any record; None cannot tell whether records are missing at the end.

    Raises:
        UserError: naming the first record that is not as it was written.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the audit log: {error.strerror}", where=str(path)) from None
    heads, torn = _heads(data, path, key)
    count = len(heads) - 1
    if torn:
        raise _changed(path, count, "its line has no end")
    if head is not None and head not in heads:
        raise _changed(path, count, "it is missing: the log ends before the head that is known")
    covered = None if head is None else heads.index(head)
    return Verified(count, heads[-1], key.public_bytes_raw().hex(), covered)


def _heads(data: bytes, path: Path, key: Ed25519PublicKey) -> tuple[list[str], bytes]:
    """The head before each record and after the last, and what follows the last end of a line.

    Raises:
        UserError: naming the first record that is not as it was written.
    """
    *lines, torn = data.split(b"\n")
    heads = [_START]
    for number, line in enumerate(lines):
        told = _wrong(line, number, heads[-1], key)
        if told:
            raise _changed(path, number, told)
        heads.append(hashlib.sha256(line).hexdigest())
    return heads, torn


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
        told = record.pop("signature")
        signature = bytes.fromhex(told)
        if signature.hex() != told:  # capitals and spaces are hex too, and were not written
            return "its line is not in the form it was written in"
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
