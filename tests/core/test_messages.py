"""Messages: shapes, and the order of roles."""

import pytest
from pydantic import ValidationError

from publius.core.errors import UserError
from publius.core.messages import (
    Conversation,
    ImageBlock,
    Message,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    assistant,
    check_roles,
    text_of,
    user,
)

CALL = ToolUseBlock(id="t1", name="add", input={"a": 1})
RESULT = ToolResultBlock(tool_use_id="t1", content="2")


def test_text_is_one_block():
    assert user("hi") == Message(role="user", content=(TextBlock(text="hi"),))
    assert assistant([{"type": "thinking", "thinking": "hm"}, TextBlock(text="yes")]).content == (
        ThinkingBlock(thinking="hm"),
        TextBlock(text="yes"),
    )


def test_visible_text_only():
    blocks = [
        ThinkingBlock(thinking="no"),
        TextBlock(text="a"),
        CALL,
        TextBlock(text="b"),
        ImageBlock(source={}),
    ]
    assert text_of(assistant(blocks)) == "ab"
    assert text_of(blocks) == "ab"


def test_json_round_trip_and_strictness():
    conversation = Conversation(
        system="s", messages=(user("q"), assistant([CALL]), user([RESULT])), meta={"k": [1]}
    )
    assert Conversation.model_validate_json(conversation.model_dump_json()) == conversation
    with pytest.raises(ValidationError):
        Message.model_validate({"role": "tool", "content": "x"})
    with pytest.raises(ValidationError):
        Message.model_validate({"role": "user", "content": [{"type": "tekst", "text": "x"}]})
    with pytest.raises(ValidationError):
        Message.model_validate({"role": "user", "content": "x", "name": "y"})


def test_then_appends_to_a_copy():
    first = Conversation(messages=(user("q"),))
    second = first.then(assistant("a"), user("r"))
    assert [m.role for m in second.messages] == ["user", "assistant", "user"]
    assert len(first.messages) == 1


@pytest.mark.parametrize(
    "messages",
    [
        (user("a"),),
        (user("a"), assistant("b"), user("c")),
        (user("a"), assistant([CALL]), user([RESULT]), assistant("done")),
        (user("a"), assistant([CALL])),
    ],
)
def test_good_orders(messages):
    check_roles(Conversation(messages=messages))


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ((), "no messages"),
        ((assistant("b"),), "message 0 has role 'assistant', expected 'user'"),
        ((user("a"), user("b")), "message 1 has role 'user', expected 'assistant'"),
        ((user("a"), assistant("b"), assistant("c")), "message 2 has role 'assistant'"),
        ((user("a"), assistant([CALL]), user("no result")), r"message 2: tool results \[\] do not answer"),
        ((user("a"), assistant("b"), user([RESULT])), r"message 2: tool results \['t1'\]"),
    ],
)
def test_bad_orders(messages, message):
    with pytest.raises(UserError, match=message) as caught:
        check_roles(Conversation(messages=messages), "chats.jsonl:7")
    assert caught.value.where == "chats.jsonl:7"
