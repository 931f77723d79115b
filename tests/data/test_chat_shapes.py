"""Rows as public data really has them: calls of ShareGPT, heads beside any shape, answers that are none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from publius.core.errors import UserError
from publius.core.messages import ToolResultBlock, ToolUseBlock, text_of
from publius.data.chat_shapes import conversation_of

TOOL = {"name": "f", "description": "d", "parameters": {"type": "object"}}


@pytest.mark.parametrize("tools", [[TOOL], json.dumps([TOOL])])
@pytest.mark.parametrize("several", [False, True])
def test_calls_of_sharegpt(tools: Any, several: bool) -> None:
    call = {"name": "f", "arguments": {"a": 1}}
    turns = [
        ("human", "Rain?"), ("function_call", json.dumps([call] if several else call)),
        ("observation", "none"), ("gpt", "No."),
    ]  # fmt: skip
    row = {"tools": tools, "conversations": [{"from": f, "value": v} for f, v in turns]}
    chat = conversation_of(row, "x:1")
    assert [tool.name for tool in chat.tools] == ["f"]
    (called,), (result,) = chat.messages[1].content, chat.messages[2].content
    assert isinstance(called, ToolUseBlock) and (called.name, called.input) == ("f", {"a": 1})
    assert isinstance(result, ToolResultBlock) and (result.tool_use_id, result.content) == (called.id, "none")


def test_calls_of_2023_and_calls_without_arguments() -> None:
    rows = [
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": ""}},
        {"role": "function", "name": "f", "content": "none"},
        {"role": "assistant", "content": "No."},
    ]
    (called,) = conversation_of({"messages": rows}, "x:1").messages[1].content
    assert isinstance(called, ToolUseBlock) and called.input == {}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "response": "a"},
        {"question": "q", "answer": "a"},
        {"instruction": "q", "output": "a"},
        {"text": "\n\nHuman: q\n\nAssistant: a"},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    ],
)
def test_the_head_of_a_row_is_the_conversations(row: dict[str, Any]) -> None:
    chat = conversation_of({**row, "system": "Be brief.", "tools": [TOOL]}, "x:1")
    assert chat.system == "Be brief." and [tool.name for tool in chat.tools] == ["f"]


@pytest.mark.parametrize("answer", [["Paris"], None, {"value": "Paris"}])
def test_an_answer_that_is_no_text_is_refused(answer: Any) -> None:
    with pytest.raises(UserError, match="text or a number is wanted"):
        conversation_of({"question": "Where?", "answer": answer}, "x:1")


@pytest.mark.parametrize("answer", [-1, 2, "A"])
def test_an_answer_that_is_no_choice_is_refused(answer: Any) -> None:
    row = {"question": "Where?", "choices": ["Rome", "Paris"]}
    with pytest.raises(UserError, match="is no index of 2 choices"):
        conversation_of({**row, "answer": answer}, "x:1")
    assert text_of(conversation_of({**row, "answer": 1}, "x:1").messages[1]) == "B. Paris"


def test_a_meta_that_is_no_object_is_a_malformed_row() -> None:
    with pytest.raises(UserError, match=r"malformed[\s\S]*x:1"):
        conversation_of({"prompt": "q", "response": "a", "meta": "there"}, "x:1")
