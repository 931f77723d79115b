"""Tools a reply may or must call: the call is whole and valid, whatever the model would have written."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import jsonschema
import pytest

from publius.core.errors import UserError
from publius.core.messages import Conversation, ThinkingBlock, ToolSpec, ToolUseBlock, assistant, user
from publius.inference.assistant import Assistant, Reply
from publius.inference.sampling import Sampling
from publius.inference.tool_choice import NamedTool, ToolChoice
from tests.inference.guided import (
    END,
    ENGINE,
    RENDERER,
    THINK,
    THOUGHT,
    TOKENIZER,
    USE,
    WORD,
    stream_of,
)

POINT = {
    "$defs": {"n": {"type": "integer", "minimum": 0, "maximum": 99}},
    "properties": {"x": {"$ref": "#/$defs/n"}, "y": {"$ref": "#/$defs/n"}},
    "required": ["x"],
    "additionalProperties": False,
}
NAME = {"type": "object", "properties": {"who": {"enum": ["é", "b"]}}, "additionalProperties": False}
TOOLS = (
    ToolSpec(name="point", input_schema=POINT),
    ToolSpec(name="pointer", input_schema=NAME),
    ToolSpec(name='a "b"\\ é', input_schema=NAME),
)
SCHEMAS = {tool.name: tool.input_schema for tool in TOOLS}
ASK = Conversation(messages=(user("Hi"),), tools=TOOLS)


def helper(**sampling: Any) -> Assistant:
    return Assistant(ENGINE, RENDERER, Sampling(**{"max_tokens": 150, **sampling}))


def called(reply: Reply) -> list[str]:
    """Names of the tools that were called, each with an input that its schema takes."""
    assert reply.problems == ()
    calls = [block for block in reply.message.content if isinstance(block, ToolUseBlock)]
    for call in calls:
        jsonschema.validate(call.input, SCHEMAS[call.name])
    return [call.name for call in calls]


@pytest.mark.parametrize("choice", ["any", *map(NamedTool, SCHEMAS)])
@pytest.mark.parametrize("thinking", [None, True, False])
def test_a_forced_call_is_whole_and_valid(choice: ToolChoice, thinking: bool | None) -> None:
    asks = [ASK.model_copy(update={"messages": (user("Hi" * (i + 1)),)}) for i in range(6)]
    bias = {THINK: 14.0, THOUGHT: 12.0}
    options: dict[str, Any] = {"thinking": thinking, "tool_choice": choice, "thinking_budget": 20}
    for heat in (0.0, 1.0):
        replies = helper(temperature=heat, seed=4, logit_bias=bias).replies(asks, **options)
        assert all(reply.stop_reason == "tool_use" for reply in replies)
        names = [name for reply in replies for name in called(reply)]
        assert len(names) == len(asks)
        assert set(names) <= ({choice.name} if isinstance(choice, NamedTool) else set(SCHEMAS))
        before = [block for reply in replies for block in reply.message.content[:-1]]
        assert all(isinstance(block, ThinkingBlock) for block in before)
        assert len(before) == 6 if thinking else thinking is None or not before


def test_a_forced_call_streams_as_it_is_replied() -> None:
    options: dict[str, Any] = {"tool_choice": "any", "thinking": True, "thinking_budget": 5}
    for seed in range(4):
        events, reply = stream_of(helper(seed=seed), ASK, **options)
        assert reply == helper(seed=seed).reply(ASK, **options)
        call = reply.message.content[-1]
        assert isinstance(call, ToolUseBlock)
        assert events[-1].kind == "tool_use"
        assert json.loads(events[-1].text) == {"name": call.name, "input": call.input}
        assert "".join(e.text for e in events[:-1]) == "".join(
            block.thinking for block in reply.message.content if isinstance(block, ThinkingBlock)
        )


def test_rows_of_one_call_have_tools_and_numbers_of_their_own() -> None:
    other = Conversation(messages=ASK.messages, tools=(ToolSpec(name="other"),))
    asks = [ASK, ASK, ASK, ASK, other.model_copy(update={"tools": TOOLS[1:2]})]
    options: dict[str, Any] = {"thinking": False, "tool_choice": "any"}
    replies = helper(seed=2, temperature=1.5).replies(asks, **options)
    assert called(replies[4]) == ["pointer"]
    assert len({str(called(r)) + str(r.message.content[-1]) for r in replies[:4]}) > 1
    assert replies[0] == helper(seed=2, temperature=1.5).reply(ASK, **options)


def test_a_call_after_words_that_were_given() -> None:
    begun = ASK.then(assistant("I will look."))
    reply = helper(seed=1, logit_bias={THINK: 60.0}).reply(begun, tool_choice="any")
    assert len(called(reply)) == len(reply.message.content) == 1


def test_auto_leaves_the_text_alone_and_keeps_the_calls() -> None:
    for seed in range(4):
        silent = helper(seed=seed, logit_bias={USE: -math.inf})
        assert silent.reply(ASK, tool_choice="auto") == silent.reply(ASK)
    never = dict.fromkeys(TOKENIZER.special_ids - {USE, END}, -99.0)
    often = helper(seed=6, logit_bias={USE: 7.0, END: 5.0, **never})
    replies = often.replies([ASK] * 16, tool_choice="auto", thinking=False)
    whole = [reply for reply in replies if reply.stop_reason == "tool_use"]
    assert sum(len(called(reply)) for reply in whole) > 5
    assert any(block.type == "text" for reply in whole for block in reply.message.content)


def test_none_calls_nothing() -> None:
    often = helper(seed=6, logit_bias={USE: 60.0})
    assert all(reply.problems for reply in often.replies([ASK] * 4))
    for choice, ask in (("none", ASK), ("auto", Conversation(messages=ASK.messages))):
        for reply in often.replies([ask] * 4, tool_choice=choice):  # pyright: ignore[reportArgumentType]
            assert not any("call" in problem for problem in reply.problems)
    kept = helper(seed=6, grammar=WORD).reply(ASK, tool_choice="none")
    assert re.fullmatch("[a-c]{2,4}", kept.message.content[0].text)  # pyright: ignore[reportAttributeAccessIssue]


def test_a_tool_whose_input_cannot_be_kept_is_named() -> None:
    for schema in ({"type": "array"}, {"multipleOf": 99991}):
        ask = ASK.model_copy(update={"tools": (TOOLS[0], ToolSpec(name="t", input_schema=schema))})
        with pytest.raises(UserError) as error:
            helper().stream(ask, tool_choice="auto")
        assert error.value.where.startswith("tools[1] (t): input_schema")
        with pytest.raises(UserError) as error:
            helper().stream(ask, tool_choice=NamedTool("t"))
        assert error.value.where.startswith("tools[1] (t): input_schema")


@pytest.mark.parametrize(
    ("made", "where"),
    [
        (lambda: helper().reply(ASK, tool_choice=NamedTool("no")), "tool_choice"),
        (lambda: helper().reply(Conversation(messages=ASK.messages), tool_choice="any"), "tool_choice"),
        (lambda: helper(grammar=WORD).reply(ASK, tool_choice="auto"), "Sampling.grammar"),
    ],
)
def test_what_cannot_be_chosen_is_refused(made: Any, where: str) -> None:
    with pytest.raises(UserError) as error:
        made()
    assert where in error.value.where
