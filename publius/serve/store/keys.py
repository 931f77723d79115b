"""API keys: made once, shown once, kept as a SHA-256 only."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from publius.core.errors import UserError
from publius.serve.store.database import Database, new_id
from publius.serve.store.tables import keys, settings
from publius.serve.store.words import one_line

__all__ = ["PREFIX", "SCOPES", "Key", "Keys", "Limits", "MadeKey", "digest_of"]

SCOPES: Final = ("messages", "batches", "label", "redteam", "admin")
"""What a key may be for."""

PREFIX: Final = "sk-publius-"
"""How every key begins, so that it is known when it turns up where it should not."""

_VERSION = "keys_version"


@dataclass(frozen=True)
class Limits:
    """Most a key may use; None does not limit. Cached input is free of the per-minute limit."""

    requests_per_minute: int | None = None
    input_tokens_per_minute: int | None = None
    output_tokens_per_minute: int | None = None
    budget_tokens: int | None = None
    """All tokens of all time."""


@dataclass(frozen=True)
class Key:
    """A key as it is kept; times are Unix seconds."""

    id: str
    name: str
    digest: str = field(repr=False)
    hint: str
    """Its last four characters, to tell keys apart."""
    scopes: frozenset[str]
    created: float
    expires: float | None = None
    revoked: float | None = None
    limits: Limits = field(default_factory=Limits)

    def refusal(self, now: float) -> str | None:
        """Why it opens nothing any more; None while it does."""
        if self.revoked is not None:
            return "this API key was revoked"
        if self.expires is not None and now >= self.expires:
            return "this API key has expired"
        return None


class MadeKey(NamedTuple):
    """A new key, and the text of it, which is nowhere else."""

    key: Key
    secret: str


def digest_of(secret: str) -> str:
    """What is kept of a key. A plain hash serves: 256 random bits cannot be searched for."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


class Keys:
    """The table of keys."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        name: str,
        *,
        scopes: Iterable[str] = ("messages", "batches"),
        expires: float | None = None,
        limits: Limits | None = None,
        now: float | None = None,
    ) -> MadeKey:
        """Make a key.

        Raises:
            UserError: when the name is taken by a key in use, a scope is unknown, or a limit is below 1.
        """
        name, now = one_line(name, "a key's name"), time.time() if now is None else now
        scopes, limits = frozenset(scopes), limits or Limits()
        if unknown := sorted(scopes - set(SCOPES)):
            raise UserError(f"no scope {unknown[0]!r}", fix=f"choose from {', '.join(SCOPES)}")
        if not scopes:
            raise UserError("a key with no scope opens nothing", fix=f"choose from {', '.join(SCOPES)}")
        for limit, value in asdict(limits).items():
            if value is not None and not 1 <= value < 2**63:
                raise UserError(f"{limit} is {value}", fix="give at least 1, or leave it out for no limit")
        secret = PREFIX + secrets.token_urlsafe(32)
        key = Key(
            new_id("key_"), name, digest_of(secret), secret[-4:], scopes, now, expires=expires, limits=limits
        )
        row: dict[str, Any] = {
            "id": key.id, "name": name, "digest": key.digest, "hint": key.hint,
            "scopes": json.dumps(sorted(scopes)), "created": now, "expires": expires,
        }  # fmt: skip
        try:
            with self._database.write() as connection:
                connection.execute(sa.insert(keys).values(**row, **asdict(limits)))
                self._changed(connection)
        except IntegrityError:
            raise UserError(
                f"a key named {name!r} is in use", fix="revoke it first, or give another name"
            ) from None
        return MadeKey(key, secret)

    def all(self) -> list[Key]:
        """Every key, revoked ones too, in the order they were made."""
        with self._database.read() as connection:
            return _all(connection)

    def revoke(self, which: str, now: float | None = None) -> Key:
        """Close a key, by id or by the name of one in use. It opens nothing from the next request on.

        Raises:
            UserError: when no key in use is called so.
        """
        now = time.time() if now is None else now
        with self._database.write() as connection:
            found = [k for k in _all(connection) if which in (k.id, k.name) and k.revoked is None]
            if not found:
                raise UserError(f"no key in use is called {which!r}", fix="see `publius keys list`")
            connection.execute(sa.update(keys).where(keys.c.id == found[0].id).values(revoked=now))
            self._changed(connection)
        return found[0]

    def any(self) -> bool:
        """Whether a key was ever made; one that was revoked counts."""
        with self._database.read() as connection:
            return connection.execute(sa.select(keys.c.id).limit(1)).first() is not None

    def version(self) -> int:
        """A number that changes whenever a key does."""
        with self._database.read() as connection:
            return _version(connection)

    def snapshot(self) -> tuple[int, Sequence[Key]]:
        """The version and every key of it."""
        with self._database.read() as connection:
            return _version(connection), _all(connection)

    def _changed(self, connection: sa.Connection) -> None:
        insert = self._database.insert(settings).values(name=_VERSION, value="1")
        more = sa.cast(sa.cast(settings.c.value, sa.BigInteger) + 1, sa.Text)
        connection.execute(insert.on_conflict_do_update(index_elements=["name"], set_={"value": more}))


def _version(connection: sa.Connection) -> int:
    return int(connection.scalar(sa.select(settings.c.value).where(settings.c.name == _VERSION)) or 0)


def _all(connection: sa.Connection) -> list[Key]:
    rows = connection.execute(sa.select(keys).order_by(keys.c.created, keys.c.id)).all()
    return [
        Key(
            row.id, row.name, row.digest, row.hint, frozenset(json.loads(row.scopes)), row.created,
            expires=row.expires, revoked=row.revoked,
            limits=Limits(**{limit.name: getattr(row, limit.name) for limit in fields(Limits)}),
        )
        for row in rows
    ]  # fmt: skip
