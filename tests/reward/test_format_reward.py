from __future__ import annotations

import pytest
from pydantic import ValidationError

from publius.core.errors import UserError
from publius.reward.format_reward import FormatPart, FormatReward
from publius.tokenizer.special import THINK, THINK_END
from tests.reward.episodes import T, begun, episode

OPEN, CLOSE = T.special[THINK], T.special[THINK_END]


def ids(*pieces: str | int) -> list[int]:
    return [t for piece in pieces for t in ([piece] if isinstance(piece, int) else T.encode(piece))]


def values(part: FormatPart, *episodes) -> list[float]:
    return [r.value for r in FormatReward(part, T)(list(episodes))]


def test_thinking() -> None:
    plain, whole = episode("hi"), episode(ids=ids(OPEN, "hm", CLOSE, "hi"))
    cut = episode(ids=ids(OPEN, "hm"), ended=False)
    silent, stray = episode(ids=ids(OPEN, "hm", CLOSE)), episode(ids=ids("a", CLOSE, "b"))
    every = (plain, whole, cut, silent, stray)
    assert values(FormatPart(thinking="closed"), *every) == [1, 1, 0, 1, 0]
    assert values(FormatPart(thinking="required"), *every) == [0, 1, 0, 0, 0]
    assert values(FormatPart(thinking="forbidden"), *every) == [1, 0, 0, 0, 0]


def test_thinking_that_the_prompt_began() -> None:
    whole, silent = begun(ids("hm", CLOSE, "hi")), begun(ids("hm", CLOSE))
    every = (whole, silent, begun(ids("hm"), ended=False), begun(ids("hm", CLOSE, OPEN, "hi")))
    assert values(FormatPart(thinking="closed"), *every) == [1, 1, 0, 0]
    assert values(FormatPart(thinking="required"), *every) == [1, 0, 0, 0]
    assert values(FormatPart(thinking="forbidden"), *every) == [0, 0, 0, 0]


def test_all_that_is_asked_must_hold() -> None:
    part = FormatPart(ended=True, answer=True, name="form")
    both, half = FormatReward(part, T)([episode("The answer is 3."), episode("The answer is", ended=False)])
    assert both.parts == {"form": 1.0, "form.ended": 1.0, "form.answer": 1.0}
    assert half.value == 0 and half.parts == {"form": 0.0, "form.ended": 0.0, "form.answer": 0.0}


def test_regex_is_of_the_whole_text() -> None:
    part = FormatPart(regex=r"[A-D]\.?")
    assert values(part, *map(episode, ("A", " B.\n", "E", "A and B", ""))) == [1, 1, 0, 0, 0]
    bomb = FormatPart(regex=r"(a+)+b")  # exponential for engines that backtrack
    assert values(bomb, episode("a" * 2000)) == [0]


def test_schema() -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    replies = (
        '{"name": "Ada", "age": 36}', '{"name":"Ada","age":36}', '{\n "name": "Ada",\n "age": 36\n}',
        '{"name": "Ada"}', '{"name": "Ada", "age": "36"}', '{"name": "Ada", "age": 36, "x": 1}',
        '{"name": "Ada", "age": 36} indeed', "Ada", "", '{"name": "Ada", "age": 36',
    )  # fmt: skip
    found = values(FormatPart(json_schema=schema), *map(episode, replies))
    assert found == [1, 1, 1, 0, 0, 0, 0, 0, 0, 0]


def test_bad_parts_are_refused() -> None:
    with pytest.raises(ValidationError, match="asks for nothing"):
        FormatPart()
    with pytest.raises(ValidationError, match="give one"):
        FormatPart(regex="a", json_schema={"type": "null"})
    with pytest.raises(UserError, match=r"cannot be (read|met)"):
        FormatReward(FormatPart(regex="("), T)
