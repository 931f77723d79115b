"""Every answer that was paid for, on disk: a job that was killed or failed asks nothing twice.

One SQLite file in write-ahead mode, so that several processes can share it and a kill loses nothing
that was stored. A key is the SHA-256 of the whole request; the value is the response as it came.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from publius.core.errors import UserError

__all__ = ["AnswerCache", "default_cache", "request_key"]

_TABLE = "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, at REAL, body TEXT) WITHOUT ROWID"


def default_cache() -> Path:
    """`publius/remote.sqlite` under `$XDG_CACHE_HOME`, or `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "publius" / "remote.sqlite"


def request_key(endpoint: str, body: dict[str, Any], sample: int) -> str:
    """The SHA-256 (hex) of a request: address, body, and the number of the sample. Headers are left out."""
    text = json.dumps([endpoint, body, sample], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


class AnswerCache:
    """Response bodies by key. Safe to use from several threads.

    Args:
        path: the SQLite file; its folder is made. Only its owner may read it: it holds prompts' answers.

    Raises:
        UserError: when the file cannot be opened or is damaged; also from every method.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        with self._usable():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            self._base = sqlite3.connect(path, timeout=30, check_same_thread=False, isolation_level=None)
            self._base.execute("PRAGMA journal_mode=WAL")
            self._base.execute("PRAGMA synchronous=NORMAL")
            self._base.execute(_TABLE)

    def get(self, key: str) -> str | None:
        """The response stored under `key`."""
        with self._lock, self._usable():
            found = self._base.execute("SELECT body FROM answers WHERE key = ?", (key,)).fetchone()
        return None if found is None else str(found[0])

    def put(self, key: str, body: str) -> None:
        """Store a response; on disk when this returns."""
        with self._lock, self._usable():
            self._base.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", (key, time.time(), body))

    def close(self) -> None:
        """Give the file back."""
        with self._lock:
            self._base.close()

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise UserError(
                f"the cache of remote answers cannot be used: {error}",
                where=str(self.path),
                fix="free some disk space, name another file (cache), or delete this one if it is damaged",
            ) from error
