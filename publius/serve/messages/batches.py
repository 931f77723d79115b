"""The Message Batches API: many requests at once, answered when there is room, fetched within a day."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from publius.serve.errors import ApiError
from publius.serve.guard import Caller
from publius.serve.http import compact, new_id, parse_json, read_body, request_id
from publius.serve.messages.batch_runner import ItemRunner
from publius.serve.messages.conversation import VERSIONS, validated
from publius.serve.messages.encode import message_body, omits_thinking
from publius.serve.messages.routes import parse_ask
from publius.serve.openapi import taking
from publius.serve.server import Server
from publius.serve.store import Batch, BatchItem, Store

__all__ = ["BatchBody", "BatchRunner", "batch_router"]

_MOST = 100_000
"""Requests of one batch."""
_DAY = 24 * 60 * 60.0
_CHUNK = 64 << 10
"""Bytes of results sent at once."""


class BatchRequest(BaseModel):
    """One request; `params` are those of `POST /v1/messages`, read when its turn comes."""

    model_config = ConfigDict(extra="ignore", strict=True)

    custom_id: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    params: dict[str, Any]


class BatchBody(BaseModel):
    """The body of `POST /v1/messages/batches`."""

    model_config = ConfigDict(extra="ignore", strict=True)

    requests: Annotated[list[BatchRequest], Field(min_length=1, max_length=_MOST)]


class BatchRunner:
    """Answers what waits in the batches of a server's store, behind everything else that is asked of it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._items = ItemRunner(server.store, self._run, in_flight=server.config.batch_rows)

    async def start(self) -> None:
        """Begin, or go on with what was left."""
        await self._items.start()

    async def stop(self) -> None:
        """Stop; what is under way is begun again by the next to start."""
        await self._items.stop()

    async def _run(self, item: BatchItem, asked: str) -> dict[str, Any]:
        server = self._server
        if server.draining:
            raise ApiError("overloaded_error", "the server is stopping")
        caller = await server.guard.still_admitted(item.key_id)
        ask = replace(parse_ask(server, item.params, item.version), priority=-1)
        reply = await server.collect(ask, caller, asked)
        omit = omits_thinking(item.params)
        return message_body(reply, ask, new_id("msg"), omit_thinking=omit, tier="batch")


def batch_router(server: Server) -> APIRouter:
    """The endpoints of batches."""
    routes = APIRouter(tags=["Message Batches"])
    for start in ("/v1/messages/batches", "/anthropic/v1/messages/batches"):
        routes.add_api_route(start, create, methods=["POST"], openapi_extra=taking(BatchBody))
        routes.add_api_route(start, page, methods=["GET"])
        routes.add_api_route(f"{start}/{{batch}}", retrieve, methods=["GET"])
        routes.add_api_route(f"{start}/{{batch}}", delete, methods=["DELETE"])
        routes.add_api_route(f"{start}/{{batch}}/cancel", cancel, methods=["POST"])
        routes.add_api_route(f"{start}/{{batch}}/results", results, methods=["GET"])
    return routes


async def create(request: Request) -> Response:
    """`POST /v1/messages/batches`."""
    server, caller = await _admit(request)
    version = request.headers.get("anthropic-version")
    if version is None or version not in VERSIONS:
        raise ApiError(
            "invalid_request_error", f"anthropic-version: header must be one of {', '.join(VERSIONS)}"
        )
    body = await read_body(request, server.config.batch_bytes)
    batch = await asyncio.to_thread(_create, server.store, body, caller.key_id, version)
    return _answer(request, caller, _body(request, batch))


def _create(store: Store, body: bytes, key_id: str, version: str) -> Batch:
    """Read, check and keep a batch: seconds of work when it is large, so never on the event loop."""
    given = validated(BatchBody, parse_json(body)).requests
    seen: set[str] = set()
    for number, each in enumerate(given):
        if each.custom_id in seen:
            raise ApiError(
                "invalid_request_error",
                f"requests.{number}.custom_id: {each.custom_id!r} is used more than once",
            )
        seen.add(each.custom_id)
    now = time.time()
    pairs = [(each.custom_id, each.params) for each in given]
    return store.batches.create(pairs, key_id=key_id, version=version, now=now, expires=now + _DAY)


async def page(request: Request) -> Response:
    """`GET /v1/messages/batches`."""
    server, caller = await _admit(request)
    query = request.query_params
    limit = query.get("limit", "20")
    if not re.fullmatch(r"[0-9]{1,4}", limit) or not 1 <= int(limit) <= 1000:
        raise ApiError("invalid_request_error", "limit: must be between 1 and 1000")
    found, more = await asyncio.to_thread(
        server.store.batches.page, _owner(caller), limit=int(limit),
        after=query.get("after_id"), before=query.get("before_id"),
    )  # fmt: skip
    ends = {"first_id": found[0].id, "last_id": found[-1].id} if found else {}
    body = {"data": [_body(request, batch) for batch in found], "has_more": more}
    return _answer(request, caller, {**body, "first_id": None, "last_id": None, **ends})


async def retrieve(request: Request) -> Response:
    """`GET /v1/messages/batches/{id}`."""
    _, caller, batch = await _batch(request)
    return _answer(request, caller, _body(request, batch))


async def cancel(request: Request) -> Response:
    """`POST /v1/messages/batches/{id}/cancel`: what is under way is let finish, the rest is not begun."""
    server, caller, batch = await _batch(request)
    if batch.status == "ended":
        raise ApiError("invalid_request_error", f"batch {batch.id} has ended and cannot be canceled")
    batch = await asyncio.to_thread(server.store.batches.cancel, batch, time.time())
    return _answer(request, caller, _body(request, batch))


async def delete(request: Request) -> Response:
    """`DELETE /v1/messages/batches/{id}`."""
    server, caller, batch = await _batch(request)
    if batch.status != "ended":
        raise ApiError("invalid_request_error", f"batch {batch.id} has not ended: cancel it first")
    await asyncio.to_thread(server.store.batches.delete, batch)
    return _answer(request, caller, {"id": batch.id, "type": "message_batch_deleted"})


async def results(request: Request) -> Response:
    """`GET /v1/messages/batches/{id}/results`: JSON lines, in the order of the requests."""
    server, caller, batch = await _batch(request)
    if batch.status != "ended":
        raise ApiError(
            "not_found_error", f"batch {batch.id} has no results yet: its status is {batch.status}"
        )
    headers = {**server.guard.headers(caller), "request-id": request_id(request)}
    return StreamingResponse(
        _lines(server.store, batch.number), headers=headers, media_type="application/x-jsonl"
    )


def _lines(store: Store, number: int) -> Iterator[bytes]:
    chunk = bytearray()
    for custom_id, result in store.batches.results(number):
        line = {"custom_id": custom_id, "result": result}
        chunk += compact(line) + b"\n"
        if len(chunk) >= _CHUNK:
            yield bytes(chunk)
            chunk.clear()
    yield bytes(chunk)


async def _admit(request: Request) -> tuple[Server, Caller]:
    server: Server = request.app.state.server
    keys = server.guard.bearer_or_header(request)
    return server, await server.guard.admit(request, "batches", keys=keys)


async def _batch(request: Request) -> tuple[Server, Caller, Batch]:
    """The batch of the path, if the caller may see it; else it is as if it were not there."""
    server, caller = await _admit(request)
    id = request.path_params["batch"]
    batch = await asyncio.to_thread(server.store.batches.get, id, _owner(caller))
    if batch is None:
        raise ApiError("not_found_error", f"there is no message batch {id[:80]!r}")
    return server, caller, batch


def _owner(caller: Caller) -> str | None:
    """Whose batches a caller sees: its own, or with the scope "admin" everyone's."""
    return None if "admin" in caller.scopes else caller.key_id


def _answer(request: Request, caller: Caller, body: dict[str, Any]) -> Response:
    server: Server = request.app.state.server
    headers = {**server.guard.headers(caller), "request-id": request_id(request)}
    return JSONResponse(body, headers=headers)


def _body(request: Request, batch: Batch) -> dict[str, Any]:
    """The MessageBatch. Every request counts as processing until all have ended, as in the vendor's API."""
    ended = batch.status == "ended"
    counts = {"processing": 0 if ended else batch.total}
    for outcome in ("succeeded", "errored", "canceled", "expired"):
        counts[outcome] = batch.counts.get(outcome, 0) if ended else 0
    at = f"{request.base_url}v1/messages/batches/{batch.id}/results"
    return {
        "id": batch.id,
        "type": "message_batch",
        "processing_status": batch.status,
        "request_counts": counts,
        "created_at": _time(batch.created),
        "expires_at": _time(batch.expires),
        "ended_at": _time(batch.ended),
        "cancel_initiated_at": _time(batch.cancel_initiated),
        "archived_at": None,
        "results_url": at if ended else None,
    }


def _time(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
