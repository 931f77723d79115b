"""Where the template of a checkpoint puts what the system says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from publius.core.messages import Conversation, Message, assistant, user
from publius.tokenizer import Renderer, Tokenizer


def _ids(tokenizer: Tokenizer, folder: Path, messages: list[dict[str, Any]]) -> list[int]:
    transformers = pytest.importorskip("transformers")
    tokenizer.save(folder)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    return theirs.apply_chat_template(messages, tokenize=True, return_dict=False)


def _said(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


def test_a_later_turn_of_the_system_stands_where_it_is(tokenizer: Tokenizer, tmp_path: Path) -> None:
    turns = [("user", "a"), ("assistant", "b"), ("system", "c"), ("user", "d"), ("assistant", "e")]
    messages = tuple(Message(role=role, content=text) for role, text in turns)  # pyright: ignore
    rows = [_said("system", "s"), *(_said(role, text) for role, text in turns)]
    chat = Conversation(system="s", messages=messages)
    assert _ids(tokenizer, tmp_path, rows) == Renderer(tokenizer).render(chat).tokens


def test_the_developer_is_the_system_and_no_user(tokenizer: Tokenizer, tmp_path: Path) -> None:
    rows = [_said("developer", "s"), _said("user", "a"), _said("assistant", "b")]
    chat = Conversation(system="s", messages=(user("a"), assistant("b")))
    assert _ids(tokenizer, tmp_path, rows) == Renderer(tokenizer).render(chat).tokens
