"""Reading gives back exactly what was written."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from publius.core.errors import UserError
from publius.core.messages import Conversation, ToolSpec, assistant, user
from publius.data import (
    Conversations,
    Corpus,
    Document,
    Preference,
    Preferences,
    Prompts,
    write_conversations,
    write_corpus,
    write_preferences,
    write_prompts,
)
from publius.data.files import JsonlWriter

TALK = Conversation(
    system="é\n",
    tools=(ToolSpec(name="t", input_schema={"type": "object", "x": None}),),
    messages=(
        user("hi"),
        assistant(
            [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "text", "text": ""},
                {"type": "tool_use", "id": "1", "name": "t", "input": {"a": None, "b": [1.5, {"c": True}]}},
            ]
        ),
        user([{"type": "tool_result", "tool_use_id": "1", "content": "x", "is_error": True}]),
        assistant([]),
    ),
    meta={"kind": "fact", "keys": ["a", None], "need": 2, "deep": {"x": [1, 2.5]}},
)


def test_conversations_come_back_equal(tmp_path: Path) -> None:
    prompt = Conversation(messages=(user("a"), assistant("pre")))
    write_conversations(tmp_path / "c", train=[TALK, prompt], val=[prompt])
    write_prompts(tmp_path / "p", train=[prompt], val=[TALK])
    assert (Conversations(tmp_path / "c").train(), Conversations(tmp_path / "c").val()) == (
        [TALK, prompt],
        [prompt],
    )
    assert (Prompts(tmp_path / "p").train(), Prompts(tmp_path / "p").val()) == ([prompt], [TALK])


@settings(max_examples=30)
@given(text=st.text(st.characters(codec="utf-8")), probability=st.floats(0, 1))
def test_preferences_come_back_equal(
    tmp_path_factory: pytest.TempPathFactory, text: str, probability: float
) -> None:
    folder = tmp_path_factory.mktemp("p")
    pair = Preference(
        prompt=TALK.model_copy(update={"messages": (user(text),), "meta": {"t": text}}),
        chosen=assistant(text),
        rejected=assistant([]),
        probability=probability,
        source=text,
    )
    write_preferences(folder, train=[pair])
    assert Preferences(folder).train() == [pair]
    assert Preferences(folder).val() == []


def test_documents_stream(tmp_path: Path) -> None:
    documents = [Document(f"text {n}\n\u2028é", str(n), "s") for n in range(5)]
    write_corpus(tmp_path, train=iter(documents), val=documents[:1])
    source = Corpus(tmp_path).train()
    assert next(source) == documents[0]
    assert list(source) == documents[1:]
    assert list(Corpus(tmp_path).val()) == documents[:1]


def test_a_foreign_line_is_named(tmp_path: Path) -> None:
    with JsonlWriter(tmp_path / "train.jsonl.zst") as writer:
        writer.write({"text": "a", "id": "1", "source": ""})
        writer.write({"words": 3})
    with pytest.raises(UserError, match=r"cannot be read[\s\S]*train.jsonl.zst:2"):
        list(Corpus(tmp_path).train())
    with pytest.raises(UserError, match=r"train.jsonl.zst:1"):
        Conversations(tmp_path).train()
    with pytest.raises(UserError, match=r"val\.jsonl\.zst"):
        list(Corpus(tmp_path).val())


def test_probabilities_are_probabilities() -> None:
    asked = Conversation(messages=(user("a"),))
    assert Preference(prompt=asked, chosen=assistant("b"), rejected=assistant("c")).probability == 1.0
    with pytest.raises(ValidationError):
        Preference(prompt=asked, chosen=assistant("b"), rejected=assistant("c"), probability=1.1)
