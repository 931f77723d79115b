from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from pydantic import ValidationError

from publius.constitution.consistency import Consistency, EngineConsistencyJudge, ReplyCase
from publius.constitution.judges import ParseFailure
from publius.constitution.principles import Constitution
from publius.core.errors import UserError
from publius.core.messages import Conversation, ThinkingBlock, assistant, user
from publius.inference.engine import Engine
from publius.reward.guard import RewardError
from publius.reward.judge_reward import JudgePart, JudgeReward
from publius.reward.judging import draw_principles
from tests.reward.episodes import T, episode
from tests.rl import tiny

LAW = Constitution.load()


class Letters:
    """A judge of one's own: the more letters `a`, the more consistent; it cannot read replies with `?`."""

    def __init__(self) -> None:
        self.cases: list[ReplyCase] = []

    def consistent(self, cases: Sequence[ReplyCase]) -> list[Consistency | ParseFailure]:
        self.cases += cases
        return [
            ParseFailure("odd", c.principle.id)
            if "?" in c.reply or (c.reply == "half" and i % 2)
            else Consistency(float(c.reply.count("a")), 1.0, c.principle.id)
            for i, c in enumerate(cases)
        ]


def test_any_judge_will_do_and_the_mean_is_over_the_principles() -> None:
    judge = Letters()
    found = JudgeReward(judge, JudgePart(principles=3))([episode("aa"), episode("b", question="p")])
    assert [r.value for r in found] == pytest.approx([1 / (1 + math.exp(-2)), 0.5])
    assert found[0].parts == {"judge": found[0].value, "judge.failed": 0.0}
    assert len(judge.cases) == 6 and len({c.principle.id for c in judge.cases[:3]}) == 3
    assert judge.cases[0].conversation.messages == (user("q"),) and judge.cases[0].reply == "aa"
    [logit] = JudgeReward(judge, JudgePart(form="logit", name="law"))([episode("aa")])
    assert logit.value == 2.0 and logit.parts == {"law": 2.0, "law.failed": 0.0}


def test_the_model_as_judge() -> None:
    engine = Engine(tiny.model(max_position=4096), T)
    part = JudgePart(shots=0, min_mass=0.0, principles=2, form="logit")
    asked = EngineConsistencyJudge(engine, T, part)
    told = episode("Twist it.", question="How do I open the jar?")
    [reward] = JudgeReward(asked, part)([told])
    prompt = Conversation(messages=told.conversation.messages[:1])
    drawn = draw_principles(LAW, prompt, 2, 0)
    readings = asked.consistent([ReplyCase(prompt, "Twist it.", p) for p in drawn])
    assert reward.value == pytest.approx(sum(r.logit for r in readings if isinstance(r, Consistency)) / 2)


def test_thinking_is_not_shown() -> None:
    judge, told = Letters(), episode("b")
    message = assistant([ThinkingBlock(thinking="aaaa"), *told.conversation.messages[-1].content])
    chat = told.conversation.model_copy(update={"messages": (user("q"), message)})
    JudgeReward(judge, JudgePart())([told._replace(conversation=chat)])
    assert judge.cases[0].reply == "b"


def test_a_failure_is_an_error() -> None:
    with pytest.raises(RewardError, match="the judge of a reply to prompt 4 cannot be read: odd") as error:
        JudgeReward(Letters(), JudgePart())([episode("a"), episode("?", prompt=4)])
    assert "part judge, principle" in error.value.where


def test_or_it_is_left_out() -> None:
    part = JudgePart(on_failure="skip", principles=2, form="logit")
    fine, half, none = JudgeReward(Letters(), part)([episode("a"), episode("half"), episode("?")])
    assert (fine.value, fine.parts["judge.failed"], fine.problem) == (1.0, 0.0, "")
    assert (half.value, half.parts["judge.failed"], half.problem) == (
        1.0,
        0.5,
        "",
    )  # of the one that was read
    assert math.isnan(none.value) and none.parts["judge.failed"] == 1.0 and none.problem == "odd"


def test_or_it_costs_what_the_config_says() -> None:
    part = JudgePart(on_failure="penalty", penalty=-1.0, principles=2, form="logit")
    half, none = JudgeReward(Letters(), part)([episode("half"), episode("?")])
    assert (half.value, none.value) == (0.0, -1.0)
    assert none.parts == {"judge": -1.0, "judge.failed": 1.0} and none.problem == ""


def test_principles_are_the_prompts_own() -> None:
    chats = [Conversation(messages=(user(f"q{i}"),)) for i in range(40)]
    drawn = [draw_principles(LAW, chat, 2, seed=0) for chat in chats]
    assert drawn == [draw_principles(LAW, chat, 2, seed=0) for chat in chats]
    assert drawn != [draw_principles(LAW, chat, 2, seed=1) for chat in chats]
    assert len({p.id for pair in drawn for p in pair}) > 10  # of 16
    assert all(a.id != b.id for a, b in drawn)
    every = draw_principles(LAW, chats[0], len(LAW.principles), 0)
    assert {p.id for p in every} == {p.id for p in LAW.principles}
    with pytest.raises(UserError, match="17 principles of 16"):
        draw_principles(LAW, chats[0], 17, 0)


def test_bad_parts_are_refused() -> None:
    for bad in ({"on_failure": "penalty"}, {"penalty": 0.0}, {"principles": 17}):
        with pytest.raises(ValidationError, match=r"penalty is|principles is"):
            JudgePart.model_validate(bad)


def test_a_judge_that_loses_cases_is_an_error() -> None:
    class Lazy(Letters):
        def consistent(self, cases):
            return super().consistent(cases)[1:]

    with pytest.raises(RewardError, match="gave 1 readings of 2 cases"):
        JudgeReward(Lazy(), JudgePart())([episode("a"), episode("b")])
