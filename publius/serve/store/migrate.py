"""Bring a database to this version's tables, once, however many processes open it at the same time."""

from __future__ import annotations

import threading
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from publius.core.errors import UserError

__all__ = ["current", "migrate"]

_LOCK = threading.Lock()
"""Alembic keeps what it works on in globals of the process."""

_ADVISORY = 0x7075626C697573
"""PostgreSQL's lock around migrations: a number of ours ("publius")."""


def current(connection: Connection) -> str | None:
    """The step the database stands at; None when it is empty."""
    return MigrationContext.configure(connection).get_current_revision()


def migrate(connection: Connection) -> None:
    """Run the steps that are missing, inside the caller's transaction, which must be one that writes.

    In SQLite such a transaction already keeps other writers out; in PostgreSQL an advisory lock does, until
    the transaction ends. A kill half way leaves the database as it was.

    Raises:
        UserError: when a newer Publius made the database.
    """
    with _LOCK:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _ADVISORY})
        config = Config()
        config.set_main_option(
            "script_location", str(Path(__file__).parent / "migrations").replace("%", "%%")
        )
        config.attributes["connection"] = connection
        scripts = ScriptDirectory.from_config(config)
        at, steps = current(connection), {script.revision for script in scripts.walk_revisions()}
        if at is not None and at not in steps:
            raise UserError(
                f"a newer Publius made this store (step {at}; this one knows {max(steps)})",
                where=connection.engine.url.render_as_string(),
                fix="update Publius, or name another store",
            )
        if at != scripts.get_current_head():
            command.upgrade(config, "head")
