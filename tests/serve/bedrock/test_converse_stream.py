"""The events of an exchange become a stream that botocore parses, in the order clients wait for."""

from __future__ import annotations

from typing import Any

import botocore.session
from botocore.eventstream import EventStreamBuffer
from botocore.parsers import EventStreamJSONParser

from publius.core.messages import TextBlock, ThinkingBlock, ToolUseBlock
from publius.serve.bedrock import eventstream
from publius.serve.bedrock.converse_stream import ConverseStream
from publius.serve.exchange import Began, BlockBegan, BlockEnded, Ended, Event, Idle, Piece, Refusal, Usage

OUTPUT = botocore.session.Session().get_service_model("bedrock-runtime").shape_for("ConverseStreamOutput")
USAGE = Usage(input=5, cache_write=1, cache_read=2, output=7)
CALL = ToolUseBlock(id="toolu_1", name="sum", input={"a": 1})
EVENTS: list[Event] = [
    Began(USAGE._replace(output=0)),
    BlockBegan(0, ThinkingBlock(thinking="")),
    Piece(0, "h"),
    Piece(0, ""),
    Idle(),
    Piece(0, "m"),
    BlockEnded(0, ThinkingBlock(thinking="hm", signature="v1.s")),
    BlockBegan(1, TextBlock(text="")),
    Piece(1, "so"),
    BlockEnded(1, TextBlock(text="so")),
    BlockBegan(2, CALL.model_copy(update={"input": {}})),
    Piece(2, '{"a":'),
    Piece(2, "1}"),
    BlockEnded(2, CALL),
    Ended("tool_use", USAGE),
]


def streamed(events: list[Event], **arguments: Any) -> list[dict[str, Any]]:
    """What a client of botocore reads."""
    stream = ConverseStream(lambda: 12, **arguments)
    data = b"".join(eventstream.event(name, body) for event in events for name, body in stream.feed(event))
    buffer = EventStreamBuffer()
    buffer.add_data(data)
    return [EventStreamJSONParser().parse(message.to_response_dict(), OUTPUT) for message in buffer]


def delta(index: int, **delta: Any) -> dict[str, Any]:
    return {"contentBlockDelta": {"contentBlockIndex": index, "delta": delta}}


def stop(index: int) -> dict[str, Any]:
    return {"contentBlockStop": {"contentBlockIndex": index}}


METADATA = {
    "metadata": {
        "usage": {
            "inputTokens": 5,
            "outputTokens": 7,
            "totalTokens": 15,
            "cacheReadInputTokens": 2,
            "cacheWriteInputTokens": 1,
        },
        "metrics": {"latencyMs": 12},
    }
}


def test_thinking_text_and_a_call() -> None:
    assert streamed(EVENTS) == [
        {"messageStart": {"role": "assistant"}},
        delta(0, reasoningContent={"text": "h"}),
        delta(0, reasoningContent={"text": "m"}),
        delta(0, reasoningContent={"signature": "v1.s"}),
        stop(0),
        delta(1, text="so"),
        stop(1),
        {
            "contentBlockStart": {
                "contentBlockIndex": 2,
                "start": {"toolUse": {"toolUseId": "toolu_1", "name": "sum"}},
            }
        },
        delta(2, toolUse={"input": '{"a":'}),
        delta(2, toolUse={"input": "1}"}),
        stop(2),
        {"messageStop": {"stopReason": "tool_use"}},
        METADATA,
    ]


def test_thinking_may_be_left_out() -> None:
    _, *thought = streamed(EVENTS, omit_thinking=True)[:3]
    assert thought == [delta(0, reasoningContent={"signature": "v1.s"}), stop(0)]


def test_a_refusal_without_content() -> None:
    assert streamed([EVENTS[0], Ended("refusal", USAGE, refusal=Refusal("c", "e"))]) == [
        {"messageStart": {"role": "assistant"}},
        delta(0, text=""),
        stop(0),
        {"messageStop": {"stopReason": "content_filtered"}},
        METADATA,
    ]


def test_additional_fields_are_of_the_whole_reply() -> None:
    def additional(blocks: list[Any], ended: Ended) -> dict[str, Any]:
        return {"stop_sequence": ended.stop_sequence, "blocks": len(blocks)}

    *_, stopped, _ = streamed([*EVENTS[:-1], Ended("stop_sequence", USAGE, ".")], additional=additional)
    fields = {"stop_sequence": ".", "blocks": 3}
    assert stopped == {
        "messageStop": {"stopReason": "stop_sequence", "additionalModelResponseFields": fields}
    }
