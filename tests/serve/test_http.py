"""What every endpoint does with HTTP: streams that end whichever way, ids, compact JSON."""

import asyncio
import json
import math
from collections.abc import AsyncGenerator

import pytest
from starlette.types import Message

from publius.serve.http import EventStream, compact, new_id

SCOPE = {"type": "http", "method": "GET", "path": "/"}


class Wire:
    """What was sent; the client leaves once so many messages were."""

    def __init__(self, leaves_after: float = math.inf) -> None:
        self.sent: list[Message] = []
        self._left, self._after = asyncio.Event(), leaves_after

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        if len(self.sent) >= self._after:
            self._left.set()

    async def receive(self) -> Message:
        await self._left.wait()
        return {"type": "http.disconnect"}

    @property
    def bodies(self) -> list[bytes]:
        return [message["body"] for message in self.sent if message["type"] == "http.response.body"]


class Source:
    """Frames that note when they are closed."""

    def __init__(self, *frames: bytes | None, endless: bool = False, fails: bool = False) -> None:
        self.closed = False
        self._frames, self._endless, self._fails = frames, endless, fails

    async def frames(self) -> AsyncGenerator[bytes | None, None]:
        try:
            for frame in self._frames:
                yield frame
            if self._fails:
                raise ValueError("no more frames")
            if self._endless:
                await asyncio.Event().wait()
        finally:
            self.closed = True


def test_frames_that_are_ready_together_leave_in_one_write_and_the_rest_with_the_end():
    wire, source = Wire(), Source(b"a", b"b", None, None, b"c", None, b"d")
    asyncio.run(EventStream(source.frames())(SCOPE, wire.receive, wire.send))
    assert wire.bodies == [b"ab", b"c", b"d"]
    assert [message.get("more_body") for message in wire.sent[1:]] == [True, True, False]
    start = wire.sent[0]
    assert start["status"] == 200
    assert (b"content-type", b"text/event-stream; charset=utf-8") in start["headers"]
    assert source.closed


def test_a_client_that_leaves_closes_the_source_at_once():
    wire, source = Wire(leaves_after=2), Source(b"a", None, endless=True)
    stream = EventStream(source.frames())
    asyncio.run(asyncio.wait_for(stream(SCOPE, wire.receive, wire.send), 20))
    assert wire.bodies == [b"a"]
    assert source.closed


def test_a_failing_source_is_closed_and_its_error_comes_out():
    wire, source = Wire(), Source(b"a", None, fails=True)
    with pytest.raises(ValueError, match="no more frames"):
        asyncio.run(EventStream(source.frames())(SCOPE, wire.receive, wire.send))
    assert wire.bodies == [b"a"]
    assert source.closed


def test_cancelling_the_response_closes_the_source():
    wire, source = Wire(), Source(b"a", None, endless=True)

    async def cancelled() -> None:
        sending = asyncio.ensure_future(EventStream(source.frames())(SCOPE, wire.receive, wire.send))
        while not wire.bodies:
            await asyncio.sleep(0)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending

    asyncio.run(cancelled())
    assert source.closed


def test_compact_json_is_what_the_standard_library_reads_back():
    value = {"text": 'Ünder "quotes"\n\u2028', "numbers": [1, 0.1, 1e22], "none": None, "yes": True}
    written = compact(value)
    assert json.loads(written) == value
    assert b": " not in written and b", " not in written
    assert compact({"inf": -math.inf}) == b'{"inf":null}'
    with pytest.raises(ValueError, match="surrogates"):
        compact("\ud800")


def test_ids_are_of_letters_that_nobody_mistakes_and_differ():
    ids = {new_id("req") for _ in range(1000)}
    assert len(ids) == 1000
    for id in ids:
        prefix, _, letters = id.partition("_")
        assert prefix == "req" and len(letters) == 24 and letters.isalnum() and not set(letters) & set("0OIl")


def test_a_client_that_takes_nothing_is_dropped_and_its_source_closed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("publius.serve.http._STALLED", 0.05)
    monkeypatch.setattr("publius.serve.http._LOOK", 0.01)
    wire, source = Wire(), Source(b"a", None, b"b", None, endless=True)

    async def full(message: Message) -> None:
        await wire.send(message)
        if message.get("body"):
            await asyncio.Event().wait()  # nobody empties the buffer

    async def dropped() -> None:
        async with asyncio.timeout(30):
            await EventStream(source.frames())(SCOPE, wire.receive, full)

    asyncio.run(dropped())
    assert source.closed and wire.bodies == [b"a"]


def test_a_reply_that_takes_its_time_is_no_client_that_does(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("publius.serve.http._STALLED", 0.0)
    monkeypatch.setattr("publius.serve.http._LOOK", 0.01)
    wire = Wire()

    async def slow() -> AsyncGenerator[bytes | None, None]:
        yield b"a"
        yield None
        await asyncio.sleep(0.2)
        yield b"b"

    asyncio.run(EventStream(slow())(SCOPE, wire.receive, wire.send))
    assert wire.bodies == [b"a", b"b"]
