from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from publius.core.errors import UserError
from publius.reward.shaping import LengthPart, LengthReward, RepetitionReward, last_reply, repeated_share
from tests.reward.episodes import T, episode


def test_length_is_a_slope() -> None:
    found = LengthReward(4, 8)([episode("x" * n, ended=False) for n in (0, 4, 5, 6, 8, 20)])
    assert [r.value for r in found] == [0, 0, -0.25, -0.5, -1, -1]
    assert found[2].parts == {"length": -0.25}


def test_length_needs_an_order() -> None:
    with pytest.raises(UserError, match="soft is 8 and hard 4"):
        LengthReward(8, 4)
    with pytest.raises(ValidationError, match="must be below hard"):
        LengthPart(soft=5, hard=5)


def test_repetition() -> None:
    assert repeated_share([1, 2, 3, 1, 2, 3], 3) == 1 / 4
    assert repeated_share([7] * 10, 2) == 8 / 9
    assert repeated_share([1, 2], 3) == 0
    once, again = RepetitionReward(2)([episode("abcdef", ended=False), episode("ababab", ended=False)])
    assert once.value == 0 and again.value == pytest.approx(-3 / 5)
    assert again.parts == {"repetition": again.value}


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(1, 5))
def test_the_share_is_a_share(tokens: list[int], n: int) -> None:
    assert 0 <= repeated_share(tokens, n) < 1
    assert repeated_share(list(range(len(tokens))), n) == 0


def test_only_the_last_reply_and_only_its_own() -> None:
    told = episode("cd")
    assert last_reply(told) == (*T.encode("cd"), T.end_id)
    longer = told._replace(tokens=(*told.tokens, 50, *T.encode("e")), actions=(*told.actions, False, True))
    assert last_reply(longer) == tuple(T.encode("e"))
    assert last_reply(told._replace(actions=(False,) * len(told.tokens))) == ()
