"""InvokeModel's envelope around Messages: its version, its headers, its chunks."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from publius.core.messages import Conversation, TextBlock, user
from publius.serve.bedrock.eventstream import decode
from publius.serve.bedrock.invoke import Clock, chunks, token_headers, unwrapped
from publius.serve.errors import ApiError
from publius.serve.exchange import Ask, Began, BlockBegan, BlockEnded, Ended, Event, Piece, Usage

USAGE = Usage(input=5, cache_write=1, cache_read=2, output=7)
ASK = Ask("publius-haiku", Conversation(messages=(user("hello"),)), 10)


@pytest.mark.parametrize(
    ("version", "means"), [("bedrock-2023-05-31", "2023-06-01"), ("2026-10-21", "2026-10-21")]
)
def test_the_envelope_is_taken_off(version: str, means: str) -> None:
    body = {
        "anthropic_version": version,
        "anthropic_beta": ["x"],
        "stream": True,
        "model": "no",
        "max_tokens": 1,
    }
    assert unwrapped(body, "publius-haiku") == ({"model": "publius-haiku", "max_tokens": 1}, means)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "anthropic_version: Field required"),
        ({"anthropic_version": "2023-06-01"}, "anthropic_version: '2023-06-01' is not known"),
        ({"anthropic_version": ["bedrock-2023-05-31"]}, "anthropic_version: "),
        ({"anthropic_version": "2026-10-21", "anthropic_beta": "x"}, "anthropic_beta: "),
    ],
)
def test_a_version_is_needed(body: dict[str, Any], words: str) -> None:
    with pytest.raises(ApiError, match=words) as refused:
        unwrapped(body, "m")
    assert refused.value.type == "invalid_request_error"


def test_token_counts_are_headers() -> None:
    headers = token_headers(USAGE, Clock())
    assert int(headers.pop("x-amzn-bedrock-invocation-latency")) >= 0
    assert headers == {
        "x-amzn-bedrock-input-token-count": "5",
        "x-amzn-bedrock-output-token-count": "7",
        "x-amzn-bedrock-cache-read-input-token-count": "2",
        "x-amzn-bedrock-cache-write-input-token-count": "1",
    }


def test_chunks_are_messages_events_and_the_last_has_the_metrics() -> None:
    events: list[Event] = [
        Began(USAGE._replace(output=0)),
        BlockBegan(0, TextBlock(text="")),
        Piece(0, "hé"),
        BlockEnded(0, TextBlock(text="hé")),
        Ended("end_turn", USAGE),
    ]

    async def exchange() -> AsyncGenerator[Event, None]:
        for event in events:
            yield event

    async def read() -> bytes:
        return b"".join([frame async for frame in chunks(exchange(), ASK, "msg_1", Clock())])

    frames, rest = decode(asyncio.run(read()))
    assert not rest and {frame.headers[":event-type"] for frame in frames} == {"chunk"}
    bodies = [json.loads(base64.b64decode(json.loads(frame.payload)["bytes"])) for frame in frames]
    assert [body["type"] for body in bodies] == [
        "message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta",
        "message_stop",
    ]  # fmt: skip
    assert bodies[0]["message"]["model"] == "publius-haiku"
    assert bodies[2]["delta"] == {"type": "text_delta", "text": "hé"}
    metrics = bodies[-1]["amazon-bedrock-invocationMetrics"]
    assert (metrics["inputTokenCount"], metrics["outputTokenCount"]) == (5, 7)
    assert 0 <= metrics["firstByteLatency"] <= metrics["invocationLatency"]
