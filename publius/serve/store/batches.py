"""Batches of requests and what became of each: made whole, finished item by item, each item once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa

from publius.core.errors import UserError
from publius.serve.store.database import Database, new_id
from publius.serve.store.tables import batch_items, batches
from publius.serve.store.words import is_id

__all__ = ["OUTCOMES", "Batch", "BatchItem", "Batches", "ItemState", "Outcome"]

Outcome = Literal["succeeded", "errored", "canceled", "expired"]
ItemState = Literal["waiting"] | Outcome
OUTCOMES: tuple[Outcome, ...] = ("succeeded", "errored", "canceled", "expired")

_CHUNK = 1000
"""Rows written or read at a time."""


class Batch(NamedTuple):
    """A batch; times are Unix seconds."""

    number: int
    """Grows with each batch: the order of the list."""
    id: str
    key_id: str
    version: str
    """Of the API, as the client named it when the batch was made."""
    total: int
    created: float
    expires: float
    cancel_initiated: float | None
    ended: float | None
    counts: Mapping[str, int]
    """Items by outcome, and those still `waiting`."""

    @property
    def status(self) -> Literal["in_progress", "canceling", "ended"]:
        """`processing_status` of the Messages API."""
        if self.ended is not None:
            return "ended"
        return "in_progress" if self.cancel_initiated is None else "canceling"


class BatchItem(NamedTuple):
    """One request of a batch."""

    batch: int
    position: int
    custom_id: str
    params: dict[str, Any]
    key_id: str
    version: str

    @property
    def place(self) -> tuple[int, int]:
        """What it is known by."""
        return self.batch, self.position


class Batches:
    """The tables of batches and their items."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        requests: Sequence[tuple[str, Mapping[str, Any]]],
        *,
        key_id: str,
        version: str,
        now: float,
        expires: float,
    ) -> Batch:
        """Keep (custom id, params) pairs as a batch: all of them or, when anything fails, none."""
        batch_id = new_id("msgbatch_")
        row = {
            "id": batch_id, "key_id": key_id, "version": version, "total": len(requests), "created": now,
            "expires": expires,
        }  # fmt: skip
        # Other writers wait for the whole of it: what can be done before is.
        items = [
            {"position": position, "custom_id": custom_id, "params": json.dumps(params), "state": "waiting"}
            for position, (custom_id, params) in enumerate(requests)
        ]
        with self._database.write() as connection:
            made = sa.insert(batches).values(**row).returning(batches.c.number)
            number = connection.execute(made).scalar_one()
            insert = sa.insert(batch_items).values(batch=number)
            for start in range(0, len(items), _CHUNK):
                connection.execute(insert, items[start : start + _CHUNK])
            found = _get(connection, batch_id, None)
        assert found is not None
        return found

    def get(self, batch_id: str, key_id: str | None = None) -> Batch | None:
        """A batch of `key_id` (None: anyone's); None when there is no such."""
        with self._database.read() as connection:
            return _get(connection, batch_id, key_id)

    def page(
        self, key_id: str | None, *, limit: int, after: str | None = None, before: str | None = None
    ) -> tuple[list[Batch], bool]:
        """Batches newest first, and whether there are more in the direction asked for.

        Args:
            key_id: whose; None for everyone's.
            after: the page that follows this id: older ones.
            before: the page that ends right before this id: newer ones.

        Raises:
            UserError: when `after` or `before` names no batch of theirs.
        """
        query = sa.select(batches)
        if key_id is not None:
            query = query.where(batches.c.key_id == key_id)
        with self._database.read() as connection:
            for name, value in (("after_id", after), ("before_id", before)):
                if value is None:
                    continue
                edge = _get(connection, value, key_id)
                if edge is None:
                    raise UserError("there is no such batch", where=name)
                column = batches.c.number
                query = query.where(column < edge.number if name == "after_id" else column > edge.number)
            upwards = before is not None and after is None
            query = query.order_by(batches.c.number if upwards else batches.c.number.desc()).limit(limit + 1)
            rows = connection.execute(query).all()
            page = [_batch(row, _counts(connection, row.number)) for row in rows[:limit]]
        return page[::-1] if upwards else page, len(rows) > limit

    def unfinished(self) -> list[Batch]:
        """Batches that have not ended, oldest first; their items are not counted."""
        query = sa.select(batches).where(batches.c.ended.is_(None)).order_by(batches.c.number)
        with self._database.read() as connection:
            return [_batch(row, {}) for row in connection.execute(query).all()]

    def waiting(self, batch: int, *, after: int, limit: int) -> list[BatchItem]:
        """The next items of a batch that wait, behind position `after`."""
        query = (
            sa.select(batch_items, batches.c.key_id, batches.c.version)
            .join(batches, batches.c.number == batch_items.c.batch)
            .where(batch_items.c.batch == batch, batch_items.c.state == "waiting")
            .where(batch_items.c.position > after)
            .order_by(batch_items.c.position)
            .limit(limit)
        )
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return [
            BatchItem(r.batch, r.position, r.custom_id, json.loads(r.params), r.key_id, r.version)
            for r in rows
        ]

    def finish(self, item: BatchItem, outcome: Outcome, result: Mapping[str, Any]) -> bool:
        """Write what became of an item.

        Returns:
            False, with nothing written, when the item had its result already or is gone.
        """
        done = (
            sa.update(batch_items)
            .where(batch_items.c.batch == item.batch, batch_items.c.position == item.position)
            .where(batch_items.c.state == "waiting")
            .values(state=outcome, result=json.dumps(result))
        )
        with self._database.write() as connection:
            return connection.execute(done).rowcount == 1

    def close_waiting(self, batch: int, outcome: Outcome, *, busy: Sequence[int] = ()) -> int:
        """Give every item that waits this outcome, but for those at positions `busy`; returns how many."""
        done = (
            sa.update(batch_items)
            .where(batch_items.c.batch == batch, batch_items.c.state == "waiting")
            .where(batch_items.c.position.not_in(busy))
            .values(state=outcome, result=json.dumps({"type": outcome}))
        )
        with self._database.write() as connection:
            return connection.execute(done).rowcount

    def end(self, batch: int, now: float) -> bool:
        """Mark a batch as ended, unless an item still waits or it had ended; returns whether it was done."""
        still = sa.select(batch_items.c.position).where(
            batch_items.c.batch == batch, batch_items.c.state == "waiting"
        )
        done = (
            sa.update(batches)
            .where(batches.c.number == batch, batches.c.ended.is_(None), ~sa.exists(still))
            .values(ended=now)
        )
        with self._database.write() as connection:
            return connection.execute(done).rowcount == 1

    def cancel(self, batch: Batch, now: float) -> Batch:
        """Ask for a batch to be cancelled; one that is so already, or has ended, stays as it is."""
        ask = (
            sa.update(batches)
            .where(batches.c.number == batch.number, batches.c.ended.is_(None))
            .where(batches.c.cancel_initiated.is_(None))
            .values(cancel_initiated=now)
        )
        with self._database.write() as connection:
            connection.execute(ask)
            return _get(connection, batch.id, None) or batch

    def delete(self, batch: Batch) -> bool:
        """Remove a batch that has ended, results and all; returns whether it was there and had ended."""
        gone = sa.delete(batches).where(batches.c.number == batch.number, batches.c.ended.is_not(None))
        with self._database.write() as connection:
            return connection.execute(gone).rowcount == 1

    def results(self, batch: int) -> Iterator[tuple[str, dict[str, Any]]]:
        """(custom id, result) of each finished item, in the order asked; a few rows in memory at a time."""
        after = -1
        while True:
            query = (
                sa.select(batch_items.c.position, batch_items.c.custom_id, batch_items.c.result)
                .where(batch_items.c.batch == batch, batch_items.c.position > after)
                .where(batch_items.c.result.is_not(None))
                .order_by(batch_items.c.position)
                .limit(_CHUNK)
            )
            with self._database.read() as connection:
                rows = connection.execute(query).all()
            if not rows:
                return
            after = rows[-1].position
            for row in rows:
                yield row.custom_id, json.loads(row.result)


def _get(connection: sa.Connection, batch_id: str, key_id: str | None) -> Batch | None:
    query = sa.select(batches).where(batches.c.id == batch_id)
    if key_id is not None:
        query = query.where(batches.c.key_id == key_id)
    row = connection.execute(query).one_or_none() if is_id(batch_id) else None
    return None if row is None else _batch(row, _counts(connection, row.number))


def _counts(connection: sa.Connection, number: int) -> dict[str, int]:
    query = (
        sa.select(batch_items.c.state, sa.func.count())
        .where(batch_items.c.batch == number)
        .group_by(batch_items.c.state)
    )
    return {state: int(count) for state, count in connection.execute(query).all()}


def _batch(row: sa.Row[Any], counts: Mapping[str, int]) -> Batch:
    return Batch(**{name: getattr(row, name) for name in Batch._fields if name != "counts"}, counts=counts)
