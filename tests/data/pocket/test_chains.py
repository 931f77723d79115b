"""Sums of several numbers: right, of one split, asked and answered both ways."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from publius.core.errors import UserError
from publius.core.messages import ThinkingBlock, check_roles, text_of
from publius.data.pocket.chains import Chain, ask_chain, draw_chain, think_chain
from publius.data.pocket.grade import grade
from publius.data.pocket.sums import split_of
from publius.data.pocket.worked import SumPromptsConfig, WorkedSumsConfig, sum_prompts, worked_sums
from publius.pipeline import testing_run


@given(st.integers(0, 10_000), st.sampled_from(["train", "val", "test"]), st.integers(2, 5))
def test_every_step_is_right_small_and_of_the_split(seed: int, split: str, numbers: int) -> None:
    chain = draw_chain(random.Random(seed), split, numbers)
    assert len(chain.steps) == numbers - 1 == len(chain.rest)
    assert {split_of(step) for step in chain.steps} == {split}
    so_far = chain.first
    for op, number in chain.rest:
        so_far = so_far + number if op == "+" else so_far - number
        assert 10 <= so_far <= 99
    assert chain.result == so_far
    assert [int(said) for said in re.findall(r"so (\d+)", think_chain(chain))] == [
        step.result for step in chain.steps
    ]


def test_questions_name_all_numbers_and_held_out_ones_are_worded_otherwise() -> None:
    chain = Chain(47, (("+", 28), ("-", 16)))
    assert str(chain) == "47+28-16" and chain.result == 59
    seen = {ask_chain(chain, random.Random(i), held_out=False) for i in range(60)}
    sealed = {ask_chain(chain, random.Random(i), held_out=True) for i in range(60)}
    assert all("47 plus 28 minus 16" in asked for asked in seen | sealed)
    assert len(seen) > 4 and len(sealed) == 2 and not seen & sealed


def test_each_sum_is_demonstrated_with_thinking_and_without(tmp_path: Path) -> None:
    made = worked_sums(testing_run(tmp_path), WorkedSumsConfig(questions=30))
    chats = made.train()
    assert len(chats) == 60 and len(made.val()) == 2
    for on, off in zip(chats[::2], chats[1::2], strict=True):
        check_roles(on)
        assert on.messages[0] == off.messages[0]
        assert text_of(on.messages[1]) == text_of(off.messages[1])
        assert grade(on.meta, text_of(on.messages[1])).correct
        first, second = on.messages[1].content[0], off.messages[1].content[0]
        assert isinstance(first, ThinkingBlock) and isinstance(second, ThinkingBlock)
        assert first.thinking.endswith(f"so {on.meta['keys'][0]}") and second.thinking == ""
        assert "thinking" not in on.meta and off.meta["thinking"] is False
    assert {chat.meta["category"] for chat in chats} == {"2 numbers", "3 numbers", "4 numbers"}


def test_prompts_are_distinct_unanswered_and_of_their_split(tmp_path: Path) -> None:
    config = SumPromptsConfig(train=20, held_out=30, split="test", thinking=True)
    made = sum_prompts(testing_run(tmp_path), config)
    assert (len(made.train()), len(made.val())) == (20, 30)
    for prompt in (*made.train(), *made.val()):
        assert [m.role for m in prompt.messages] == ["user"] and prompt.meta["thinking"] is True
    entities = [prompt.meta["entity"] for prompt in (*made.train(), *made.val())]
    assert len(set(entities)) == 50
    free = sum_prompts(testing_run(tmp_path / "b"), SumPromptsConfig(train=0, held_out=3)).val()
    assert all("thinking" not in prompt.meta for prompt in free)


def test_asking_for_too_much_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there are not 3000 different sums"):
        sum_prompts(
            testing_run(tmp_path), SumPromptsConfig(train=0, held_out=3000, split="test", numbers=(2,))
        )
    for numbers in ((), (1, 2), (9,)):
        with pytest.raises(ValidationError, match="numbers from 2 to 8"):
            WorkedSumsConfig(numbers=numbers)
