"""The evidence test of access control: a real server is started, and every one of its routes is tried.

Without a key, with a wrong one, with one that was revoked, and with one whose scope is another: each must be
told no, by every route but those that are open on purpose (the pages' own files, the API's description, the
health check, the tokenizer). The right key must be let in, or the test would pass on a server that is merely
broken.
"""

from __future__ import annotations

import http.client
import re
import secrets
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import uvicorn
from fastapi import FastAPI

from publius.core.config import Config
from publius.core.errors import UserError
from publius.model.checkpoint import Checkpoint
from publius.pipeline import Run, stage
from publius.release.safeguards import SafeguardReport, Trial, code_sha256, noticed, write_safeguard
from publius.serve.app import create_app
from publius.serve.config import ServeConfig
from publius.serve.hub import Target
from publius.serve.run import build

__all__ = ["AccessConfig", "access_code", "prove_access_control", "routes_of"]

_OPEN = re.compile(
    r"/|/compare|/redteam|/health|/openapi\.json|/web/[\w.-]+\.(js|css)|/tokenize|/detokenize|/tokenizer_info"
)
"""Paths that answer anybody: they hold no secret and reach no model."""
_LABEL = "/web/compare"
"""Where the key of a labeller may go."""
_REFUSED = (401, 403)


class AccessConfig(Config):
    """Nothing to set: every route is tried."""


class _Route(NamedTuple):
    method: str
    path: str


def access_code(config: Config) -> str:
    """The server's code enters the stage's identity: other code is tested anew."""
    return code_sha256("serve")


def routes_of(app: FastAPI) -> list[_Route]:
    """Every method and path of an application, those of its routers included; parameters filled in."""
    found: set[_Route] = set()

    def walk(routes: Iterable[Any], prefix: str) -> None:
        for route in routes:
            inner = getattr(route, "original_router", None)
            if inner is not None:
                walk(inner.routes, prefix)
                continue
            path = re.sub(r"\{[^}]*\}", "x", prefix + route.path)
            found.update(_Route(method, path) for method in getattr(route, "methods", None) or ("GET",))

    walk(app.routes, "")
    return sorted(found)


@stage(version=1, light=True, fingerprint=access_code)
def prove_access_control(run: Run, config: AccessConfig, *, model: Checkpoint) -> SafeguardReport:
    """Serve a model to this machine and try every route without a key that may use it.

    Metrics: `access.refused`, the share of these requests that were told no; `safeguard.access_control`.

    Raises:
        UserError: when the server cannot be started.
    """
    own = secrets.token_urlsafe(24)
    settings = ServeConfig(unreleased=True, store=f"sqlite:///{run.folder / 'access.sqlite'}")
    server = build(settings, [Target("model", str(model.path))], home=run.folder, key=own)
    app = create_app(server)
    keys = server.store.keys
    revoked, other = keys.create("revoked"), keys.create("labeller", scopes={"label"})
    keys.revoke("revoked")
    held = {"no key": "", "a wrong key": "sk-wrong", "a revoked key": revoked.secret,
            "a key of another scope": other.secret}  # fmt: skip
    routes = [route for route in routes_of(app) if not _OPEN.fullmatch(route.path)]
    trials: list[Trial] = []
    try:
        with _running(app) as port:
            for route in routes:
                for what, key in held.items():
                    if what != "a key of another scope" or not route.path.startswith(_LABEL):
                        trials.append(_tried(port, route, what, key))
            trials.append(_tried(port, _Route("GET", "/v1/models"), "the right key", own, right=True))
    finally:
        server.store.close()
    failed = [trial for trial in trials if not trial.passed]
    return write_safeguard(
        run, "access_control", tested=code_sha256("serve"), trials=failed or trials[-40:],
        how=f"A server was started, and each of its {len(routes)} routes that is not open on purpose was "
        f"asked with {', '.join(held)}: each must be told no, and the right key must be let in.",
        measures={"access.refused": noticed(trials)},
    )  # fmt: skip


def _tried(port: int, route: _Route, what: str, key: str, *, right: bool = False) -> Trial:
    headers = {"content-type": "application/json", "anthropic-version": "2023-06-01"}
    headers |= {"x-api-key": key, "authorization": f"Bearer {key}"} if key else {}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        body = b"{}" if route.method in ("POST", "PUT", "PATCH") else None
        connection.request(route.method, route.path, body=body, headers=headers)
        answer = connection.getresponse()
        answer.read()
        status = answer.status
    except (OSError, http.client.HTTPException):
        status = 0
    finally:
        connection.close()
    return Trial(
        what=f"{route.method} {route.path} with {what}", expected="accepted" if right else "refused",
        seen=str(status), passed=status == 200 if right else status in _REFUSED,
    )  # fmt: skip


class _Threaded(uvicorn.Server):
    """One that a thread can run: signals are the main thread's."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take none."""
        yield


@contextmanager
def _running(app: FastAPI) -> Iterator[int]:
    """Serve on a free port of this machine while the block runs."""
    settings = uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, access_log=False, ws="none")
    settings.timeout_graceful_shutdown = 1
    web = _Threaded(settings)
    thread = threading.Thread(target=web.run, daemon=True)
    thread.start()
    while not web.started:
        thread.join(0.02)
        if not thread.is_alive():
            raise UserError("the server under test did not start", where="prove_access_control")
    try:
        yield web.servers[0].sockets[0].getsockname()[1]
    finally:
        web.should_exit = True
        thread.join(20)
