"""Every route of the application refuses who may not ask: no key, a wrong, revoked, expired or spent one."""

from __future__ import annotations

import http.client
import itertools
import json
import logging
import re
import secrets
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from fastapi import FastAPI
from starlette.routing import BaseRoute, Mount

from publius.serve.app import create_app
from publius.serve.config import ServeConfig
from publius.serve.exchange import Usage
from publius.serve.hub import Target
from publius.serve.run import build
from publius.serve.store import Limits, Store
from publius.testing import write_tiny_checkpoint
from tests.serve.servers import running

OPEN = {
    "/health", "/openapi.json", "/tokenizer_info", "/tokenize", "/detokenize", "/v1/tokenizer_info",
    "/v1/tokenize", "/v1/detokenize",
}  # fmt: skip
"""Routes that answer everybody; beside them only the files of the web page."""
PAGE_TYPES = ("text/html", "text/css", "text/javascript", "application/javascript", "image/", "font/")
REFUSED = (401, 402, 403)
SPENT = (*REFUSED, 429)
FREE = ("GET", "HEAD", "DELETE")
"""OpenAI says 429 of a spent budget. Bedrock says 400, by the name of the error."""


class Asked(NamedTuple):
    """One method of one route."""

    method: str
    path: str


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("routes")


@pytest.fixture(scope="module")
def app(home) -> FastAPI:
    model = write_tiny_checkpoint(home / "tiny")
    config = ServeConfig(unreleased=True, store=f"sqlite:///{home}/store.db")
    return create_app(build(config, [Target.parse(str(model))], home=home, key="the-environments-own-key"))


@pytest.fixture(scope="module")
def address(app) -> Iterator[tuple[str, int]]:
    with running(app) as url:
        host, port = url.removeprefix("http://").split(":")
        yield host, int(port)


@pytest.fixture(scope="module")
def keys(home) -> dict[str, str]:
    """The texts of keys that open nothing, by why."""
    store = Store.open(f"sqlite:///{home}/store.db")
    every = ("messages", "batches", "label", "redteam", "admin")
    expired = store.keys.create("expired", scopes=every, expires=time.time() - 5)
    revoked = store.keys.create("revoked", scopes=every)
    store.keys.revoke("revoked")
    spent = store.keys.create("spent", scopes=every, limits=Limits(budget_tokens=1))
    store.usage.add(spent.key.id, Usage(input=5, output=5), time.time())
    return {
        "wrong": "sk-publius-" + secrets.token_urlsafe(32), "expired": expired.secret,
        "revoked": revoked.secret, "spent": spent.secret,
    }  # fmt: skip


def all_routes(routes: list[BaseRoute], before: str = "") -> Iterator[Asked]:
    """Every method of every route, its parameters filled in."""
    for route in routes:
        path = before + getattr(route, "path", "")
        if isinstance(route, Mount):
            yield from all_routes(list(route.routes), path)
            yield Asked("GET", path + "/x")
            continue
        inner = getattr(route, "original_router", None)
        if inner is not None:
            yield from all_routes(list(inner.routes), before)
            continue
        filled = re.sub(r"\{model[^}]*\}", "publius-haiku", path)
        for method in sorted(getattr(route, "methods", None) or {"GET", "POST"}):
            yield Asked(method, re.sub(r"\{[^}]*\}", "x", filled))


def told(address: tuple[str, int], asked: Asked, headers: dict[str, str]) -> tuple[int, str, str]:
    """Status, content type and body."""
    connection = http.client.HTTPConnection(*address, timeout=30)
    try:
        body = b"{}" if asked.method in ("POST", "PUT", "PATCH") else None
        connection.request(asked.method, asked.path, body, {"anthropic-version": "2023-06-01", **headers})
        response = connection.getresponse()
        return (
            response.status,
            response.headers.get("content-type", ""),
            response.read().decode("utf-8", "replace"),
        )
    finally:
        connection.close()


def is_open(asked: Asked, status: int, kind: str) -> bool:
    """Whether the answer may go to everybody: a documented route, or a file of the page."""
    if asked.path in OPEN or (asked.method, asked.path) == ("HEAD", "/"):
        return True
    return asked.method in ("GET", "HEAD") and (
        kind.startswith(PAGE_TYPES) or (status == 404 and "x" in asked.path)
    )


def test_the_walk_sees_the_routes(app):
    found = {asked.path for asked in all_routes(app.routes)}
    assert {"/v1/messages", "/v1/messages/count_tokens", "/v1/models", "/health", "/metrics"} <= found


def test_every_route_refuses_who_may_not_ask(app, address, keys, caplog):
    caplog.set_level(logging.DEBUG)
    headers = [{}]
    for text in (*keys.values(), "the-environments-own-ke", "the-environments-own-key2", "Bearer"):
        headers += [{"x-api-key": text}, {"authorization": f"Bearer {text}"}]
    headers += [
        {"x-api-key": keys["wrong"], "authorization": "Bearer the-environments-own-key"},
        {"authorization": "Basic dGhlLWVudmlyb25tZW50cy1vd24ta2V5"},
    ]
    wrong: list[tuple[Asked, dict[str, str], int]] = []
    for asked, given in itertools.product(all_routes(app.routes), headers):
        status, kind, body = told(address, asked, given)
        spent = keys["spent"] in str(given)
        refused = status in (SPENT if spent else REFUSED) or (spent and "budget" in body and status == 400)
        if spent and asked.method in FREE:
            continue  # whoever has spent a budget may fetch what it paid for: tests/serve/test_guard.py
        if not refused and not is_open(asked, status, kind):
            wrong.append((asked, given, status))
        assert all(text not in body for text in keys.values())
    assert wrong == []
    assert all(text not in caplog.text for text in (*keys.values(), "the-environments-own-key"))


def test_the_right_key_opens_them(app, address):
    given = {"x-api-key": "the-environments-own-key"}
    shut = [asked for asked in all_routes(app.routes) if told(address, asked, given)[0] in REFUSED]
    assert [asked for asked in shut if not asked.path.startswith("/model/")] == []


def test_a_key_opens_what_its_scope_says(app, address, home):
    store = Store.open(f"sqlite:///{home}/store.db")
    key = store.keys.create("labels-only", scopes=("label",)).secret
    for path in ("/v1/messages", "/v1/messages/count_tokens", "/v1/messages/batches", "/v1/chat/completions"):
        assert told(address, Asked("POST", path), {"x-api-key": key})[0] == 403, path
    assert told(address, Asked("GET", "/metrics"), {"x-api-key": key})[0] == 403


def test_limits_are_told_and_kept(app, address, home):
    store = Store.open(f"sqlite:///{home}/store.db")
    key = store.keys.create("two-a-minute", limits=Limits(requests_per_minute=2)).secret
    body = b'{"model": "publius-haiku", "max_tokens": 2, "messages": [{"role": "user", "content": "x"}]}'
    headers = {"x-api-key": key, "anthropic-version": "2023-06-01", "content-type": "application/json"}
    answers = []
    for _ in range(3):
        connection = http.client.HTTPConnection(*address, timeout=60)
        connection.request("POST", "/v1/messages", body, headers)
        response = connection.getresponse()
        answers.append((response.status, dict(response.headers.items()), response.read()))
        connection.close()
    assert [status for status, _, _ in answers] == [200, 200, 429]
    assert answers[0][1]["anthropic-ratelimit-requests-limit"] == "2"
    assert answers[0][1]["anthropic-ratelimit-requests-remaining"] == "1"
    assert 1 <= int(answers[2][1]["retry-after"]) <= 60 and b"rate_limit_error" in answers[2][2]


def test_openapi_is_whole(app):
    told_of = app.openapi()
    references = re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(told_of))
    for reference in references:
        found = told_of
        for word in reference.split("/"):
            found = found[word]
    lost = [
        (path, name)
        for path, methods in told_of["paths"].items()
        for operation in methods.values()
        for name in re.findall(r"\{(\w+)\}", path)
        if name not in {p["name"] for p in operation.get("parameters", ()) if p["in"] == "path"}
    ]
    assert references and lost == []
