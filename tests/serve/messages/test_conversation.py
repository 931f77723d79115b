"""What of a conversation is refused, and which message is named."""

from __future__ import annotations

from typing import Any

import pytest

from publius.serve.errors import ApiError
from publius.serve.messages.schema import parse_messages

HI = {"role": "user", "content": "hi"}


def called(*ids: str) -> dict[str, Any]:
    return {
        "role": "assistant",
        "content": [{"type": "tool_use", "id": id, "name": "sum", "input": {}} for id in ids],
    }


def answered(*ids: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "tool_result", "tool_use_id": id} for id in ids]}


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        ([HI, HI, called("a"), HI], "messages.2: `tool_use` ids"),
        ([HI, HI, answered("a")], "messages.2.content: unexpected `tool_use_id`"),
        ([HI, HI, called("a"), answered("a"), answered("a")], "messages.4.content: each tool_use must"),
        ([HI, HI, called("a"), called("a"), answered("a")], "messages.3.content: `tool_use` ids must"),
    ],
)
def test_an_error_names_the_message_as_the_client_numbers_it(messages: list[Any], told: str) -> None:
    """Neighbours of one role are one turn for the model; the client counts what it sent."""
    with pytest.raises(ApiError) as caught:
        parse_messages({"model": "m", "max_tokens": 4, "messages": messages})
    assert caught.value.message.startswith(told)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"stream": "true"}, "stream: "),
        ({"stream": 1}, "stream: "),
        ({"thinking": {"type": "adaptive", "display": "hidden"}}, "thinking.display: "),
        ({"tools": [{"name": "two words", "input_schema": {"type": "object"}}]}, "tools.0.name: "),
    ],
)
def test_what_the_vendor_refuses_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_messages({"model": "m", "max_tokens": 4, "messages": [HI], **changes})
    assert caught.value.type == "invalid_request_error" and caught.value.message.startswith(told)
