"""A reply begins before its response does, and its source is closed with it, or when its client has left."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.types import Message

from publius.serve.app import create_app
from publius.serve.config import ServeConfig
from publius.serve.errors import ApiError
from publius.serve.exchange import Began, Ended, Event, Usage
from publius.serve.hub import Target
from publius.serve.replies import begun
from publius.serve.run import build
from tests.serve.servers import running

EVENTS: list[Event] = [Began(Usage(1)), Ended("end_turn", Usage(1, output=1))]
TURNS = [{"role": "user", "content": "hi"}]
CONVERSE = {"messages": [{"role": "user", "content": [{"text": "hi"}]}]}
STREAMS: dict[str, dict[str, Any]] = {
    "/v1/messages": {"model": "m", "max_tokens": 4, "messages": TURNS, "stream": True},
    "/v1/chat/completions": {"model": "m", "max_tokens": 4, "messages": TURNS, "stream": True},
    "/v1/completions": {"model": "m", "max_tokens": 4, "prompt": "hi", "n": 2, "stream": True},
    "/model/m/converse-stream": CONVERSE,
    "/model/m/invoke-with-response-stream": {
        "anthropic_version": "bedrock-2023-05-31", "max_tokens": 4, "messages": TURNS,
    },
}  # fmt: skip
REPLIES = len(STREAMS) + 1
"""That are asked for: one has two choices."""


def asking() -> Request:
    """A request whose client stays."""

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    return Request({"type": "http"}, receive)


async def source(closed: list[bool], *, refused: bool = False) -> AsyncGenerator[Event, None]:
    try:
        if refused:
            raise ApiError("overloaded_error", "too many")
        for event in EVENTS:
            yield event
    finally:
        closed.append(True)


def test_what_is_refused_is_raised_before_there_is_a_stream() -> None:
    closed: list[bool] = []
    with pytest.raises(ApiError, match="too many"):
        asyncio.run(begun(asking(), source(closed, refused=True)))
    assert closed


def test_all_events_come() -> None:
    async def read() -> list[Event]:
        return [event async for event in await begun(asking(), source([]))]

    assert asyncio.run(read()) == EVENTS


@pytest.mark.parametrize("read", [0, 1])
def test_closing_closes_the_source(read: int) -> None:
    closed: list[bool] = []

    async def leave() -> None:
        events = await begun(asking(), source(closed))
        for _ in range(read):
            await anext(events)
        assert not closed
        await events.aclose()

    asyncio.run(leave())
    assert closed == [True]


def within(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_stream_whose_client_leaves_before_it_begins_gives_up_its_place(
    checkpoint: Path, tmp_path: Path
) -> None:
    config = ServeConfig(unreleased=True, store=f"sqlite:///{tmp_path}/store.db")
    server = build(config, [Target("m", str(checkpoint))], home=tmp_path, key="k")
    (model,) = server.hub.models()
    headers, go = {"x-api-key": "k", "anthropic-version": "2023-06-01"}, threading.Event()

    def hold() -> None:
        go.wait()

    with running(create_app(server)) as url:
        model.worker._post(hold)  # nothing begins until then
        try:
            with ExitStack() as clients:
                for path, body in STREAMS.items():
                    client = clients.enter_context(closing(HTTPConnection(url.removeprefix("http://"))))
                    client.request("POST", path, json.dumps(body), headers)
                within(lambda: len(model.worker.active) == REPLIES)
            within(lambda: not model.worker.active and server.live == 0)
            assert b'publius_errors_total{type="api_error"}' not in server.metrics.text()  # nothing failed
        finally:
            go.set()
