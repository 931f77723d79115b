"""OpenAI's messages and tools in our shape, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from publius.core.messages import ToolResultBlock, ToolUseBlock, text_of
from publius.inference.tool_choice import NamedTool
from publius.serve.errors import ApiError
from publius.serve.openai.conversation import conversation, tool_choice, tool_specs


def call(id: str, arguments: Any = '{"a": 1}', name: str = "add") -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def said(role: str, content: Any = "x", **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def test_system_texts_at_the_beginning_are_the_system_and_later_ones_stay() -> None:
    talk = conversation(
        [
            said("system", "a"),
            said("developer", [{"type": "text", "text": "b"}]),
            said("user"),
            said("system", "c"),
        ],
        (),
    )
    assert talk.system == "a\n\nb"
    assert [(m.role, text_of(m)) for m in talk.messages] == [("user", "x"), ("system", "c")]


def test_neighbours_of_one_side_are_one_turn() -> None:
    talk = conversation(
        [said("user", "a"), said("user", "b"), said("assistant", "c"), said("assistant", "d")], ()
    )
    assert [(m.role, text_of(m)) for m in talk.messages] == [("user", "ab"), ("assistant", "cd")]


def test_calls_and_their_results() -> None:
    talk = conversation(
        [
            said("user"),
            said("assistant", None, tool_calls=[call("1"), call("2", "")], reasoning_content="hm"),
            said("tool", "one", tool_call_id="1"),
            said("tool", [{"type": "text", "text": "two"}], tool_call_id="2"),
            said("user", "and?"),
        ],
        (),
    )
    asked, answered = talk.messages[1].content, talk.messages[2].content
    assert asked == (
        ToolUseBlock(id="1", name="add", input={"a": 1}),
        ToolUseBlock(id="2", name="add", input={}),
    )
    assert answered[:2] == (
        ToolResultBlock(tool_use_id="1", content="one"),
        ToolResultBlock(tool_use_id="2", content="two"),
    )
    assert text_of(talk.messages[2]) == "and?"


@pytest.mark.parametrize(
    ("messages", "where"),
    [
        ([], "messages: "),
        (["x"], r"messages\[0\]: "),
        ([said("robot")], r"messages\[0\].role: "),
        ([said("user", None)], r"messages\[0\].content: "),
        ([said("user", [{"type": {}}])], r"messages\[0\].content\[0\]: "),
        ([said("user", [{"type": "text"}])], r"messages\[0\].content\[0\]: "),
        ([said("user", [{"type": "input_audio"}])], "does not understand audio"),
        ([said("tool", tool_call_id="1")], r"messages\[0\].tool_call_id: "),
        (
            [said("assistant", None, tool_calls=[call("1")]), said("user")],
            r"messages\[1\]: the tool call '1'",
        ),
        ([said("assistant", None, tool_calls=[call("1")])], "has no result"),
        ([said("assistant", None, tool_calls=[call("1"), call("1")])], "same id"),
        ([said("assistant", None, tool_calls=[call("1", "{")])], "function.arguments: must be JSON"),
        (
            [said("assistant", None, tool_calls=[call("1", "[1]")])],
            "function.arguments: must be a JSON object",
        ),
        ([said("assistant", None, tool_calls=[call("1", '{"a": NaN}')])], "function.arguments: must be JSON"),
        ([said("assistant", None, tool_calls=[call("1", name="a b")])], "function.name: "),
        ([said("assistant", None, tool_calls=3)], "tool_calls: "),
        ([said("assistant", None, function_call={"name": "x"})], "give tool_calls"),
    ],
)
def test_what_cannot_be_said_is_refused(messages: list[Any], where: str) -> None:
    with pytest.raises(ApiError, match=where) as told:
        conversation(messages, ())
    assert told.value.status == 400


def test_tools_and_choices() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    add = {"name": "add", "description": "d", "parameters": schema}
    tools = tool_specs([{"type": "function", "function": add}, {"function": {"name": "now"}}])
    assert [(tool.name, tool.description) for tool in tools] == [("add", "d"), ("now", "")]
    assert tools[0].input_schema == schema and tools[1].input_schema["type"] == "object"
    assert tool_specs(None) == tool_specs([]) == ()
    for given, wanted in ((None, "auto"), ("auto", "auto"), ("none", "none"), ("required", "any")):
        assert tool_choice(given, tools) == wanted
    assert tool_choice({"type": "function", "function": {"name": "now"}}, tools) == NamedTool("now")
    for wrong in ("sometimes", 3, {"type": "function"}, {"type": "allowed_tools"}):
        with pytest.raises(ApiError, match="tool_choice: must be"):
            tool_choice(wrong, tools)
    with pytest.raises(ApiError, match="'absent' must be called"):
        tool_choice({"type": "function", "function": {"name": "absent"}}, tools)
    with pytest.raises(ApiError, match="a tool must be called"):
        tool_choice("required", ())


@pytest.mark.parametrize(
    "tool",
    [
        {"type": "web_search"},
        {"type": "function"},
        {"type": "function", "function": {"name": "a b"}},
        {"type": "function", "function": {"name": "a", "description": 3}},
        {"type": "function", "function": {"name": "a", "parameters": 3}},
        3,
    ],
)
def test_what_is_no_tool_is_refused(tool: Any) -> None:
    with pytest.raises(ApiError, match=r"tools\[1\]"):
        tool_specs([{"type": "function", "function": {"name": "fine"}}, tool])


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(ApiError, match=r"tools\[1\].function.name: 'a' is another tool's"):
        tool_specs([{"type": "function", "function": {"name": "a"}}] * 2)
