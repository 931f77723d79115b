"""The assistant on scripted completions: messages, events and tool calls are exactly what was written."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from publius.core.messages import (
    Conversation,
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
from publius.inference.assistant import Assistant, Event, Reply, extend, run_tools, run_tools_batch
from publius.inference.sampling import Sampling
from publius.testing import ScriptedEngine, byte_tokenizer, fake_engine
from publius.tokenizer.renderer import Renderer
from tests.inference.guided import stream_of

TOKENIZER = byte_tokenizer()
RENDERER = Renderer(TOKENIZER)
ASK = Conversation(messages=(user("Hi"),))
SUM = '{"name":"add","input":{"a":2,"b":3}}'


def ids(*parts: str) -> list[int]:
    """Ids of text, with special tokens where a part is the name of one."""
    out: list[int] = []
    for part in parts:
        out += [TOKENIZER.special[part]] if part in TOKENIZER.special else TOKENIZER.encode(part)
    return out


def scripted(*script: str | list[int], **sampling: Any) -> Assistant:
    return Assistant(ScriptedEngine(script), RENDERER, Sampling(**{"max_tokens": 200, **sampling}))


def streamed(helper: Assistant, **kw: Any) -> tuple[list[Event], Reply]:
    return stream_of(helper, ASK, **kw)


def joined(events: list[Event]) -> list[Event]:
    """Neighbouring pieces of the same kind as one (tool calls stay apart)."""
    out: list[Event] = []
    for event in events:
        if out and out[-1].kind == event.kind != "tool_use":
            out[-1] = Event(event.kind, out[-1].text + event.text)
        else:
            out.append(event)
    return out


THOUGHT = ids("<|think|>", "hm, naïve", "<|/think|>", "It is 5 €.", "<|end|>")
CALL = ids("Let me see.", "<|tool_use|>", SUM, "<|/tool_use|>", "<|end|>")


def test_reply() -> None:
    reply = scripted(THOUGHT).reply(ASK)
    assert reply.message == assistant([ThinkingBlock(thinking="hm, naïve"), TextBlock(text="It is 5 €.")])
    assert (reply.stop_reason, reply.tokens, reply.problems) == ("end_turn", len(THOUGHT), ())
    reply = scripted(CALL).reply(ASK)
    call = reply.message.content[1]
    assert isinstance(call, ToolUseBlock)
    assert (call.name, call.input, reply.stop_reason) == ("add", {"a": 2, "b": 3}, "tool_use")
    assert scripted(ids("too lo")).reply(ASK).stop_reason == "max_tokens"


def test_prompts_are_the_renderers() -> None:
    helper = scripted("yes", "well", "plain")
    assert helper.reply(ASK, prefill="Sure").message == assistant("yes")
    thought = helper.reply(ASK, thinking=True).message
    assert thought.content == (ThinkingBlock(thinking="well"),)
    assert helper.reply(ASK, thinking=False).message == assistant("plain")
    engine = helper.engine
    assert isinstance(engine, ScriptedEngine)
    assert engine.prompts == [
        [RENDERER.prompt(ASK, prefill="Sure")],
        [RENDERER.prompt(ASK, thinking=True)],
        [RENDERER.prompt(ASK, thinking=False)],
    ]


def test_replies_are_one_engine_call() -> None:
    helper = scripted("a", "b", "c")
    replies = helper.replies([ASK] * 3, sampling=Sampling(max_tokens=5))
    assert [text_of(r.message) for r in replies] == ["a", "b", "c"]
    assert isinstance(helper.engine, ScriptedEngine)
    assert [len(call) for call in helper.engine.prompts] == [3]


def test_stop_sequences_are_cut_off() -> None:
    reply = scripted("one STOP two", stop=("STOP",)).reply(ASK)
    assert (text_of(reply.message), reply.stop_reason, reply.stop_sequence) == (
        "one ",
        "stop_sequence",
        "STOP",
    )
    assert scripted("STOP", stop=("STOP",)).reply(ASK).message.content == ()
    thinking = scripted(ids("<|think|>", "so STOP"), stop=("STOP",)).reply(ASK).message
    assert thinking.content == (ThinkingBlock(thinking="so "),)


def test_stream_pieces() -> None:
    events, reply = streamed(scripted(THOUGHT))
    assert joined(events) == [Event("thinking", "hm, naïve"), Event("text", "It is 5 €.")]
    assert len(events) == len("hm, naïve") + len("It is 5 €.")  # a byte a token: whole characters only
    assert reply == scripted(THOUGHT).reply(ASK)
    events, reply = streamed(scripted(CALL))
    assert joined(events) == [Event("text", "Let me see."), Event("tool_use", SUM)]
    assert reply.stop_reason == "tool_use"
    events, _ = streamed(scripted(ids("hm", "<|/think|>", "yes", "<|end|>")), thinking=True)
    assert joined(events) == [Event("thinking", "hm"), Event("text", "yes")]


def test_stream_holds_back_what_may_be_a_stop() -> None:
    events, reply = streamed(scripted("a ST b STOP c", stop=("STOP", "!")))
    assert Event("text", "ST ") in events  # held while it could still become STOP
    assert joined(events) == [Event("text", "a ST b ")]
    assert text_of(reply.message) == "a ST b "
    events, _ = streamed(scripted("ends in ST", stop=("STOP",)))
    assert joined(events) == [Event("text", "ends in ST")]


def test_malformed_calls_stream_as_the_text_they_parse_to() -> None:
    for script in (
        ids("x", "<|tool_use|>", "{no json", "<|/tool_use|>", "<|end|>"),
        ids("x", "<|tool_use|>", '{"name":"cut'),
        ids("x", "<|/think|>", "y", "<|end|>"),
        ids("x")[:1] + TOKENIZER.encode("é")[:1] + ids("<|end|>"),
    ):
        events, reply = streamed(scripted(script))
        assert {event.kind for event in events} == {"text"}
        assert "".join(event.text for event in events) == text_of(reply.message)


special = sorted(TOKENIZER.special.values())
noise = st.lists(st.one_of(st.sampled_from(special), st.integers(13, 268)), min_size=1, max_size=40)


@settings(max_examples=150)
@given(script=noise)
def test_streamed_text_is_the_replys_text_whatever_the_model_writes(script: list[int]) -> None:
    events, reply = streamed(scripted(script))
    written = [b.thinking for b in reply.message.content if isinstance(b, ThinkingBlock)]
    assert "".join(e.text for e in events if e.kind == "text") == text_of(reply.message)
    assert "".join(e.text for e in events if e.kind == "thinking") == "".join(written)
    calls = sum(isinstance(b, ToolUseBlock) for b in reply.message.content)
    assert sum(e.kind == "tool_use" for e in events) == calls


def test_a_real_engine_streams_what_it_replies() -> None:
    helper = Assistant(fake_engine(), RENDERER, Sampling(max_tokens=40, seed=3))
    events, reply = streamed(helper)
    assert reply == helper.reply(ASK)
    assert "".join(e.text for e in events if e.kind == "text") == text_of(reply.message)


def test_extend_joins_a_reply_to_its_prefill() -> None:
    assert extend(ASK, assistant("yes")).messages == (user("Hi"), assistant("yes"))
    begun = ASK.then(assistant("The ans"))
    assert extend(begun, assistant("wer")).messages == (user("Hi"), assistant("The answer"))
    assert extend(begun, Message(role="assistant", content=())).messages == begun.messages
    call = ToolUseBlock(id="t", name="n", input={})
    assert extend(begun, assistant([call])).messages[-1].content == (TextBlock(text="The ans"), call)


def add(given: dict[str, Any]) -> str:
    return str(given["a"] + given["b"])


def called(name: str, given: str) -> list[int]:
    call = f'{{"name":"{name}","input":{given}}}'
    return ids("<|tool_use|>", call, "<|/tool_use|>", "<|end|>")


def results(conversation: Conversation) -> list[ToolResultBlock]:
    return [b for m in conversation.messages for b in m.content if isinstance(b, ToolResultBlock)]


def test_run_tools() -> None:
    helper = scripted(CALL, "It is 5.")
    done = run_tools(helper, ASK, {"add": add})
    check_roles(done)
    assert [(r.content, r.is_error) for r in results(done)] == [("5", False)]
    assert text_of(done.messages[-1]) == "It is 5."
    assert isinstance(helper.engine, ScriptedEngine)
    shown = TOKENIZER.decode(helper.engine.prompts[1][0])
    assert "<|tool_result|>5<|/tool_result|>" in shown


def test_run_tools_batch_goes_on_only_where_tools_were_called() -> None:
    helper = scripted("done", CALL, called("nope", "{}"), "5", called("add", '{"a":1}'), "sorry")
    done = run_tools_batch(helper, [ASK] * 3, {"add": add})
    assert isinstance(helper.engine, ScriptedEngine)
    assert [len(call) for call in helper.engine.prompts] == [3, 2, 1]
    assert [text_of(c.messages[-1]) for c in done] == ["done", "5", "sorry"]
    unknown, raised = results(done[2])
    assert unknown.is_error
    assert unknown.content == "unknown tool 'nope'; tools: add"
    assert raised.is_error
    assert raised.content == "KeyError: 'b'"
    for conversation in done:
        check_roles(conversation)


@pytest.mark.parametrize("turns", [1, 2])
def test_max_turns_leaves_the_last_call_unanswered(turns: int) -> None:
    done = run_tools(scripted(CALL, CALL, CALL), ASK, {"add": add}, max_turns=turns)
    assert len([m for m in done.messages if m.role == "assistant"]) == turns
    assert isinstance(done.messages[-1].content[-1], ToolUseBlock)
