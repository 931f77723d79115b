"""The store: one object with a table of each concern, opened by URL."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Self

from publius.pipeline.store import disk_errors
from publius.serve.store.batches import Batches
from publius.serve.store.comparisons import Comparisons
from publius.serve.store.database import Database
from publius.serve.store.findings import HumanFindings
from publius.serve.store.keys import Keys
from publius.serve.store.lead import Lead
from publius.serve.store.settings import Settings
from publius.serve.store.usage import Spending

__all__ = ["Store", "default_url"]


def default_url(home: Path) -> str:
    """The store of a home: `serve.sqlite` in it."""
    return f"sqlite:///{(home / 'serve.sqlite').absolute()}"


class Store:
    """Everything the server keeps. Safe to use from many threads and processes; no method is a coroutine.

    What a method has returned from is on disk: a process killed at any moment loses nothing of it, and
    leaves nothing half done.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.settings = Settings(database)
        self.keys = Keys(database)
        self.usage = Spending(database)
        self.batches = Batches(database)
        self.comparisons = Comparisons(database, self.settings.secret())
        self.findings = HumanFindings(database)

    @classmethod
    def open(cls, url: str) -> Self:
        """Open the store at `url`, making or migrating its tables where needed; see `Database`.

        Raises:
            UserError: when the URL is wrong, or the database cannot be reached, read or migrated.
        """
        return cls(Database(url))

    @property
    def url(self) -> str:
        """Where it is, without the password."""
        return self._database.shown

    def secret(self) -> bytes:
        """32 random bytes, made once for each store: what thinking is signed with."""
        return self.settings.secret()

    def lead(self) -> Lead:
        """A new claim to be the process that runs this store's batches."""
        return Lead(self._database)

    def export_comparisons(self, path: Path) -> int:
        """Write the comparisons as JSON lines for `ingest_preferences`; returns how many pairs.

        Raises:
            UserError: when the disk refuses the write.
        """
        rows = [json.dumps(record) + "\n" for record in self.comparisons.export()]
        fresh = path.with_name(f".{path.name}.part")
        with disk_errors(str(path)):
            try:
                fresh.write_text("".join(rows), "utf-8")
                fresh.replace(path)
            finally:
                fresh.unlink(missing_ok=True)
        return len(rows)

    def close(self) -> None:
        """Close its connections; a closed store opens them again when it is used."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
