"""The ASGI application: every dialect's routes over one `Server`, request ids, errors in each one's words."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address
from types import ModuleType
from urllib.parse import urlsplit

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from publius import __version__
from publius.core.errors import UserError
from publius.serve import bedrock, messages, openai, web
from publius.serve.errors import ApiError, ClientGone, api_error
from publius.serve.http import new_id, request_id
from publius.serve.messages.batches import BatchRunner, batch_router
from publius.serve.openapi import describe
from publius.serve.server import Server

__all__ = ["create_app", "is_loopback"]

_log = logging.getLogger("publius.serve")
_DIALECTS = (
    (("/v1/chat/", "/v1/completions", "/v1/embeddings", "/tokenize", "/detokenize"), openai),
    (("/model/",), bedrock),
    (("/",), messages),
)
"""Whose error words a path is answered in: the first whose beginning it has."""
_PORTS = {"http": 80, "https": 443}


def create_app(server: Server) -> FastAPI:
    """The application.

    Args:
        server: what it serves; closing the application ends its engines.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        batches = BatchRunner(server)
        await batches.start()
        try:
            yield
        finally:
            await batches.stop()
            await server.guard.close()
            server.hub.close()

    app = _Application(
        title="Publius", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None,
        separate_input_output_schemas=False,
    )  # fmt: skip
    app.state.server = server
    app.openapi = lambda: describe(app)
    made = [
        router(server)
        for router in (messages.router, batch_router, openai.router, bedrock.router, web.router)
    ]
    for routes in made:
        app.include_router(routes)
    app.add_api_route("/health", _health, methods=["GET"], tags=["Operation"])
    app.add_api_route("/metrics", _metrics, methods=["GET"], tags=["Operation"])
    for kind in (ApiError, UserError, HTTPException, Exception):
        app.add_exception_handler(kind, _failed)
    app.direct = {
        (method, route.path): route.endpoint
        for routes in made
        for route in routes.routes
        if isinstance(route, APIRoute) and not route.param_convertors
        for method in route.methods or ()
    }
    return app


async def _health(request: Request) -> Response:
    """Whether new work is taken."""
    server: Server = request.app.state.server
    models = [model.id for model in server.hub.models()]
    if server.draining:
        return JSONResponse({"status": "stopping", "models": models}, 503)
    return JSONResponse({"status": "ok", "models": models})


async def _metrics(request: Request) -> Response:
    """For Prometheus."""
    server: Server = request.app.state.server
    await server.guard.admit(request, "admin", keys=server.guard.bearer_or_header(request))
    return Response(server.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def _failed(request: Request, error: Exception) -> Response:
    """A request without a reply, in the words of the dialect that was spoken."""
    server: Server = request.app.state.server
    known = isinstance(error, HTTPException)
    told = _of_status(error.status_code, request) if known else api_error(error)
    if isinstance(told, ClientGone):
        _log.info("the client left before its reply", extra={"request_id": request_id(request)})
    else:
        if told.type == "api_error":
            _log.error("a request failed", exc_info=error, extra={"request_id": request_id(request)})
        server.metrics.error(told.type)
    dialect, path = _dialect(request.scope["path"]), request.scope["path"]
    if path.startswith("/v1/models") and "anthropic-version" not in request.headers:
        dialect = openai  # the path is both vendors'; only one of them says its version
    return dialect.error_response(told, request_id(request))


def _dialect(path: str) -> ModuleType:
    return next(one for beginnings, one in _DIALECTS if path.startswith(beginnings))


def _of_status(status: int, request: Request) -> ApiError:
    if status == 404:
        return ApiError("not_found_error", f"there is nothing at {request.scope['path'][:200]}")
    if status == 405:
        return ApiError("invalid_request_error", f"method {request.method} is not allowed here", status=405)
    return ApiError("invalid_request_error" if status < 500 else "api_error", f"HTTP {status}")


class _Application(FastAPI):
    """Gives every request its id, every response the header that tells it, and logs what was answered.

    An open server (one without keys) answers only those who call this machine by its own name, and of pages
    only its own: one of another site, whose browser runs on this machine, must not reach the models.

    Endpoints that a method and a path without parameters name are called from here. They take a request and
    give a response; FastAPI's way to them (middleware, routers, exit stacks, dependencies) costs a third of
    what serving a short reply does.
    """

    direct: dict[tuple[str, str], Callable[[Request], Awaitable[Response]]]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        server: Server = self.state.server
        id = scope.setdefault("state", {})["request_id"] = new_id("req")
        status, whole = 0, False

        async def answer(message: Message) -> None:
            nonlocal status, whole
            whole = message["type"] == "http.response.body" and not message.get("more_body")
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = message.setdefault("headers", [])
                if all(name.lower() != b"request-id" for name, _ in headers):
                    headers.append((b"request-id", id.encode()))
            await send(message)

        if server.guard.open and (why := _stranger(scope)) is not None:
            error = ApiError("permission_error", f"an open server answers {why}; give it a key")
            await _dialect(scope["path"]).error_response(error, id)(scope, receive, answer)
        elif (endpoint := self.direct.get((scope["method"], scope["path"]))) is not None:
            scope["app"] = self
            request = Request(scope, receive)
            try:
                response = await endpoint(request)
            except Exception as error:
                response = await _failed(request, error)
            await response(scope, receive, answer)
        else:
            try:
                await super().__call__(scope, receive, answer)
            except Exception:
                # Starlette raises again what it has answered, and a server that hears of it hangs up without
                # a word: a client that sends its next request on the same connection would lose it.
                if not whole:
                    raise
        if status >= 400 or _log.isEnabledFor(logging.DEBUG):
            _log.info("request", extra={"request_id": id, "path": scope["path"], "status": status})


def _stranger(scope: Scope) -> str | None:
    """Whom an open server answers, for a request that it does not; None for one that it does.

    Browsers say of which site's page a request is (`Sec-Fetch-Site`; older ones its `Origin` at least), and
    send it before they ask whether they may; other clients say neither.
    """
    headers = Headers(scope=scope)
    host, origin = headers.get("host", ""), headers.get("origin")
    name = host[1 : host.index("]")] if host.startswith("[") and "]" in host else host.partition(":")[0]
    if not is_loopback(name):
        return "to localhost only"
    followed = scope["method"] == "GET" and headers.get("sec-fetch-mode") == "navigate"  # a link to the page
    elsewhere = headers.get("sec-fetch-site") in ("cross-site", "same-site") and not followed
    return "no other site's pages" if elsewhere or not (origin is None or _is_of(origin, host)) else None


def _is_of(origin: str, host: str) -> bool:
    """Whether an `Origin` is the one that `Host` names. TLS may end before this server: which port a host
    without one means, the origin's scheme tells."""
    try:
        theirs, ours = urlsplit(origin), urlsplit(f"//{host}")
        usual = _PORTS[theirs.scheme]
        return (theirs.hostname, theirs.port or usual) == (ours.hostname, ours.port or usual)
    except (KeyError, ValueError):  # "null", an extension's, no port
        return False


def is_loopback(name: str) -> bool:
    """Whether a host name or address is this machine's own."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False
