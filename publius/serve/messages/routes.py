"""The endpoints of the Messages API, but for batches."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from publius.serve.errors import ApiError, api_error
from publius.serve.exchange import Ask, Event
from publius.serve.guard import Caller
from publius.serve.http import compact, new_id, read_json, request_id, sse
from publius.serve.hub import ServedModel
from publius.serve.messages.body import Body, CountBody
from publius.serve.messages.conversation import VERSIONS
from publius.serve.messages.encode import event_bodies, message_body, omits_thinking
from publius.serve.messages.errors import error_body
from publius.serve.messages.schema import parse_count, parse_messages
from publius.serve.openapi import taking
from publius.serve.paging import model_page
from publius.serve.replies import begun, whole
from publius.serve.server import Server

__all__ = ["parse_ask", "router"]

_log = logging.getLogger("publius.serve")
_YES, _NO = {"supported": True}, {"supported": False}
_CAPABILITIES = {
    "batch": _YES,
    "citations": _NO,
    "code_execution": _NO,
    "context_management": {
        **_NO, "clear_thinking_20251015": _NO, "clear_tool_uses_20250919": _NO, "compact_20260112": _NO,
    },
    "effort": {**_NO, "low": _NO, "medium": _NO, "high": _NO, "xhigh": _NO, "max": _NO},
    "image_input": _NO,
    "pdf_input": _NO,
    "server_tools": {**_NO, "code_execution": _NO, "web_search": _NO},
    "structured_outputs": _YES,
    "thinking": {
        **_YES, "types": {"adaptive": _YES, "between_tools": _YES, "disabled": _YES, "enabled": _YES},
    },
}  # fmt: skip
"""Of every model here. Every key the vendor knows is there: its clients look into them without asking."""


def router(server: Server) -> APIRouter:
    """Messages, token counts and models."""
    routes = APIRouter(tags=["Messages"])
    for path in ("/v1/messages", "/anthropic/v1/messages"):
        routes.add_api_route(path, create, methods=["POST"], openapi_extra=taking(Body))
        routes.add_api_route(f"{path}/count_tokens", count, methods=["POST"], openapi_extra=taking(CountBody))
    routes.add_api_route("/v1/models", models, methods=["GET"])
    routes.add_api_route("/v1/models/{model:path}", model, methods=["GET"])
    return routes


async def create(request: Request) -> Response:
    """`POST /v1/messages`."""
    server: Server = request.app.state.server
    caller = await _admit(server, request, "messages")
    version = _version(request)
    body = await read_json(request, server.config.body_bytes)
    ask = parse_ask(server, body, version)
    id, asked = new_id("msg"), request_id(request)
    headers = {**server.guard.headers(caller), "request-id": asked}
    omit = omits_thinking(body)
    if body.get("stream") is not True:
        reply = await whole(request, server, ask, caller, asked)
        return JSONResponse(message_body(reply, ask, id, omit_thinking=omit), headers=headers)
    events = await begun(request, server.exchange(ask, caller, asked))
    frames = _frames(events, ask, id, asked, omit_thinking=omit)
    return sse(frames, headers)


def parse_ask(server: Server, body: dict[str, Any], version: str) -> Ask:
    """A body as what is asked, thinking verified against this server's secret.

    Raises:
        ApiError: what is wrong with it.
    """
    return parse_messages(body, version=version, restore=server.restore, strict=server.config.strict_versions)


async def _frames(
    events: AsyncGenerator[Event, None], ask: Ask, id: str, asked: str, *, omit_thinking: bool
) -> AsyncGenerator[bytes | None, None]:
    """Server-sent events; a failure after the first is an event too."""
    bodies = event_bodies(events, ask, id, omit_thinking=omit_thinking)
    try:
        async for body in bodies:
            yield None if body is None else _frame(body)
    except Exception as error:
        told = api_error(error)
        if told.type == "api_error":
            _log.exception("a stream failed", extra={"request_id": asked})
        yield _frame(error_body(told, asked))
    finally:
        await events.aclose()


def _frame(body: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (body["type"].encode(), compact(body))


async def count(request: Request) -> Response:
    """`POST /v1/messages/count_tokens`."""
    server: Server = request.app.state.server
    caller = await _admit(server, request, "messages")
    version = _version(request)
    body = await read_json(request, server.config.body_bytes)
    ask = parse_count(body, version=version, restore=server.restore)
    tokens = await asyncio.to_thread(server.count, ask)
    headers = {**server.guard.headers(caller), "request-id": request_id(request)}
    return JSONResponse({"input_tokens": tokens}, headers=headers)


async def models(request: Request) -> Response:
    """`GET /v1/models`: a page that the clients of both vendors read."""
    server: Server = request.app.state.server
    await _admit(server, request, "messages")
    listed = [_model_body(model, id) for model in server.hub.models() for id in (model.id, *model.aliases)]
    page = model_page(listed, request.query_params)
    return JSONResponse(page, headers={"request-id": request_id(request)})


async def model(request: Request) -> Response:
    """`GET /v1/models/{id}`."""
    server: Server = request.app.state.server
    await _admit(server, request, "messages")
    id = request.path_params["model"]
    body = _model_body(server.hub.get(id), id)
    return JSONResponse(body, headers={"request-id": request_id(request)})


def _model_body(model: ServedModel, id: str) -> dict[str, Any]:
    return {
        "id": id,
        "type": "model",
        "display_name": id.replace("-", " ").title(),
        "created_at": datetime.fromtimestamp(model.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "lifecycle": "active",
        "line": None,
        "deprecated_at": None,
        "retires_at": None,
        "max_input_tokens": model.context - 1,
        "max_tokens": model.context - 1,
        "capabilities": _CAPABILITIES,
        "object": "model",
        "created": model.created,
        "owned_by": "publius",
    }


async def _admit(server: Server, request: Request, scope: str) -> Caller:
    return await server.guard.admit(request, scope, keys=server.guard.bearer_or_header(request))


def _version(request: Request) -> str:
    """Raises:
    ApiError: a version that is missing or unknown.
    """
    version = request.headers.get("anthropic-version")
    if version is None:
        raise ApiError("invalid_request_error", "anthropic-version: header is required")
    if version not in VERSIONS:
        raise ApiError(
            "invalid_request_error",
            f"anthropic-version: {version[:40]!r} is not a valid version; known: {', '.join(VERSIONS)}",
        )
    return version
