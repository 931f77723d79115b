"""What stands beside a pair or a prompt in its row is not lost."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from publius.core.errors import UserError
from publius.data.pair_shapes import preferences_of, prompt_of

TOOL = {"name": "f", "description": "d", "parameters": {"type": "object"}}


def _chat(system: str, reply: str) -> list[dict[str, Any]]:
    turns = (("system", system), ("user", "q"), ("assistant", reply))
    return [{"role": role, "content": text} for role, text in turns]


def test_the_system_of_two_conversations_is_the_prompts() -> None:
    (pair,) = preferences_of({"chosen": _chat("Be brief.", "a"), "rejected": _chat("Be brief.", "b")}, "x:1")
    assert pair.prompt.system == "Be brief." and len(pair.prompt.messages) == 1
    with pytest.raises(UserError, match="differ before their last reply"):
        preferences_of({"chosen": _chat("Be brief.", "a"), "rejected": _chat("Be long.", "b")}, "x:1")


def test_the_head_of_a_row_is_the_prompts() -> None:
    head = {"system": "Be brief.", "tools": [TOOL]}
    (pair,) = preferences_of({**head, "prompt": "q", "chosen": "a", "rejected": "b"}, "x:1")
    for prompt in (pair.prompt, prompt_of({**head, "prompt": "q"}, "x:1")):
        assert prompt.system == "Be brief." and [tool.name for tool in prompt.tools] == ["f"]
        assert prompt.meta == {}


@pytest.mark.parametrize(
    ("row", "kept"),
    [
        ({"messages": [{"role": "user", "content": "q"}]}, {}),
        ({"question": "q", "answer": "4"}, {"answer": "4"}),
        ({"question": "q", "choices": ["x", "y"], "answer": 1}, {"choices": ["x", "y"], "answer": 1}),
        ({"instruction": "q", "input": "i", "output": "o"}, {"output": "o"}),
    ],
)
def test_what_a_conversation_says_besides_is_kept(row: dict[str, Any], kept: dict[str, Any]) -> None:
    prompt = prompt_of({**row, "category": "c", "id": 3, "meta": {"need": 2}}, "x:1")
    assert prompt.meta == {**kept, "category": "c", "id": 3, "need": 2}


def test_columns_that_json_cannot_hold_are_named() -> None:
    prompt = prompt_of({"prompt": "q", "day": datetime(2020, 1, 2, tzinfo=UTC)}, "x:1")
    assert prompt.meta["day"].startswith("2020-01-02")
    with pytest.raises(UserError, match=r"`image` holds what JSON cannot[\s\S]*x:1"):
        prompt_of({"prompt": "q", "image": {"bytes": b"\x89PNG"}}, "x:1")


def test_a_deleted_tree_has_no_pairs() -> None:
    replies = [{"role": "assistant", "text": text, "rank": rank} for rank, text in enumerate("ab")]
    tree = {"role": "prompter", "text": "q", "replies": replies}
    assert len(preferences_of({"prompt": tree}, "x:1")) == 1
    assert preferences_of({"prompt": {**tree, "deleted": True}}, "x:1") == []
