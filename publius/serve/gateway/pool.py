"""The backends: who is up, what each serves, who gets a request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import httpx2

from publius.serve.bedrock.names import candidates as bedrock_names
from publius.serve.gateway.affinity import Key, ordered, share

__all__ = ["Backend", "Pool", "models_of"]

log = logging.getLogger("publius.serve.gateway")

_PROBE_SECONDS = 5.0
_LONGEST_WAIT = 30.0
"""Seconds between two looks at a backend that stays down."""
_ANTHROPIC = {"anthropic-version": "2023-06-01"}
_MODELS = b"/v1/models?limit=1000"
"""All that a backend serves: a client's own page is cut from what all of them say."""


class Backend:
    """One server.

    Args:
        url: its address, with or without a path before the API's.

    Attributes:
        up: whether it takes requests.
        models: the ids it says it serves; None while it has not said, and then anything is tried on it.
        in_flight: requests under way.
    """

    def __init__(self, url: str) -> None:
        self.url = httpx2.URL(url.rstrip("/"))
        self.name = str(self.url)
        self.up = False
        self.models: frozenset[str] | None = None
        self.in_flight = 0
        self.failures = 0
        """Looks in a row that found it down."""
        self.due = 0.0
        """When to look again, by the loop's clock."""

    def at(self, raw_path: bytes) -> httpx2.URL:
        """The address of a path, not decoded and encoded again."""
        return self.url.copy_with(raw_path=self.url.raw_path.rstrip(b"/") + raw_path)

    def fell(self, why: str) -> None:
        """It did not take a request: nothing is sent to it until a look finds it up."""
        if self.up:
            log.warning("backend down", extra={"backend": self.name, "reason": why})
        self.up, self.failures, self.due = False, max(1, self.failures), 0.0


class Pool:
    """All backends.

    Args:
        urls: at least one, none twice.
        client: speaks to them.
        key: for looking which models they serve; clients' own keys are passed on with their requests.
        interval: seconds between looks.
        bound, spare: as `share`.
    """

    def __init__(
        self,
        urls: Sequence[str],
        client: httpx2.AsyncClient,
        *,
        key: str = "",
        interval: float = 2.0,
        bound: float = 1.25,
        spare: int = 8,
    ) -> None:
        self.backends = [Backend(url) for url in urls]
        self._by_name = {backend.name: backend for backend in self.backends}
        self._client, self._interval, self._bound, self._spare = client, interval, bound, spare
        self._headers = {
            **_ANTHROPIC,
            **({"authorization": f"Bearer {key}", "x-api-key": key} if key else {}),
        }

    def candidates(self, key: Key) -> list[Backend]:
        """Who may be given a request, in order: of those up that serve the model (all, where none says so),
        by affinity, but those with more than their share under way last."""
        able = [backend for backend in self.backends if backend.up]
        if key.model is not None:
            names = set(bedrock_names(key.model)) if key.bedrock else {key.model}
            able = (
                [b for b in able if b.models is not None and not names.isdisjoint(b.models)]
                or [b for b in able if b.models is None]
                or able
            )
        most = share(sum(b.in_flight for b in able), len(able), bound=self._bound, spare=self._spare)
        order = ordered(key, [backend.name for backend in able])
        return sorted((self._by_name[name] for name in order), key=lambda b: b.in_flight >= most)

    def home(self, key: Key, among: Sequence[Backend]) -> Backend:
        """The backend `key` belongs to, however much it has to do."""
        return self._by_name[ordered(key, [backend.name for backend in among])[0]]

    async def watch(self) -> None:
        """Look at every backend again and again, until cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            now = clock()
            due = [backend for backend in self.backends if backend.due <= now]
            await asyncio.gather(*(self.look(backend) for backend in due))
            await asyncio.sleep(self._interval / 4)

    async def look(self, backend: Backend) -> None:
        """See whether it is up, and what it serves; one that stays down is looked at less and less often."""
        was = backend.up
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                backend.up = await self._well(backend)
                if backend.up:
                    backend.models = await self._models(backend)
        except (httpx2.HTTPError, TimeoutError, OSError):
            backend.up = False
        backend.failures = 0 if backend.up else backend.failures + 1
        wait = min(self._interval * 2 ** min(10, max(0, backend.failures - 1)), _LONGEST_WAIT)
        backend.due = asyncio.get_running_loop().time() + wait
        if backend.up != was:
            log.warning("backend up" if backend.up else "backend down", extra={"backend": backend.name})

    async def _well(self, backend: Backend) -> bool:
        """By /health; a server without one is well when it answers at all."""
        answer = await self._client.get(backend.at(b"/health"))
        return answer.is_success or answer.status_code in (401, 403, 404, 405)

    async def _models(self, backend: Backend) -> frozenset[str] | None:
        """All ids of /v1/models; what was known before when it does not say."""
        answer = await self._client.get(backend.at(_MODELS), headers=self._headers)
        if not answer.is_success:
            return backend.models
        with suppress(ValueError, KeyError, TypeError):
            return frozenset(str(model["id"]) for model in answer.json()["data"])
        return backend.models

    async def lists(self, headers: Sequence[tuple[bytes, bytes]]) -> list[httpx2.Response]:
        """What each backend that is up says to a client with these headers that it serves, those that fail
        left out."""

        async def one(backend: Backend) -> httpx2.Response | None:
            with suppress(httpx2.HTTPError, TimeoutError):
                request = httpx2.Request("GET", backend.at(_MODELS), headers=list(headers))
                return await asyncio.wait_for(self._client.send(request), _PROBE_SECONDS)
            return None

        found = await asyncio.gather(*(one(backend) for backend in self.backends if backend.up))
        return [answer for answer in found if answer is not None]


def models_of(answers: Sequence[httpx2.Response]) -> list[Mapping[str, Any]] | None:
    """The models of all answers, each id once; None where none of them is a list."""
    listed: dict[str, Mapping[str, Any]] = {}
    good = False
    for answer in answers:
        if answer.is_success:
            with suppress(ValueError, KeyError, TypeError):
                for model in answer.json()["data"]:
                    listed.setdefault(str(model["id"]), model)
                good = True
    return list(listed.values()) if good else None
