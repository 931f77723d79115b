"""Every public shape, in every format, and one clear error for each way to be wrong (many: so it is long)."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from publius.core.errors import UserError
from publius.core.messages import (
    Conversation,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    assistant,
    text_of,
    user,
)
from publius.data import (
    Document,
    Preference,
    read_conversations,
    read_documents,
    read_preferences,
    read_prompts,
)

Write = Callable[..., str]


@pytest.fixture
def chat(jsonl: Write) -> Callable[[Any], Conversation]:
    return lambda row: next(read_conversations([jsonl([row])]))


@pytest.fixture
def pair(jsonl: Write) -> Callable[[Any], Preference]:
    return lambda row: next(read_preferences([jsonl([row])]))


@pytest.fixture
def prompt(jsonl: Write) -> Callable[[Any], Conversation]:
    return lambda row: next(read_prompts([jsonl([row])]))


def _said(conversation: Conversation) -> list[tuple[str, str]]:
    return [(message.role[0], text_of(message)) for message in conversation.messages]


# documents


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz", ".zst"])
def test_documents_of_every_packing(jsonl: Write, suffix: str) -> None:
    path = jsonl([{"text": "a", "id": 7, "source": "s"}, {"text": "b"}], f"d.jsonl{suffix}")
    assert list(read_documents([path])) == [
        Document("a", "7", "s"),
        Document("b", f"d.jsonl{suffix}:2", "d"),
    ]


def test_documents_of_text_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"one\n\ntwo"))
    (tmp_path / "a.md").write_text("# A")
    assert list(read_documents([str(tmp_path)])) == [
        Document("# A", "a.md", "a"),
        Document("one\n\ntwo", "b.txt.gz", "b"),
    ]


def test_documents_of_parquet_and_json(tmp_path: Path) -> None:
    rows = [{"text": f"t{n}", "id": str(n)} for n in range(600)]
    plain = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(rows), plain)
    (tmp_path / "b.parquet.gz").write_bytes(gzip.compress(plain.read_bytes()))
    (tmp_path / "c.json").write_text(json.dumps(rows))
    (tmp_path / "d.json").write_text(json.dumps(rows[0]))
    for name in ("a.parquet", "b.parquet.gz", "c.json"):
        texts = [document.text for document in read_documents([str(tmp_path / name)])]
        assert texts == [row["text"] for row in rows]
    assert len(list(read_documents([str(tmp_path / "d.json")]))) == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "ok"}\n{"text": \n', r"not valid JSON[\s\S]*a.jsonl:2"),
        ("a.jsonl", '{"text": "ok"}\n[1]\n', r"not a JSON object[\s\S]*a.jsonl:2"),
        ("a.jsonl", '\n{"words": 1}\n', r"no text: its keys are 'words'[\s\S]*a.jsonl:2"),
        ("a.jsonl", "{}", r"keys are \(none\)"),
        ("a.jsonl", '{"text": "\\ud83d"}', r"stands alone[\s\S]*a.jsonl:1"),
        ("a.jsonl", "[" * 100_000, "not valid JSON"),
        ("a.json", '[{"text": "a"}, ', "not valid JSON"),
        ("a.json", '[{"text": "a"}, {"text": "\\uDFFF"}]', r"stands alone[\s\S]*a.json:2"),
        ("a.parquet", "PAR1 nothing PAR1", "not a readable parquet"),
    ],
)
def test_document_errors(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        list(read_documents([str(tmp_path / name)]))


def test_an_escaped_pair_is_one_character(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "\\ud83d\\ude00"}')
    assert next(read_documents([str(tmp_path / "a.jsonl")])).text == "\U0001f600"


def test_chats_need_rows(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(UserError, match="needs rows"):
        list(read_conversations([str(tmp_path / "a.txt")]))


# conversations


def test_messages_with_blocks_are_ours(chat: Callable[[Any], Conversation]) -> None:
    ours = Conversation(
        system="s",
        messages=(
            user("a"),
            assistant([{"type": "thinking", "thinking": "t"}, {"type": "text", "text": "b"}]),
        ),
        meta={"kind": "x"},
    )
    assert chat(ours.model_dump(mode="json")) == ours


def test_openai_messages_with_tool_calls(chat: Callable[[Any], Conversation]) -> None:
    function = {"name": "f", "description": "d", "parameters": {"type": "object"}}
    conversation = chat(
        {
            "id": "x1",
            "source": "there",
            "tools": [{"type": "function", "function": function}],
            "messages": [
                {"role": "developer", "content": "Be good."},
                {"role": "user", "content": [{"type": "text", "text": "go"}]},
                {
                    "role": "assistant",
                    "content": None,
                    "reasoning_content": "hm",
                    "tool_calls": [
                        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
                        {"name": "g", "arguments": {}},
                    ],
                },
                {"role": "tool", "tool_call_id": "c1", "content": {"r": 1}},
                {"role": "tool", "content": [{"type": "text", "text": "ok"}]},
                {"role": "user", "content": "and?"},
                {"role": "assistant", "content": "done"},
            ],
        }
    )
    assert conversation.system == "Be good."
    assert conversation.meta == {"id": "x1", "source": "there"}
    assert conversation.tools[0].input_schema == {"type": "object"}
    assert [m.role for m in conversation.messages] == ["user", "assistant", "user", "assistant"]
    thought, first, second = conversation.messages[1].content
    assert thought == ThinkingBlock(thinking="hm")
    assert first == ToolUseBlock(id="c1", name="f", input={"a": 1})
    assert isinstance(second, ToolUseBlock) and second.name == "g"
    assert conversation.messages[2].content == (
        ToolResultBlock(tool_use_id="c1", content='{"r": 1}'),
        ToolResultBlock(tool_use_id=second.id, content="ok"),
        TextBlock(text="and?"),
    )


def test_flat_tool_descriptions_become_a_schema(chat: Callable[[Any], Conversation]) -> None:
    tool = {"name": "Find", "description": "", "parameters": {"city": "where"}, "required": ["city"]}
    made = chat({"tools": [tool], "messages": [{"role": "user", "content": "a"}]}).tools[0]
    assert made.input_schema == {
        "type": "object",
        "properties": {"city": {"type": "string", "description": "where"}},
        "required": ["city"],
    }


def test_sharegpt(chat: Callable[[Any], Conversation]) -> None:
    turns = [("system", "s"), ("human", "a"), ("gpt", "b"), ("human", "c"), ("gpt", "d")]
    conversation = chat({"id": "q", "conversations": [{"from": f, "value": v} for f, v in turns]})
    assert conversation.system == "s"
    assert _said(conversation) == [("u", "a"), ("a", "b"), ("u", "c"), ("a", "d")]


def test_alpaca_and_dolly(chat: Callable[[Any], Conversation]) -> None:
    assert _said(chat({"instruction": "Sort", "input": "3 1", "output": "1 3"})) == [
        ("u", "Sort\n\n3 1"),
        ("a", "1 3"),
    ]
    assert _said(chat({"instruction": "Hi", "input": "", "output": "Ho"})) == [("u", "Hi"), ("a", "Ho")]
    dolly = chat({"instruction": "Hi", "context": "c", "response": "Ho", "system": "s"})
    assert _said(dolly) == [("u", "Hi\n\nc"), ("a", "Ho")] and dolly.system == "s"


def test_reasoning_becomes_thinking(chat: Callable[[Any], Conversation]) -> None:
    expected = (ThinkingBlock(thinking="2+2=4"), TextBlock(text="4"))
    for row in (
        {"question": "2+2?", "reasoning": "2+2=4", "answer": 4},
        {"question": "2+2?", "answer": "2+2=4\n#### 4"},
    ):
        conversation = chat(row)
        assert _said(conversation)[0] == ("u", "2+2?")
        assert conversation.messages[1].content == expected
    assert chat({"question": "Why?", "answer": "So."}).messages[1] == assistant("So.")


def test_multiple_choice(chat: Callable[[Any], Conversation]) -> None:
    conversation = chat({"question": "Which?", "choices": ["red", "blue"], "answer": 1})
    assert _said(conversation) == [("u", "Which?\nA. red\nB. blue"), ("a", "B. blue")]


def test_prompt_with_reply_and_transcripts(chat: Callable[[Any], Conversation]) -> None:
    assert _said(chat({"prompt": "a", "completion": "b"})) == [("u", "a"), ("a", "b")]
    assert _said(chat({"prompt": [{"role": "user", "content": "a"}], "response": "b"})) == [
        ("u", "a"),
        ("a", "b"),
    ]
    assert _said(chat({"prompt": "a", "refusal_short": "no", "refusal_long": "No."}))[1] == ("a", "No.")
    text = "\n\nHuman: a\n\nb\n\nHuman: c\n\nAssistant: d: Human: e"
    assert _said(chat({"text": text})) == [("u", "a\n\nb\n\nc"), ("a", "d: Human: e")]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"x": 1}, "unknown shape: a row with keys 'x'"),
        ({"messages": []}, "no messages"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "message 0 has role 'assistant'"),
        ({"messages": [{"role": "user", "content": "a"}] * 2}, "message 1 has role 'user'"),
        ({"messages": [{"role": "wizard", "content": "a"}]}, "unknown role 'wizard'"),
        ({"messages": [{"role": "user"}, {"role": "tool", "content": "x"}]}, "answers no call"),
        ({"messages": [{"content": "a"}]}, "malformed: missing 'role'"),
        ({"messages": [{"role": "user", "content": 3}]}, "malformed"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "malformed"),
        ({"conversations": [{"value": "a"}]}, "missing 'from'"),
        ({"instruction": "a"}, "missing 'response'"),
        ({"instruction": "a", "output": 3}, "malformed: content"),
        ({"question": "a", "choices": ["x"], "answer": 4}, "malformed"),
        ({"prompt": "a"}, "no reply"),
        ({"text": "Once upon a time"}, "does not begin with a turn"),
        (
            {
                "messages": [
                    {"role": "user", "content": "a"},
                    {"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{"}]},
                ]
            },
            "arguments of a tool call are not JSON",
        ),
    ],
)
def test_conversation_errors_name_the_line(jsonl: Write, row: Any, message: str) -> None:
    good = {"messages": [{"role": "user", "content": "a"}]}
    with pytest.raises(UserError, match=rf"{message}[\s\S]*rows.jsonl:2"):
        list(read_conversations([jsonl([good, row])]))


def test_images_are_carried(chat: Callable[[Any], Conversation]) -> None:
    block = {"type": "image_url", "image_url": {"url": "data:x"}}
    message = chat({"messages": [{"role": "user", "content": [block]}]}).messages[0]
    assert message.content[0].model_dump() == {"type": "image", "source": {"type": "url", "url": "data:x"}}


# preferences


def test_pairs_of_every_shape(pair: Callable[[Any], Preference]) -> None:
    start = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:"
    messages = [("user", "a"), ("assistant", "b"), ("user", "c")]
    rows = [{"role": role, "content": text} for role, text in messages]
    shapes = [
        {"prompt": rows, "chosen": "good", "rejected": "bad"},
        {"prompt": {"messages": rows}, "chosen": {"role": "assistant", "content": "good"}, "rejected": "bad"},
        {"chosen": f"{start} good", "rejected": f"{start} bad"},
        {
            "prompt": "ignored: the conversations hold it",
            "chosen": [*rows, {"role": "assistant", "content": "good"}],
            "rejected": [*rows, {"role": "assistant", "content": "bad"}],
        },
    ]
    for row in shapes:
        made = pair(row)
        assert _said(made.prompt) == [("u", "a"), ("a", "b"), ("u", "c")]
        assert (text_of(made.chosen), text_of(made.rejected), made.probability) == ("good", "bad", 1.0)


def test_short_pairs(pair: Callable[[Any], Preference]) -> None:
    made = pair({"id": "i", "source": "s", "first_user_turn": "q", "chosen": "Human: x", "rejected": "y"})
    assert _said(made.prompt) == [("u", "q")] and made.prompt.meta == {"id": "i"} and made.source == "s"
    assert text_of(made.chosen) == "Human: x"
    soft = pair({"prompt": "q", "chosen": "x", "rejected": "y", "probability": 0.3})
    assert soft.probability == 0.3
    better = pair({"prompt": "q", "response_1": "x", "response_2": "y", "better": 2})
    assert (text_of(better.chosen), text_of(better.rejected)) == ("y", "x")
    assert pair(soft.model_dump(mode="json")) == soft


def test_ties_are_labels_of_one_half(pair: Callable[[Any], Preference]) -> None:
    judged = {"prompt": "q", "response_1": "x", "response_2": "y"}
    for better in (0, "tie", None):
        assert pair({**judged, "better": better}).probability == 0.5
    assert pair({**judged, "better": "1"}).probability == 1.0
    assert pair({"prompt": "q", "chosen": "the  same\n", "rejected": "the same"}).probability == 0.5
    call = {"type": "tool_use", "id": "t", "name": "n", "input": {}}
    tools = {"prompt": "q", "chosen": {"role": "assistant", "content": [call]}, "rejected": "y"}
    assert pair(tools).probability == 1.0, "a call is a reply"


def test_a_message_tree_gives_every_ranked_pair(jsonl: Write) -> None:
    def reply(text: str, rank: int | None, *replies: Any, **more: Any) -> dict[str, Any]:
        return {"role": "assistant", "text": text, "rank": rank, "replies": list(replies), **more}

    below = {
        "role": "prompter",
        "text": "And frogs?",
        "rank": None,
        "replies": [reply("e", 1), reply("f", 0)],
    }
    prompt = {
        "role": "prompter",
        "text": "Do newts bite?",
        "replies": [
            reply("a", 2),
            reply("b", 0, below),
            reply("c", 1),
            reply("d", None),
            reply("x", 3, deleted=True),
        ],
    }
    pairs = list(read_preferences([jsonl([{"message_tree_id": "t1", "prompt": prompt}])]))
    assert [(text_of(p.chosen), text_of(p.rejected)) for p in pairs] == [
        ("b", "c"), ("b", "a"), ("c", "a"), ("f", "e"),
    ]  # fmt: skip
    assert [text_of(m) for m in pairs[3].prompt.messages] == ["Do newts bite?", "b", "And frogs?"]
    assert {p.source for p in pairs} == {"oasst"} and pairs[0].prompt.meta == {"id": "t1"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "text": "b"}, "unknown shape"),
        ({"prompt": "a", "chosen": "b"}, "lacks a reply: no `rejected`"),
        ({"prompt": "a", "chosen": None, "rejected": "b"}, "lacks a reply: no `chosen`"),
        ({"prompt": "a", "chosen": "b", "rejected": " "}, "lacks a reply: `rejected` is empty"),
        ({"chosen": "Human: a\n\nAssistant:", "rejected": "Human: a\n\nAssistant: b"}, "`chosen` is empty"),
        ({"prompt": "a", "response_1": "x", "response_2": None, "better": 1}, "lacks a reply: no `rejected`"),
        ({"prompt": "a", "response_1": "x", "response_2": "y", "better": 3}, "`better` is 3"),
        ({"prompt": "a", "response_1": "x", "response_2": "y", "better": True}, "`better` is True"),
        (
            {"prompt": {"role": "prompter", "text": "a", "replies": [{"rank": 0}, {"rank": 1}]}},
            "missing 'text'",
        ),
        ({"chosen": "Human: a", "rejected": "Human: a"}, "does not end with the assistant"),
        ({"chosen": "b", "rejected": "c"}, "does not begin with a turn"),
        ({"chosen": [], "rejected": []}, "does not end with the assistant"),
        (
            {
                "chosen": {"role": "assistant", "content": "a"},
                "rejected": {"role": "assistant", "content": "b"},
            },
            "no prompt",
        ),
        (
            {"chosen": "Human: a\n\nAssistant: b", "rejected": "Human: x\n\nAssistant: b"},
            "differ before their last reply",
        ),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "probability": 2}, "malformed: probability"),
        (
            {"prompt": [{"role": "assistant", "content": "a"}], "chosen": "b", "rejected": "c"},
            "message 0 has role",
        ),
    ],
)
def test_pair_errors(jsonl: Write, row: Any, message: str) -> None:
    with pytest.raises(UserError, match=rf"{message}[\s\S]*rows.jsonl:1"):
        list(read_preferences([jsonl([row])]))


# prompts


def test_prompts_of_every_shape(prompt: Callable[[Any], Conversation]) -> None:
    asked = {"role": "user", "content": "q"}
    for row in (
        {"prompt": "q"},
        {"prompt": [asked]},
        {"first_user_turn": "q"},
        {"question": "q"},
        {"messages": [asked]},
        {"messages": [asked, {"role": "assistant", "content": "dropped"}]},
        {"question": "q", "reasoning": "r", "answer": "a"},
    ):
        assert _said(prompt(row)) == [("u", "q")]
    injected = prompt({"test_case_prompt": "secret", "user_input": "q", "id": 3})
    assert injected.system == "secret" and injected.meta == {"id": 3}
    assert prompt({"prompt": "q", "category": "x", "meta": {"need": 2}}).meta == {"category": "x", "need": 2}


@pytest.mark.parametrize(
    ("row", "message"),
    [({"template": "x"}, "unknown shape"), ({"prompt": 3}, "malformed"), ({"prompt": []}, "no messages")],
)
def test_prompt_errors(jsonl: Write, row: Any, message: str) -> None:
    with pytest.raises(UserError, match=rf"{message}[\s\S]*rows.jsonl:1"):
        list(read_prompts([jsonl([row])]))
