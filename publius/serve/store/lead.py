"""One process at a time runs the batches of a store; when it is killed, the next takes over at once."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from publius.serve.store.database import Database

__all__ = ["Lead"]

_ADVISORY = 0x62617463686573
"""PostgreSQL's lock of this use ("batches")."""


class Lead:
    """A lock that dies with its holder: a file's for SQLite, a session's for PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._guard = threading.Lock()
        self._file: int | None = None
        self._session: sa.Connection | None = None
        self._held = False

    def held(self) -> bool:
        """Take the lock when it is free; whether it is ours now. A lost connection has lost it."""
        with self._guard:
            if self._database.in_memory:
                return True
            return self._by_file() if self._database.sqlite else self._by_session()

    def release(self) -> None:
        """Give the lock up."""
        with self._guard:
            if self._file is not None:
                os.close(self._file)
            if self._session is not None and self._held:  # at once: a session takes its time to end
                with contextlib.suppress(DBAPIError):
                    unlock = sa.text("SELECT pg_advisory_unlock(:number)")
                    self._session.execute(unlock, {"number": _ADVISORY})
            self._drop_session()
            self._file, self._held = None, False

    def _by_file(self) -> bool:
        if self._file is not None:
            return True
        file = os.open(f"{self._database.url.database}-batches", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            return False
        self._file = file
        return True

    def _by_session(self) -> bool:
        try:
            if self._session is None:
                self._session = self._database.connect()
            if self._held:
                self._session.execute(sa.text("SELECT 1"))
            else:
                lock = sa.text("SELECT pg_try_advisory_lock(:number)")
                self._held = bool(self._session.execute(lock, {"number": _ADVISORY}).scalar_one())
        except DBAPIError:
            self._drop_session()
        return self._held

    def _drop_session(self) -> None:
        if self._session is not None:
            self._session.invalidate()  # closed, not returned to the pool: the lock is the session's
            self._session.close()
        self._session, self._held = None, False
