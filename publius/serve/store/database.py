"""One database, SQLite or PostgreSQL: connections, and transactions that read or write."""

from __future__ import annotations

import os
import secrets
import sqlite3
import string
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.pool import StaticPool

from publius.core.errors import UserError
from publius.serve.store.migrate import migrate

__all__ = ["Database", "new_id"]

_BUSY_SECONDS = 30.0
"""How long SQLite waits for another process that writes."""

_LETTERS = string.ascii_letters + string.digits


def new_id(prefix: str, length: int = 24) -> str:
    """`prefix` and so many random letters and digits (24 hold 142 bits)."""
    return prefix + "".join(secrets.choice(_LETTERS) for _ in range(length))


class Database:
    """Safe to use from many threads; each transaction has a connection to itself.

    Args:
        url: `sqlite:///file`, `sqlite://` (in memory, gone with the process), or
            `postgresql+psycopg://user:password@host/name` (`postgresql://` means the same).

    Raises:
        UserError: when the URL is wrong, or the database cannot be reached, read or migrated.
    """

    def __init__(self, url: str) -> None:
        self.url = _parse(url)
        self.sqlite = self.url.get_backend_name() == "sqlite"
        self.shown = self.url.render_as_string(hide_password=True)
        # One writer at a time: waiting here is fair and quick, where SQLite would poll.
        self._writer = threading.Lock() if self.sqlite else nullcontext()
        # In memory all threads have the one connection there is, so readers wait too.
        self._reader = self._writer if self.in_memory else nullcontext()
        try:
            self._engine = self._connectable()
            self._migrate()
        except ModuleNotFoundError as error:
            raise UserError(
                f"the database's driver is not installed: {error}",
                where=self.shown,
                fix='pip install "publius[postgres]"',
            ) from error
        except (DBAPIError, OSError) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
            raise UserError(
                f"the store cannot be opened: {reason}",
                where=self.shown,
                fix="check the URL, that the database runs, and that its folder can be written",
            ) from error

    def _migrate(self) -> None:
        try:
            with self.write() as connection:
                migrate(connection)
        except BaseException:
            self.close()
            raise

    @property
    def in_memory(self) -> bool:
        """Whether it is gone when the process ends."""
        return self.sqlite and self.url.database in (None, "", ":memory:")

    def _connectable(self) -> sa.Engine:
        if not self.sqlite:
            return sa.create_engine(self.url, pool_pre_ping=True)
        options: dict[str, Any] = {"connect_args": {"timeout": _BUSY_SECONDS, "check_same_thread": False}}
        if self.in_memory:
            options["poolclass"] = StaticPool
        else:
            # It holds the signing secret: nobody else's to read. SQLite makes its log files alike.
            os.close(os.open(str(self.url.database), os.O_RDWR | os.O_CREAT, 0o600))
        engine = sa.create_engine(self.url, **options)
        event.listen(engine, "connect", _on_connect)
        event.listen(engine, "begin", _on_begin)
        return engine

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that only reads; it sees one state of the database."""
        with self._reader, self._engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that writes: all of it is kept when the block ends, none of it when it raises."""
        with self._writer, self._engine.connect() as connection:
            connection = connection.execution_options(publius_writes=True)
            with connection.begin():
                yield connection

    def connect(self) -> sa.Connection:
        """A connection of the caller's own, outside transactions, for PostgreSQL's session locks."""
        return self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")

    def insert(self, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
        """An INSERT that can say ON CONFLICT; both databases spell it the same way."""
        return sqlite.insert(table) if self.sqlite else postgresql.insert(table)

    def close(self) -> None:
        """Close every connection that is not in use."""
        self._engine.dispose()


def _parse(url: str) -> sa.URL:
    fix = "give sqlite:///file.db or postgresql+psycopg://user:password@host/name"
    try:
        parsed = sa.make_url(url)
        if parsed.drivername in ("postgresql", "postgres"):
            parsed = parsed.set(drivername="postgresql+psycopg")
        backend = parsed.drivername
    except (ArgumentError, NoSuchModuleError, ValueError):
        # The text may hold a password: it is not repeated.
        raise UserError("the store's URL cannot be read", fix=fix) from None
    if backend not in ("sqlite", "postgresql+psycopg"):
        raise UserError(f"a store cannot be kept in {backend!r}", where="the store's URL", fix=fix)
    if backend == "sqlite" and parsed.database and not Path(parsed.database).parent.is_dir():
        raise UserError(
            "the folder of the store is not there",
            where=str(Path(parsed.database).parent),
            fix="make it, or name another",
        )
    return parsed


def _on_connect(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = (
        None  # transactions begin where `_on_begin` says, not where the driver guesses
    )
    until = time.monotonic() + _BUSY_SECONDS
    for pragma in (
        # Readers and the writer do not wait for each other. A commit is in the log before it returns, so a
        # killed process loses nothing; only a power cut may lose the last commits, whole ones.
        "journal_mode = WAL",
        "synchronous = NORMAL",
        "foreign_keys = ON",
    ):
        while True:
            try:
                connection.execute(f"PRAGMA {pragma}")
                break
            except sqlite3.OperationalError:
                # Of two processes that open a new file at once one may be told so, without any wait.
                if time.monotonic() > until:
                    raise
                time.sleep(0.01)


def _on_begin(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("publius_writes")
    # A transaction that reads first and writes later can fail at once when another wrote in between.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
