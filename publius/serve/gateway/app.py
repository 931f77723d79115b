"""The gateway as an ASGI application: read a request, pick a backend, pass its answer on as it comes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import httpx2
from starlette.datastructures import QueryParams
from starlette.types import Message, Receive, Scope, Send

from publius.core.errors import UserError
from publius.serve.errors import ApiError
from publius.serve.gateway.address import is_address
from publius.serve.gateway.affinity import Key, key_of
from publius.serve.gateway.metrics import GatewayMetrics
from publius.serve.gateway.pool import Backend, Pool, models_of
from publius.serve.gateway.replies import Reply, broken_frame, refusal, whole_frames
from publius.serve.http import new_id
from publius.serve.paging import model_page

__all__ = ["Gateway", "GatewayConfig"]

log = logging.getLogger("publius.serve.gateway")

_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-connection", b"te", b"trailer",
     b"transfer-encoding", b"upgrade", b"expect")
)  # fmt: skip
"""Headers of one connection, not of the request."""
_OURS = frozenset((b"date", b"server"))
"""Of an answer: the gateway's own server writes them."""
_BUSY = frozenset((502, 503, 504, 529))
"""Answers after which another backend may fare better."""
_REFUSED = frozenset((503, 529))
"""Those of them that say that nothing was taken: a proxy that says 502 or 504 had passed the request on."""
_LARGEST = 32 << 20
_LARGEST_BATCH = 256 << 20
_BATCH = re.compile(r"(?:/anthropic)?/v1/messages/batches(/.*)?")
_LONG = 1 << 18
"""Bytes of a body that are worth a thread to read."""


@dataclass(frozen=True)
class GatewayConfig:
    """A gateway.

    Args:
        backends: addresses of Publius servers, vLLM, or others of the Messages or OpenAI API.
        key: for looking which models they serve, where that needs one; it is never lent to a client.
        interval: seconds between two looks at a backend.
        timeout: most seconds without a byte of an answer.
        bound: a backend takes at most so many times its even share of what is under way ...
        spare: ... or this many, if that is more, before its conversations go to the next one.

    Raises:
        UserError: naming the field that cannot be.
    """

    backends: tuple[str, ...]
    key: str = ""
    interval: float = 2.0
    timeout: float = 600.0
    bound: float = 1.25
    spare: int = 8

    def __post_init__(self) -> None:
        if not self.backends:
            raise UserError("no backend", where="gateway.backends", fix="give at least one --backend URL")
        seen: set[str] = set()
        for url in self.backends:
            if not is_address(url):
                fix = "give http://host:port or https://host"
                raise UserError(f"{url!r} is no address of a server", where="gateway.backends", fix=fix)
            if url.rstrip("/") in seen:
                raise UserError(f"{url!r} is given twice", where="gateway.backends", fix="give it once")
            seen.add(url.rstrip("/"))
        if not (self.interval > 0 and self.timeout > 0 and self.bound >= 1 and self.spare >= 0):
            told = f"interval {self.interval}, timeout {self.timeout}, bound {self.bound}, spare {self.spare}"
            fix = "interval and timeout above 0, bound 1 or more, spare 0 or more"
            raise UserError(told, where="gateway", fix=fix)


class _Asked(NamedTuple):
    """A request that has been read."""

    method: str
    path: str
    """Not decoded, without the query."""
    raw: bytes
    """With it."""
    headers: list[tuple[bytes, bytes]]
    body: bytes
    key: Key


class _Answer(NamedTuple):
    """A backend that has begun to answer."""

    backend: Backend
    response: httpx2.Response
    first: bytes
    rest: AsyncGenerator[bytes, None]


class Gateway:
    """The application. Its lifespan opens the connections and keeps looking at the backends."""

    def __init__(self, config: GatewayConfig) -> None:
        self.config = config
        self.metrics = GatewayMetrics()
        self._client = httpx2.AsyncClient(
            timeout=httpx2.Timeout(config.timeout, connect=5.0, pool=None),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=2.0),
            trust_env=False,  # backends are named one by one: no proxy of the environment stands between
        )
        self.pool = Pool(
            config.backends,
            self._client,
            key=config.key,
            interval=config.interval,
            bound=config.bound,
            spare=config.spare,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        await asyncio.gather(*(self.pool.look(backend) for backend in self.pool.backends))
        watching = asyncio.create_task(self.pool.watch())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        await self._client.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw = scope.get("raw_path") or scope["path"].encode()
        path, query = raw.decode("latin-1"), scope.get("query_string", b"")
        try:
            if path == "/health" and scope["method"] in ("GET", "HEAD"):
                return await self._health().send(send)
            if path == "/metrics" and scope["method"] == "GET":
                kind = "text/plain; version=0.0.4; charset=utf-8"
                return await Reply(200, self.metrics.text(self.pool.backends), kind).send(send)
            most = _LARGEST_BATCH if _BATCH.fullmatch(path) else _LARGEST
            body = await _body(receive, most)
            headers = [(name, value) for name, value in scope["headers"] if name.lower() not in _HOP]
            whole = raw + (b"?" + query if query else b"")
            key = key_of(path, body) if len(body) < _LONG else await asyncio.to_thread(key_of, path, body)
            asked = _Asked(scope["method"], path, whole, headers, body, key)
            if path == "/v1/models" and asked.method == "GET":
                models = models_of(await self.pool.lists(_readable(headers)))
                if models is not None:  # else one of those that refuse says so itself
                    page = json.dumps(model_page(models, QueryParams(query))).encode()
                    return await Reply(200, page, headers={"request-id": new_id("req")}).send(send)
            await self._while_there(asked, receive, send)
        except ApiError as error:
            await refusal(path, error).send(send)
        except _Gone:
            self.metrics.gone.inc()

    def _health(self) -> Reply:
        up = sum(backend.up for backend in self.pool.backends)
        said = {"status": "ok" if up else "no backend is up", "up": up, "backends": len(self.pool.backends)}
        return Reply(200 if up else 503, json.dumps(said).encode())

    async def _while_there(self, asked: _Asked, receive: Receive, send: Send) -> None:
        """Pass the request on; when the client leaves, so does the gateway, and the backend stops."""
        work = asyncio.create_task(self._pass_on(asked, send))
        left = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait({work, left}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise _Gone
            work.result()
        finally:
            for task in (work, left):
                task.cancel()
            await asyncio.gather(work, left, return_exceptions=True)

    async def _pass_on(self, asked: _Asked, send: Send) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with contextlib.AsyncExitStack() as stack:
            answer = await self._answered(asked, stack)
            self.metrics.first_byte.observe(loop.time() - began)
            self.metrics.requests.labels(answer.backend.name, str(answer.response.status_code)).inc()
            headers = [
                (name.lower(), value)
                for name, value in answer.response.headers.raw
                if name.lower() not in _HOP | _OURS
            ]
            start: Message = {
                "type": "http.response.start", "status": answer.response.status_code, "headers": headers,
            }  # fmt: skip
            await send(start)
            if answer.first:
                await send({"type": "http.response.body", "body": answer.first, "more_body": True})
            try:
                async for chunk in answer.rest:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            except httpx2.HTTPError as error:
                self.metrics.broken.labels(answer.backend.name).inc()
                answer.backend.fell(type(error).__name__)
                last = broken_frame(asked.path, _kind(answer.response))
                if last is None:
                    raise _Gone from error  # in the middle of a body nothing can be said: it is cut off
                await send({"type": "http.response.body", "body": last, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _answered(self, asked: _Asked, stack: contextlib.AsyncExitStack) -> _Answer:
        """The first backend's answer that is one, from the first byte on; the last one's where all are busy.

        Raises:
            ApiError: when none answers.
        """
        candidates = self.pool.candidates(asked.key)
        if candidates and candidates[0] is not self.pool.home(asked.key, candidates):
            self.metrics.moved.inc()
        stateful = _BATCH.fullmatch(asked.path)
        once = stateful is not None and asked.method == "POST"
        left, again = deque(candidates), set[Backend]()
        while left:
            backend = left.popleft()
            trying = contextlib.AsyncExitStack()
            try:
                answer = await self._try(asked, backend, trying)
            except httpx2.HTTPError as error:
                await trying.aclose()
                self.metrics.retries.labels(backend.name).inc()
                if await self._lost(backend, error, once) and backend not in again:
                    again.add(backend)
                    left.appendleft(backend)
                continue
            except BaseException:
                await trying.aclose()
                raise
            status = answer.response.status_code
            busy = status in (_REFUSED if once else _BUSY)
            elsewhere = busy or (status == 404 and stateful is not None and bool(stateful[1]))
            if elsewhere and left:
                await trying.aclose()
                self.metrics.retries.labels(backend.name).inc()
                continue
            stack.push_async_exit(trying)
            return answer
        self.metrics.unanswered.inc()
        raise ApiError("overloaded_error", "no backend answers; try again", headers={"retry-after": "2"})

    async def _lost(self, backend: Backend, error: httpx2.HTTPError, once: bool) -> bool:
        """It said nothing: whether to try it again, which helps where a kept connection had gone stale.

        Raises:
            ApiError: when it may have been taken and must be sent only `once`, and after a time-out.
        """
        reason = type(error).__name__
        log.warning("no answer", extra={"backend": backend.name, "reason": reason})
        if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
            backend.fell(reason)
            return False
        if isinstance(error, httpx2.TimeoutException):
            raise ApiError("timeout_error", f"the backend said nothing for {self.config.timeout:g} seconds")
        await self.pool.look(backend)
        if once:
            raise ApiError("api_error", "the backend was lost, and may or may not have taken the request")
        return backend.up

    async def _try(self, asked: _Asked, backend: Backend, stack: contextlib.AsyncExitStack) -> _Answer:
        """Send it, and wait for the first byte of the answer; `stack` gives back what is held."""
        backend.in_flight += 1
        stack.callback(_give_back, backend)
        request = httpx2.Request(
            asked.method, backend.at(asked.raw), headers=asked.headers, content=asked.body
        )
        response = await self._client.send(request, stream=True)
        stack.push_async_callback(response.aclose)
        rest = _chunks(response)
        stack.push_async_callback(rest.aclose)
        first = await anext(rest, b"")
        return _Answer(backend, response, first, rest)


class _Gone(Exception):
    """The client has left, or must be left."""


def _give_back(backend: Backend) -> None:
    backend.in_flight -= 1


async def _chunks(response: httpx2.Response) -> AsyncGenerator[bytes, None]:
    """The body as it comes, still encoded as the backend has encoded it; a stream of events in whole frames,
    so that one a backend leaves unfinished can be ended properly."""
    kind, held = _kind(response), b""
    async for chunk in response.aiter_raw():
        held += chunk
        if whole := whole_frames(kind, held):
            yield held[:whole]
            held = held[whole:]
    if held:
        yield held


def _kind(response: httpx2.Response) -> str:
    """What kind of body it is; none that anything could be added to, where it is compressed."""
    return "" if "content-encoding" in response.headers else response.headers.get("content-type", "")


async def _body(receive: Receive, most: int) -> bytes:
    """The whole body of a request.

    Raises:
        ApiError: when it is too large.
        _Gone: when the client left while sending.
    """
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Gone
        part = message.get("body", b"")
        size += len(part)
        if size > most:
            raise ApiError("request_too_large", f"the request has more than {most >> 20} MB")
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


async def _left(receive: Receive) -> None:
    """Until the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _readable(headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Of a request whose answer is read here: in no encoding we do not have."""
    return [
        (name, value)
        for name, value in headers
        if name.lower() not in (b"accept-encoding", b"content-length")
    ]
