from __future__ import annotations

import pytest

from publius.core.messages import Conversation, ToolResultBlock, ToolUseBlock, assistant, user
from publius.rl.environment import ChatEnvironment, ToolEnvironment

TALK = Conversation(messages=(user("hi"),))


def call(name: str, **given) -> ToolUseBlock:
    return ToolUseBlock(id="toolu_1", name=name, input=given)


def test_a_chat_is_one_reply_and_single_use() -> None:
    environment = ChatEnvironment(TALK)
    assert environment.start() == TALK
    assert environment.step(assistant("hello")) is None
    with pytest.raises(RuntimeError, match="single-use"):
        environment.start()


def test_tools_answer_until_there_is_no_call() -> None:
    environment = ToolEnvironment(TALK, {"add": lambda x: str(x["a"] + x["b"])})
    environment.start()
    [answer] = environment.step(assistant([call("add", a=2, b=3)])) or ()
    assert answer.content == (ToolResultBlock(tool_use_id="toolu_1", content="5"),)
    [answer] = environment.step(assistant([call("add", a=2)])) or ()
    assert answer.content[0].is_error and "KeyError" in answer.content[0].content  # pyright: ignore
    [answer] = environment.step(assistant([call("fly")])) or ()
    assert "unknown tool fly" in answer.content[0].content  # pyright: ignore
    assert environment.step(assistant([call("add", a=1, b=1)])) is None  # the fourth reply is the last


def test_a_reply_without_a_call_ends_it() -> None:
    environment = ToolEnvironment(TALK, {})
    environment.start()
    assert environment.step(assistant("done")) is None
