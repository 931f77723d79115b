"""Who may ask, how much, and how often: API keys, scopes, limits and budgets.

A key is compared with every key there is, each time in the same time, and its text is kept nowhere: not in
the caller, not in an error, not in a log. Limits a minute are counted in this process (of several servers on
one store each counts its own); what a budget is compared with stands in the store.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from starlette.requests import HTTPConnection

from publius.serve.buckets import Bucket
from publius.serve.errors import ApiError
from publius.serve.exchange import Usage
from publius.serve.ledger import Ledger
from publius.serve.store import SCOPES, Key, Limits, Store
from publius.serve.store.keys import digest_of

__all__ = ["Caller", "Guard"]

_log = logging.getLogger("publius.serve")
_WRITE_EVERY = 1.0
"""Seconds between two writes of what was used."""
_ANYONE, _ENVIRONMENT = "anyone", "environment"
_FREE = frozenset(("GET", "HEAD", "DELETE"))
"""Methods that use no tokens: whoever has spent a budget may still fetch what it paid for."""
_MISSING = "an API key is required: send it as x-api-key, or as Authorization: Bearer"
_WRONG = "this API key is not known here"


class Caller(NamedTuple):
    """Who asks."""

    key_id: str
    """"" for nobody in particular (an open server), "environment" for the key of the environment."""
    name: str
    scopes: frozenset[str]
    limited: bool = True
    """Whether what it uses counts against limits a minute; a batch has a pace of its own."""


class _Buckets(NamedTuple):
    requests: Bucket | None
    input: Bucket | None
    output: Bucket | None

    @classmethod
    def of(cls, limits: Limits, now: float) -> _Buckets:
        """Full ones."""
        wanted = (
            limits.requests_per_minute,
            limits.input_tokens_per_minute,
            limits.output_tokens_per_minute,
        )
        return cls(*(None if each is None else Bucket(each, now) for each in wanted))

    def waits(self, now: float) -> dict[str, float]:
        """Seconds until each that limits has something in it."""
        return {
            name: bucket.wait(1, now)
            for name, bucket in zip(self._fields, self, strict=True)
            if bucket is not None
        }


class Guard:
    """Safe on an event loop and from threads; the store is asked in threads of its own.

    Args:
        store: where the keys are.
        open: let anyone in when there are no keys at all. Only for a server that nobody else can reach.
        key: the text of one further key, with every scope and no limits; None or "" for none.
        clock: Unix seconds.
        look_every: seconds after which the store is asked whether a key has been revoked.
    """

    def __init__(
        self,
        store: Store,
        *,
        open: bool,
        key: str | None = None,
        clock: Callable[[], float] = time.time,
        look_every: float = 0.2,
    ) -> None:
        self.open = open
        """As given: whether it lets anyone in as long as there is no key."""
        self._store, self._clock = store, clock
        self._lock = threading.Lock()
        self._ledger = Ledger(store.usage)
        self._writing: asyncio.Task[None] | None = None
        self._look_every, self._looked = look_every, -math.inf
        self._version, self._keys = store.keys.snapshot()
        self._buckets: dict[str, _Buckets] = {}
        self._own = [_environment_key(key)] if key else []

    @staticmethod
    def bearer_or_header(request: HTTPConnection) -> list[str]:
        """The keys a request brings: that of `x-api-key` first, then a bearer's."""
        found = [request.headers.get("x-api-key", "").strip()]
        scheme, _, token = request.headers.get("authorization", "").strip().partition(" ")
        if scheme.lower() == "bearer":
            found.append(token.strip())
        return [key for key in found if key]

    async def admit(self, request: HTTPConnection, scope: str, *, keys: Sequence[str]) -> Caller:
        """Let a request in, and count it.

        Args:
            scope: what it needs.
            keys: the texts its headers bring; the first counts, the rest is not looked at.

        Raises:
            ApiError: authentication_error (no key, an unknown, expired or revoked one), permission_error (the
                scope is missing), billing_error (the budget is spent), rate_limit_error (a limit is reached;
                its headers say when to come again).
        """
        await self._fresh()
        key = self._find(keys[0]) if keys else None
        if keys and key is None:  # it may have been made just now
            await self._fresh(now=True)
            key = self._find(keys[0])
        if key is not None:
            return await self._let_in(key, scope, spends=request.scope.get("method") not in _FREE)
        if self.open and not self._keys and not self._own:
            return Caller("", _ANYONE, frozenset(SCOPES))  # whatever key was sent: SDKs insist on sending one
        raise ApiError("authentication_error", _WRONG if keys else _MISSING)

    async def admit_known(self, key_id: str, scope: str) -> Caller:
        """The same for a caller who proved to have the key `key_id` in another way (by a signature)."""
        await self._fresh()
        return await self._let_in(self._known(key_id), scope)

    async def still_admitted(self, key_id: str) -> Caller:
        """Who does work that was accepted from `key_id` earlier; limits a minute do not count for it.

        Raises:
            ApiError: authentication_error or billing_error, where the key or its budget has come to an end.
        """
        if key_id == "":
            return Caller("", _ANYONE, frozenset(SCOPES), limited=False)
        await self._fresh()
        key = self._known(key_id)
        self._check_use(key)
        await self._check_budget(key)
        return Caller(key.id, key.name, key.scopes, limited=False)

    async def spent(self, caller: Caller, usage: Usage) -> None:
        """Count the tokens of an exchange, now that they are known."""
        now = self._clock()
        with self._lock:
            buckets = self._buckets.get(caller.key_id)
            if buckets is not None and caller.limited:
                if buckets.input is not None:
                    buckets.input.spend(usage.input + usage.cache_write, now)
                if buckets.output is not None:
                    buckets.output.spend(usage.output, now)
        self._ledger.add(caller.key_id, usage, now)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.ensure_future(self._write())

    async def close(self) -> None:
        """Write the books to their end."""
        if self._writing is not None and not self._writing.done():
            self._writing.cancel()
            await asyncio.wait({self._writing})
        try:
            await asyncio.to_thread(self._ledger.flush)
        except Exception:  # what else has to be closed is closed all the same
            _log.exception("the books cannot be written, and the last of them are lost")

    async def _write(self) -> None:
        while self._ledger.pending:
            await asyncio.sleep(_WRITE_EVERY)
            try:
                await asyncio.to_thread(self._ledger.flush)
            except Exception:  # whatever the database says: a disk that is full, a server that restarts
                _log.exception("the books cannot be written; they are kept and tried again")

    def headers(self, caller: Caller) -> dict[str, str]:
        """`anthropic-ratelimit-*` of a caller: limit, remaining, and when it is all there again (RFC 3339).

        `tokens` is input and output together. Nothing for what has no limit.
        """
        with self._lock:
            return self._headers(caller.key_id)

    async def _fresh(self, *, now: bool = False) -> None:
        """See keys that were made or revoked since; not before it is time, unless it must be now."""
        if now or time.monotonic() - self._looked >= self._look_every:
            self._looked = time.monotonic()
            await asyncio.to_thread(self._refresh)

    def _refresh(self) -> None:
        if self._store.keys.version() != self._version:
            fresh = self._store.keys.snapshot()
            with self._lock:
                self._version, self._keys = fresh

    def _find(self, secret: str) -> Key | None:
        digest, found = digest_of(secret), None
        for key in (*self._keys, *self._own):
            if hmac.compare_digest(key.digest, digest):
                found = key  # and on: how long it takes says nothing
        return found

    def _known(self, key_id: str) -> Key:
        found = next((key for key in (*self._keys, *self._own) if key.id == key_id), None)
        if found is None:
            raise ApiError("authentication_error", _WRONG)
        return found

    async def _let_in(self, key: Key, scope: str, *, spends: bool = True) -> Caller:
        self._check_use(key)
        if scope not in key.scopes:
            raise ApiError("permission_error", f"this API key lacks the scope {scope!r}")
        if spends:
            await self._check_budget(key)
        self._take_request(key)
        return Caller(key.id, key.name, key.scopes)

    def _check_use(self, key: Key) -> None:
        refusal = key.refusal(self._clock())
        if refusal is not None:
            raise ApiError("authentication_error", refusal)

    async def _check_budget(self, key: Key) -> None:
        budget = key.limits.budget_tokens
        if budget is None:
            return
        used = await asyncio.to_thread(self._ledger.total, key.id)
        if used.tokens >= budget:
            raise ApiError(
                "billing_error", f"this API key has used {used.tokens} of its budget of {budget} tokens"
            )

    def _take_request(self, key: Key) -> None:
        """Count one request; where a bucket is empty count nothing, and say when to return."""
        now = self._clock()
        with self._lock:
            buckets = self._buckets.get(key.id)
            if buckets is None:
                buckets = self._buckets[key.id] = _Buckets.of(key.limits, now)
            waits = buckets.waits(now)
            longest = max(waits, key=waits.__getitem__, default="")
            seconds = waits.get(longest, 0.0)
            if seconds == 0:
                if buckets.requests is not None:
                    buckets.requests.spend(1, now)
                return
            headers = self._headers(key.id) | {
                "retry-after": str(math.ceil(seconds)),
                "retry-after-ms": str(math.ceil(seconds * 1000)),
            }
        limit = getattr(buckets, longest).per_minute
        what = "requests" if longest == "requests" else f"{longest} tokens"
        raise ApiError(
            "rate_limit_error", f"this API key is limited to {limit} {what} a minute", headers=headers
        )

    def _headers(self, key_id: str) -> dict[str, str]:
        now, buckets = self._clock(), self._buckets.get(key_id)
        if buckets is None:
            return {}
        made: dict[str, str] = {}
        tokens = [bucket for bucket in (buckets.input, buckets.output) if bucket is not None]
        for name, together in (
            ("requests", [buckets.requests]),
            ("tokens", tokens),
            ("input-tokens", [buckets.input]),
            ("output-tokens", [buckets.output]),
        ):
            limited = [bucket for bucket in together if bucket is not None]
            if limited:
                start = f"anthropic-ratelimit-{name}"
                made[f"{start}-limit"] = str(sum(bucket.per_minute for bucket in limited))
                made[f"{start}-remaining"] = str(sum(bucket.remaining(now) for bucket in limited))
                made[f"{start}-reset"] = _rfc3339(max(bucket.full_at(now) for bucket in limited))
        return made


def _environment_key(secret: str) -> Key:
    return Key(_ENVIRONMENT, _ENVIRONMENT, digest_of(secret), "", frozenset(SCOPES), created=0.0)


def _rfc3339(seconds: float) -> str:
    """Whole seconds, rounded up: coming back then is never too early."""
    return datetime.fromtimestamp(math.ceil(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
