"""The operations under `/model/{modelId}/`.

Ids come percent-encoded and may be ARNs, whose `%2F` a framework decodes to "/" before it routes; so these
routes match the path as it was sent.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple
from urllib.parse import unquote

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match
from starlette.types import Message, Scope

from publius.serve.bedrock import eventstream, openapi
from publius.serve.bedrock.auth import admitted
from publius.serve.bedrock.converse import in_converse_words, messages_body, picked, response
from publius.serve.bedrock.converse_stream import ConverseStream
from publius.serve.bedrock.errors import exception_frame, invalid
from publius.serve.bedrock.invoke import Clock, chunks, token_headers, unwrapped
from publius.serve.bedrock.names import resolve
from publius.serve.bedrock.shapes import ConverseRequest, CountTokensRequest
from publius.serve.errors import ApiError, api_error
from publius.serve.exchange import Ask, Ended, Event, Pause, ReplyBlock
from publius.serve.guard import Caller
from publius.serve.http import EventStream, new_id, read_json, request_id
from publius.serve.messages.conversation import OLDEST, validated
from publius.serve.messages.encode import message_body, omits_thinking
from publius.serve.messages.routes import parse_ask
from publius.serve.messages.schema import parse_count
from publius.serve.replies import begun, whole
from publius.serve.server import Reply, Server

__all__ = ["router"]

_log = logging.getLogger("publius.serve")
_GUARDRAIL = "x-amzn-bedrock-guardrailidentifier"


class _Call(NamedTuple):
    """A request whose caller is known."""

    request: Request
    server: Server
    caller: Caller
    model: str
    """Served id or alias."""
    body: dict[str, Any]
    clock: Clock

    @property
    def headers(self) -> dict[str, str]:
        """Of every response."""
        return {"x-amzn-requestid": request_id(self.request)}


def router(server: Server) -> APIRouter:
    """InvokeModel, Converse, both streamed, and CountTokens."""
    routes = APIRouter(tags=["Bedrock Runtime"], route_class=_RawPathRoute)
    for path, operation in (
        ("invoke", invoke),
        ("invoke-with-response-stream", invoke_stream),
        ("converse", converse),
        ("converse-stream", converse_stream),
        ("count-tokens", count_tokens),
    ):
        routes.add_api_route(
            f"/model/{{model_id:path}}/{path}",
            _endpoint(operation),
            methods=["POST"],
            name=operation.__name__,
            summary=openapi.NAMES[path],
            responses=openapi.responses(path),
            openapi_extra=openapi.takes(path, server.hub.models()[0].id),
        )
    return routes


class _RawPathRoute(APIRoute):
    """Matches what was sent; `model_id` is decoded afterwards."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """As Starlette's."""
        if scope["type"] != "http":
            return Match.NONE, {}
        raw = scope.get("raw_path") or scope["path"].encode()
        match, child = super().matches({**scope, "path": raw.decode("latin-1")})
        if match != Match.NONE:
            child["path_params"]["model_id"] = unquote(child["path_params"]["model_id"])
        return match, child


def _endpoint(operation: Callable[[_Call], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        clock, server = Clock(), request.app.state.server
        caller, body = await admitted(server, request)
        if request.headers.get(_GUARDRAIL):
            raise invalid("guardrailIdentifier: guardrails are not supported")
        model = resolve(request.path_params["model_id"], server.hub)
        return await operation(
            _Call(request, server, caller, model, await _json(request, body, server), clock)
        )

    return endpoint


async def _json(request: Request, body: bytes, server: Server) -> dict[str, Any]:
    """A body that has come already, read with all the care of `read_json`."""

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return await read_json(Request(request.scope, receive), server.config.body_bytes)


# ---- InvokeModel ----


async def invoke(call: _Call) -> Response:
    """`POST /model/{id}/invoke`."""
    ask = _invoked(call, call.body)
    reply = await whole(call.request, call.server, ask, call.caller, request_id(call.request))
    headers = {**call.headers, **token_headers(reply.ended.usage, call.clock)}
    body = message_body(reply, ask, new_id("msg_bdrk"), omit_thinking=omits_thinking(call.body))
    return JSONResponse(body, headers=headers)


async def invoke_stream(call: _Call) -> Response:
    """`POST /model/{id}/invoke-with-response-stream`."""
    ask = _invoked(call, call.body)
    events = await _begun(call, ask)
    omit = omits_thinking(call.body)
    return _stream(call, chunks(events, ask, new_id("msg_bdrk"), call.clock, omit_thinking=omit), events)


def _invoked(call: _Call, body: dict[str, Any]) -> Ask:
    return parse_ask(call.server, *unwrapped(body, call.model))


# ---- Converse ----


async def converse(call: _Call) -> Response:
    """`POST /model/{id}/converse`."""
    request = validated(ConverseRequest, call.body)
    paths, body = _paths(request), _messages(call, request)
    ask, omit = _conversed(call, request, body), omits_thinking(body)
    reply = await whole(call.request, call.server, ask, call.caller, request_id(call.request))
    whole_body = message_body(reply, ask, new_id("msg_bdrk"), omit_thinking=omit)
    additional = picked(whole_body, paths) if paths else None
    told = response(reply.blocks, reply.ended, call.clock.elapsed(), additional, omit_thinking=omit)
    return JSONResponse(told, headers=call.headers)


async def converse_stream(call: _Call) -> Response:
    """`POST /model/{id}/converse-stream`."""
    request = validated(ConverseRequest, call.body)
    paths, body = _paths(request), _messages(call, request)
    ask, omit = _conversed(call, request, body), omits_thinking(body)

    def additional(blocks: list[ReplyBlock], ended: Ended) -> dict[str, Any] | None:
        reply = Reply(tuple(blocks), ended, ())
        whole_body = message_body(reply, ask, new_id("msg_bdrk"), omit_thinking=omit)
        return picked(whole_body, paths) if paths else None

    events = await _begun(call, ask)
    stream = ConverseStream(call.clock.elapsed, additional, omit_thinking=omit)
    return _stream(call, _named(events, stream), events)


async def _named(events: AsyncIterator[Event], stream: ConverseStream) -> AsyncGenerator[bytes | None, None]:
    async for event in events:
        if isinstance(event, Pause):
            yield None
            continue
        for name, body in stream.feed(event):
            yield eventstream.event(name, body)


def _messages(call: _Call, request: ConverseRequest) -> dict[str, Any]:
    return messages_body(request, call.server.hub.get(call.model).context) | {"model": call.model}


def _conversed(call: _Call, request: ConverseRequest, body: dict[str, Any], *, counted: bool = False) -> Ask:
    """Converse's own version of the API is the one that takes sampling parameters."""
    try:
        if counted:
            return parse_count(body, version=OLDEST, restore=call.server.restore)
        return parse_ask(call.server, body, OLDEST)
    except ApiError as error:
        raise in_converse_words(error, request) from None


def _paths(request: ConverseRequest) -> list[str]:
    paths = request.additional_model_response_field_paths or []
    picked({}, paths)  # refuses what is no pointer before anything is computed
    return paths


# ---- CountTokens ----


async def count_tokens(call: _Call) -> Response:
    """`POST /model/{id}/count-tokens`."""
    kind, given = validated(CountTokensRequest, call.body).input.member()
    if kind == "converse":
        ask = _conversed(call, given, _messages(call, given), counted=True)
    else:
        try:
            body = base64.b64decode(given.body, validate=True)
        except (binascii.Error, ValueError):
            raise invalid("input.invokeModel.body: is not base64") from None
        inner, version = unwrapped(await _json(call.request, body, call.server), call.model)
        ask = parse_count(inner, version=version, restore=call.server.restore)
    tokens = await asyncio.to_thread(call.server.count, ask)
    return JSONResponse({"inputTokens": tokens}, headers=call.headers)


# ---- streams ----


async def _begun(call: _Call, ask: Ask) -> AsyncGenerator[Event, None]:
    return await begun(call.request, call.server.exchange(ask, call.caller, request_id(call.request)))


def _stream(
    call: _Call, frames: AsyncIterator[bytes | None], events: AsyncGenerator[Event, None]
) -> Response:
    headers = {**call.headers, "x-amzn-bedrock-content-type": "application/json"}
    told = _failing(frames, events, request_id(call.request))
    return EventStream(told, media_type=eventstream.MEDIA_TYPE, headers=headers)


async def _failing(
    frames: AsyncIterator[bytes | None], events: AsyncGenerator[Event, None], asked: str
) -> AsyncGenerator[bytes | None, None]:
    """The frames; a failure after the first is a frame too."""
    try:
        async for frame in frames:
            yield frame
    except Exception as error:
        told = api_error(error)
        if told.type == "api_error":
            _log.exception("a stream failed", extra={"request_id": asked})
        yield exception_frame(told)
    finally:
        await events.aclose()
