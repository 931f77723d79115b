"""What each key has used, by day, so that a budget outlives the process."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

import sqlalchemy as sa

from publius.serve.exchange import Usage
from publius.serve.store.database import Database
from publius.serve.store.tables import usage

__all__ = ["Spending", "Used"]


class Used(NamedTuple):
    """Requests, and tokens by how they are counted (`Usage`)."""

    requests: int = 0
    input: int = 0
    cache_write: int = 0
    cache_read: int = 0
    output: int = 0

    @property
    def tokens(self) -> int:
        """All of them: what a budget is compared with."""
        return self.input + self.cache_write + self.cache_read + self.output

    def plus(self, other: Used) -> Used:
        """Both together."""
        return Used(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


class Spending:
    """The table of usage."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, key_id: str, used: Usage, now: float) -> None:
        """Count one request of `key_id` and its tokens."""
        day = datetime.fromtimestamp(now, UTC).date().isoformat()
        more = Used(1, used.input, used.cache_write, used.cache_read, used.output)
        self.add_all({(key_id, day): more})

    def add_all(self, used: Mapping[tuple[str, str], Used]) -> None:
        """Count what each key used on each day (`2026-11-26`, UTC), all of it or nothing."""
        with self._database.write() as connection:
            # In one order, so that two writers cannot block each other.
            for (key_id, day), more in sorted(used.items()):
                insert = self._database.insert(usage).values(key_id=key_id, day=day, **more._asdict())
                summed = {name: usage.c[name] + insert.excluded[name] for name in Used._fields}
                connection.execute(
                    insert.on_conflict_do_update(index_elements=["key_id", "day"], set_=summed)
                )

    def total(self, key_id: str) -> Used:
        """All that `key_id` ever used."""
        sums = (sa.func.coalesce(sa.func.sum(usage.c[name]), 0) for name in Used._fields)
        with self._database.read() as connection:
            row = connection.execute(sa.select(*sums).where(usage.c.key_id == key_id)).one()
        return Used(*(int(value) for value in row))

    def by_day(self, key_id: str) -> dict[str, Used]:
        """The same for each day (`2026-11-26`, UTC), oldest first."""
        query = sa.select(usage).where(usage.c.key_id == key_id).order_by(usage.c.day)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return {row.day: Used(*(getattr(row, name) for name in Used._fields)) for row in rows}
