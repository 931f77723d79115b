"""Settings of the server that it makes itself and keeps."""

from __future__ import annotations

import secrets

import sqlalchemy as sa

from publius.serve.store.database import Database
from publius.serve.store.tables import settings

__all__ = ["Settings"]


class Settings:
    """Named texts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, name: str) -> str | None:
        """What was kept under `name`."""
        with self._database.read() as connection:
            return connection.scalar(sa.select(settings.c.value).where(settings.c.name == name))

    def get_or_make(self, name: str, made: str) -> str:
        """What was kept under `name`; where nothing was, `made`, which is kept from now on."""
        with self._database.write() as connection:
            insert = self._database.insert(settings).values(name=name, value=made)
            connection.execute(insert.on_conflict_do_nothing(index_elements=["name"]))
            return connection.execute(sa.select(settings.c.value).where(settings.c.name == name)).scalar_one()

    def secret(self) -> bytes:
        """32 random bytes, made once for each store: what thinking is signed with."""
        kept = self.get("secret")
        return bytes.fromhex(kept or self.get_or_make("secret", secrets.token_hex(32)))
