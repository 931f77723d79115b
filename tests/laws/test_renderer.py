"""Laws of the renderer: parse undoes render; no text is special; the chat template gives the same ids."""

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from publius.core.messages import Conversation, Message, TextBlock, ToolSpec, ToolUseBlock
from publius.tokenizer import SPECIAL_TOKENS, Renderer, TokenizerConfig, train_bpe

# Plain text, and text that tries to be markup: the names of special tokens, whole and in parts.
TYPED = st.lists(st.sampled_from([*SPECIAL_TOKENS, "<|", "|>", " ", "\n", "a", "{", '"']), max_size=6).map(
    "".join
)
TEXT = st.text(st.characters(codec="utf-8"), max_size=20) | TYPED
NUMBER = st.floats(allow_nan=False, allow_infinity=False)  # JSON has no others
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


def blocks(text: st.SearchStrategy[str]) -> st.SearchStrategy[list[dict[str, Any]]]:
    said = st.builds(lambda t: {"type": "text", "text": t}, text)
    thought = st.builds(lambda t: {"type": "thinking", "thinking": t}, text)
    call = st.builds(
        lambda n, i: {"type": "tool_use", "id": "call", "name": n, "input": i},
        text,
        st.dictionaries(text, JSON if text is TEXT else text, max_size=3),
    )
    return st.lists(said | thought | call, max_size=5)


def conversations(text: st.SearchStrategy[str]) -> st.SearchStrategy[Conversation]:
    result = st.builds(lambda t: {"type": "tool_result", "tool_use_id": "call", "content": t}, text)
    said = st.builds(lambda t: {"type": "text", "text": t}, text)
    asked = st.lists(result | said, min_size=1, max_size=3)
    turns = st.lists(st.tuples(asked, blocks(text)), min_size=1, max_size=3)
    tools = st.lists(
        st.builds(
            lambda n, d, s: ToolSpec(name=n, description=d, input_schema=s),
            text,
            text,
            st.dictionaries(text, JSON if text is TEXT else text, max_size=2),
        ),
        max_size=2,
    )

    def build(system: str | None, specs: list[ToolSpec], pairs: list[Any]) -> Conversation:
        messages: list[Message] = []
        for question, answer in pairs:
            messages.append(Message(role="user", content=question))
            messages.append(Message(role="assistant", content=answer))
        return Conversation(system=system, tools=tuple(specs), messages=tuple(messages))

    return st.builds(build, st.none() | text, tools, turns)


@cache
def renderer() -> Renderer:
    texts = ["The miller's dog <|end|> sleeps; 12 + 30 = 42.\n\n", '{"name":"calc","input":{"e":"1"}}'] * 30
    return Renderer(train_bpe(texts, TokenizerConfig(vocab_size=420)))


def canonical(message: Message) -> list[dict[str, Any]]:
    """Blocks as parse gives them: neighbouring texts joined, empty ones gone, ids left out."""
    kept: list[dict[str, Any]] = []
    for block in message.content:
        row = block.model_dump()
        if isinstance(block, TextBlock) and kept and kept[-1]["type"] == "text":
            kept[-1]["text"] += block.text
        elif isinstance(block, TextBlock) and not block.text:
            continue
        else:
            kept.append({key: value for key, value in row.items() if key != "id"})
    return kept


def assistant_turns(tokens: list[int], weights: list[float]) -> list[list[int]]:
    """The stretches that carry loss: each from after `<|assistant|>` to its `<|end|>`."""
    turns: list[list[int]] = []
    for index, (token, weight) in enumerate(zip(tokens, weights, strict=True)):
        if weight and not weights[index - 1]:
            turns.append([])
        if weight:
            turns[-1].append(token)
    return turns


@settings(max_examples=200)
@given(conversation=conversations(TEXT))
def test_parse_undoes_render(conversation: Conversation) -> None:
    tokens, weights = renderer().render(conversation)
    said = [m for m in conversation.messages if m.role == "assistant"]
    turns = assistant_turns(tokens, weights)
    assert len(turns) == len(said)
    for message, turn in zip(said, turns, strict=True):
        parsed = renderer().parse(turn)
        assert parsed.problems == ()
        assert canonical(Message(role="assistant", content=parsed.blocks)) == canonical(message)
        called = any(isinstance(block, ToolUseBlock) for block in message.content)
        assert parsed.stop_reason == ("tool_use" if called else "end_turn")


@settings(max_examples=200)
@given(conversation=conversations(TYPED))
def test_no_typed_text_yields_a_special_token(conversation: Conversation) -> None:
    """The special ids of a rendering are those its structure asks for, whatever the texts say."""
    special = renderer().tokenizer.special_ids
    found = [token for token in renderer().render(conversation).tokens if token in special]

    def emptied(message: Message) -> Message:
        rows = [b.model_dump() for b in message.content]
        for row in rows:
            for key in ("text", "thinking", "content", "name"):
                if key in row:
                    row[key] = ""
            if "input" in row:
                row["input"] = {}
        return Message(role=message.role, content=rows)  # pyright: ignore[reportArgumentType]

    bare = Conversation(
        system="x" if conversation.system else None,
        tools=tuple(ToolSpec(name="") for _ in conversation.tools),
        messages=tuple(map(emptied, conversation.messages)),
    )
    assert found == [token for token in renderer().render(bare).tokens if token in special]


# A template joins strings, so only text without the names of special tokens can give the same ids.
PLAIN = st.text(st.characters(codec="utf-8"), max_size=20).filter(lambda t: "<|" not in t and "|>" not in t)


@cache
def hf() -> Any:
    transformers = pytest.importorskip("transformers")
    with tempfile.TemporaryDirectory() as folder:
        renderer().tokenizer.save(Path(folder))
        return transformers.PreTrainedTokenizerFast.from_pretrained(folder)


def _template_ids(messages: list[dict[str, Any]], **options: Any) -> list[int]:
    return hf().apply_chat_template(messages, tokenize=True, return_dict=False, **options)


def _rows(conversation: Conversation) -> list[dict[str, Any]]:
    head = [{"role": "system", "content": conversation.system}] if conversation.system else []
    return [*head, *(m.model_dump() for m in conversation.messages)]


@settings(max_examples=100)
@given(conversation=conversations(PLAIN))
def test_chat_template_gives_the_same_ids(conversation: Conversation) -> None:
    tools = [tool.model_dump() for tool in conversation.tools] or None
    rows = _rows(conversation)
    assert _template_ids(rows, tools=tools) == renderer().render(conversation).tokens
    asked = conversation.model_copy(update={"messages": conversation.messages[:-1]})
    for thinking in (None, True, False):
        options = {} if thinking is None else {"enable_thinking": thinking}
        ids = _template_ids(_rows(asked), tools=tools, add_generation_prompt=True, **options)
        assert ids == renderer().prompt(asked, thinking=thinking)


def test_chat_template_takes_the_openai_shape() -> None:
    schema = {"type": "object", "properties": {"e": {"type": "string"}}}
    call = {"type": "tool_use", "id": "c", "name": "calc", "input": {"e": "1+2", "ü": [1.5, None, True]}}
    result = {"type": "tool_result", "tool_use_id": "c", "content": "3 & <4>"}
    ours = Conversation.model_validate(
        {
            "system": "Be brief.",
            "tools": [{"name": "calc", "description": "adds", "input_schema": schema}],
            "messages": [
                {"role": "user", "content": "1+2?"},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "use it"},
                        {"type": "text", "text": "Let me see."},
                        call,
                        call,
                    ],
                },
                {"role": "user", "content": [result, result, {"type": "text", "text": "well?"}]},
                {"role": "assistant", "content": "3."},
            ],
        }
    )
    given = {"type": "function", "function": {"name": "calc", "arguments": call["input"]}}
    as_text = {
        "name": "calc",
        "arguments": json.dumps(call["input"], separators=(",", ":"), ensure_ascii=False),
    }
    theirs = [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": "1+2?"},
        {
            "role": "assistant",
            "content": "Let me see.",
            "reasoning_content": "use it",
            "tool_calls": [given, {"type": "function", "function": as_text}],
        },
        {"role": "tool", "content": "3 & <4>"},
        {"role": "tool", "content": "3 & <4>"},
        {"role": "user", "content": "well?"},
        {"role": "assistant", "content": "3."},
    ]
    tools = [{"type": "function", "function": {"name": "calc", "description": "adds", "parameters": schema}}]
    assert _template_ids(theirs, tools=tools) == renderer().render(ours).tokens
