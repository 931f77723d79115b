"""What every endpoint does with HTTP: request ids, bodies read with care, event streams."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from pydantic_core import to_json
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from publius.serve.errors import ApiError

__all__ = ["EventStream", "compact", "new_id", "parse_json", "read_body", "read_json", "request_id", "sse"]

_DEPTH = 64
"""Deepest nesting of a body."""
_STALLED, _LOOK = 60.0, 5.0
"""Seconds in which a client takes nothing of what is ready, after which it counts as gone, and between two
looks: whoever never reads would keep a place of the engine's for good."""
_ALPHABET = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_LETTERS = bytes(_ALPHABET[byte % len(_ALPHABET)] for byte in range(256))


def new_id(prefix: str) -> str:
    """`prefix_` and 24 characters that nobody can guess."""
    return f"{prefix}_{secrets.token_bytes(24).translate(_LETTERS).decode()}"


def compact(value: Any) -> bytes:
    """JSON in UTF-8 without spaces. A number that is none becomes null.

    Raises:
        PydanticSerializationError: a ValueError, for half a surrogate pair.
    """
    return to_json(value, inf_nan_mode="null")


def request_id(request: Request) -> str:
    """The request's own id, the same one everywhere: log, header, error body."""
    found = getattr(request.state, "request_id", None)
    if found is None:
        found = request.state.request_id = new_id("req")
    return found


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body.

    Raises:
        ApiError: too large, or cut off.
    """
    declared = request.headers.get("content-length", "")
    too_large = ApiError("request_too_large", f"Request exceeds the maximum size of {limit} bytes")
    if declared.isdigit() and int(declared) > limit:
        raise too_large
    pieces: list[bytes] = []
    size = 0
    try:
        async for piece in request.stream():
            size += len(piece)
            if size > limit:
                raise too_large
            pieces.append(piece)
    except ClientDisconnect:
        raise ApiError("invalid_request_error", "the body was cut off") from None
    return b"".join(pieces)


async def read_json(request: Request, limit: int = 32 << 20) -> dict[str, Any]:
    """The body as a JSON object, whatever its content type says.

    Raises:
        ApiError: too large, and as `parse_json`.
    """
    return parse_json(await read_body(request, limit))


def parse_json(body: bytes) -> dict[str, Any]:
    """A body as a JSON object.

    Raises:
        ApiError: empty, not JSON in UTF-8, not an object, nested too deep, with half a surrogate pair or a
            number that is none.
    """
    if not body.strip():
        raise ApiError("invalid_request_error", "the request body is empty: send a JSON object")
    try:
        found = json.loads(body.decode("utf-8"), parse_constant=_no_constant, parse_int=_integer)
    except UnicodeDecodeError as error:
        raise ApiError("invalid_request_error", f"the request body is not UTF-8: {error.reason}") from None
    except RecursionError:
        raise ApiError("invalid_request_error", "the request body is nested too deep") from None
    except ValueError as error:
        raise ApiError("invalid_request_error", f"the request body is not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise ApiError("invalid_request_error", "the request body must be a JSON object")
    if _depth(found) > _DEPTH:
        raise ApiError("invalid_request_error", f"the request body is nested deeper than {_DEPTH} levels")
    if b"\\ud" in body.lower() and _half_pair(json.dumps(found, ensure_ascii=False)):
        raise ApiError("invalid_request_error", "the request body holds half a surrogate pair")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _integer(digits: str) -> int:
    if len(digits) > 64:
        raise ValueError("a number has more than 64 digits")
    return int(digits)


def _depth(value: Any) -> int:
    deepest, stack = 0, [(value, 1)]
    while stack:
        one, depth = stack.pop()
        deepest = max(deepest, depth)
        if depth > _DEPTH:
            return depth
        inner = one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
        stack += [(each, depth + 1) for each in inner if isinstance(each, dict | list)]
    return deepest


def _half_pair(text: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in text)


class EventStream(Response):
    """A response whose source is always closed: when it ends, when the client goes away, when it fails.

    Starlette's own stream costs a task group of another library a response: dear, beside a short reply.

    Args:
        frames: gathered until a None says that nothing more is ready, and then written at once: a write costs
            more than what is written.
    """

    def __init__(
        self,
        frames: AsyncIterator[bytes | None],
        *,
        media_type: str = "text/event-stream",
        headers: dict[str, str] | None = None,
    ) -> None:
        self.status_code, self.media_type, self.background = 200, media_type, None
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no", **(headers or {})})
        self._frames = frames
        self._pending: float | None = None
        """Since when what was written last has been waiting for the client."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it all, or as much as there is a client for."""
        sending = asyncio.ensure_future(self._send(send))
        leaving = asyncio.ensure_future(_left(receive))
        try:
            while not (
                await asyncio.wait((sending, leaving), timeout=_LOOK, return_when=asyncio.FIRST_COMPLETED)
            )[0]:
                if self._pending is not None and time.monotonic() - self._pending > _STALLED:
                    break
            if sending.done():
                sending.result()
        finally:
            leaving.cancel()
            if not sending.done():
                sending.cancel()
                await asyncio.wait((sending,))
            if isinstance(self._frames, AsyncGenerator):
                await self._frames.aclose()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        ready: list[bytes] = []
        async for frame in self._frames:
            if frame is not None:
                ready.append(frame)
            elif ready:
                self._pending = time.monotonic()
                await send({"type": "http.response.body", "body": b"".join(ready), "more_body": True})
                self._pending = None
                ready.clear()
        await send({"type": "http.response.body", "body": b"".join(ready), "more_body": False})


async def _left(receive: Receive) -> None:
    """Returns when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


def sse(frames: AsyncIterator[bytes | None], headers: dict[str, str] | None = None) -> EventStream:
    """Server-sent events."""
    return EventStream(frames, headers=headers)
