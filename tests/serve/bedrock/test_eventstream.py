"""Frames come back as they went in, here and in botocore's own parser, and damage is noticed."""

from __future__ import annotations

import base64
import json

import pytest
from botocore.eventstream import ChecksumMismatch, EventStreamBuffer
from hypothesis import given, settings
from hypothesis import strategies as st

from publius.serve.bedrock.eventstream import Frame, chunk, decode, encode, event, exception

NAMES = st.text(min_size=1, max_size=40).filter(lambda name: len(name.encode()) <= 255)
HEADERS = st.dictionaries(NAMES, st.text(max_size=200), max_size=6)
FRAMES = st.lists(st.builds(Frame, HEADERS, st.binary(max_size=500)), max_size=5)


@settings(max_examples=200)
@given(frames=FRAMES, tail=st.integers(0, 11))
def test_frames_come_back(frames: list[Frame], tail: int) -> None:
    data = b"".join(encode(frame.headers, frame.payload) for frame in frames)
    unfinished = encode({"a": "b"}, b"c")[:tail]
    assert decode(data + unfinished) == (frames, unfinished)


@settings(max_examples=200)
@given(frames=FRAMES, cuts=st.lists(st.integers(1, 60), min_size=1, max_size=20))
def test_botocore_reads_them_in_any_pieces(frames: list[Frame], cuts: list[int]) -> None:
    data = b"".join(encode(frame.headers, frame.payload) for frame in frames)
    buffer, read = EventStreamBuffer(), []
    while data:
        cut = cuts[len(data) % len(cuts)]
        buffer.add_data(data[:cut])
        data = data[cut:]
        read += [Frame(message.headers, message.payload) for message in buffer]
    assert read == frames


@settings(max_examples=200)
@given(headers=HEADERS, payload=st.binary(max_size=100), data=st.data())
def test_a_changed_byte_is_noticed(headers: dict[str, str], payload: bytes, data: st.DataObject) -> None:
    frame = bytearray(encode(headers, payload))
    frame[data.draw(st.integers(0, len(frame) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ValueError, match="checksum"):
        decode(bytes(frame))
    buffer = EventStreamBuffer()
    buffer.add_data(bytes(frame))
    with pytest.raises(ChecksumMismatch):
        list(buffer)


def test_headers_that_cannot_be_framed() -> None:
    for headers in ({"": "x"}, {"n" * 256: "x"}, {"n": "x" * 32_768}):
        with pytest.raises(ValueError, match="cannot be framed"):
            encode(headers, b"")


def test_a_chunk_holds_an_event_and_its_padding_varies() -> None:
    body = {"type": "ping", "text": "näh"}
    frames = [decode(chunk(body))[0][0] for _ in range(64)]
    for frame in frames:
        assert frame.headers == {
            ":event-type": "chunk",
            ":content-type": "application/json",
            ":message-type": "event",
        }
        assert json.loads(base64.b64decode(json.loads(frame.payload)["bytes"])) == body
    assert len({len(json.loads(frame.payload)["p"]) for frame in frames}) > 10


def test_events_and_exceptions_have_their_names() -> None:
    (stop,), _ = decode(event("messageStop", {"stopReason": "end_turn"}))
    assert stop.headers[":event-type"] == "messageStop"
    assert json.loads(stop.payload).items() >= {"stopReason": "end_turn"}.items()
    (failed,), _ = decode(exception("throttlingException", "later"))
    assert failed.headers[":message-type"] == "exception"
    assert failed.headers[":exception-type"] == "throttlingException"
    assert json.loads(failed.payload) == {"message": "later"}
