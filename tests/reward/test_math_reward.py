from __future__ import annotations

import pytest

from publius.reward.guard import RewardError
from publius.reward.math_reward import MathReward
from tests.reward.episodes import episode


def values(fn: MathReward, *replies: str, **meta: object) -> list[float]:
    return [r.value for r in fn([episode(reply, **meta) for reply in replies])]


def test_right_and_wrong() -> None:
    replies = ("The answer is 12.", "12 - 7 = 5", "12 eggs", "The answer is 5, not 12", "", "twelve")
    assert values(MathReward(), *replies, answer="12") == [1, 0, 1, 0, 0, 0]
    assert values(MathReward(stated=True), *replies, answer=12) == [1, 0, 0, 0, 0, 0]
    assert values(MathReward("keys"), *replies, keys=["12"]) == [1, 0, 1, 0, 0, 0]
    assert values(MathReward(tolerance=0.01), "3.14", answer=[3.14159, "pi"]) == [1]


def test_parts() -> None:
    [reward] = MathReward(name="sum")([episode("The answer is 3", answer="4")])
    assert reward.parts == {"sum": 0.0, "sum.stated": 1.0}


def test_thinking_is_not_the_answer() -> None:
    from publius.core.messages import ThinkingBlock, assistant

    told = episode("so 13", answer="12")
    chat = told.conversation
    message = assistant([ThinkingBlock(thinking="the answer is 12"), *chat.messages[-1].content])
    told = told._replace(conversation=chat.model_copy(update={"messages": (*chat.messages[:-1], message)}))
    assert MathReward()([told])[0].value == 0


def test_no_answer_to_check_is_an_error_not_a_zero() -> None:
    with pytest.raises(RewardError, match=r"prompt 3 has no meta\['answer'\]"):
        MathReward()([episode("12", answer="12"), episode("12", prompt=3)])


def test_a_sum_left_to_the_reader_is_no_answer() -> None:
    replies = ("It is 2+2", "so it is \\sqrt{4}", "It costs 2 million", "so 2x", "The area is 2 cm^2.")
    assert values(MathReward(), *replies, answer="2") == [0, 0, 0, 0, 1]
    assert values(MathReward(), "It costs 2 million dollars", answer=2_000_000) == [1]


@pytest.mark.parametrize("nothing", [None, "", " ", [], [None]])
def test_an_empty_answer_is_none(nothing: object) -> None:
    asked = episode("The answer is none.", answer=nothing)
    assert not MathReward().applies(asked)
    with pytest.raises(RewardError, match="no meta"):
        MathReward()([asked])
