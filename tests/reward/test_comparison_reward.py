from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import pytest
from pydantic import ValidationError

from publius.constitution.judges import Abstention, EngineJudge, Judgement, Pair, ParseFailure, Ruling
from publius.constitution.principles import Constitution, Principle
from publius.constitution.raw_text import visible
from publius.core.messages import Conversation, Message, assistant, user
from publius.inference.engine import Engine
from publius.reward.comparison_reward import ComparisonPart, ComparisonReward, StartReplies
from publius.reward.guard import RewardError
from publius.reward.reward_fn import Trajectory
from publius.rl.rollout import rollout
from publius.tokenizer.special import THINK_END
from tests.reward.episodes import R, T, begun, episode
from tests.rl import tiny


class Longer:
    """A judge of one's own: prefers the longer reply by a logit a letter, no `?`, no `!`."""

    def __init__(self) -> None:
        self.pairs: list[Pair] = []

    def judge(self, pairs: Sequence[Pair], principles: Sequence[Principle]) -> list[Ruling]:
        self.pairs += pairs
        return [self._one(*pair, p.id) for pair, p in zip(pairs, principles, strict=True)]

    def _one(self, asked: Conversation, a: Message, b: Message, name: str) -> Ruling:
        if "?" in visible(a):
            return ParseFailure("odd", name)
        if "!" in visible(a):
            return Abstention("not that", name)
        p = 1 / (1 + math.exp(len(visible(b)) - len(visible(a))))
        return Judgement(p, True, p, p, name)


class Same:
    """A rival that says one thing."""

    def replies(self, trajectories: Sequence[Trajectory]) -> list[Message]:
        return [assistant("abc")] * len(trajectories)


def scored(part: ComparisonPart, *replies: str):
    return ComparisonReward(Longer(), Same(), part)([episode(r, prompt=i) for i, r in enumerate(replies)])


def test_better_than_the_start() -> None:
    judge = Longer()
    fn = ComparisonReward(judge, Same(), ComparisonPart(principles=2))
    more, less, draw = fn([episode("abcde"), episode("ab"), episode(" abc ")])
    assert more.value == pytest.approx(1 / (1 + math.exp(-2))) and less.value == pytest.approx(
        1 - 1 / (1 + math.exp(-1))
    )
    assert draw.value == 0.5 and draw.parts == {"comparison": 0.5, "comparison.failed": 0.0}
    assert len(judge.pairs) == 4  # the draw was not asked about
    assert judge.pairs[0][0].messages == (user("q"),)
    [logit] = scored(ComparisonPart(form="logit", name="win"), "abcde")
    assert logit.value == pytest.approx(2.0) and logit.parts == {"win": logit.value, "win.failed": 0.0}
    [held] = scored(ComparisonPart(clamp=(0.4, 0.6)), "abcdefghij")
    assert held.value == 0.6
    assert fn([]) == []


def test_failures_follow_the_config() -> None:
    with pytest.raises(RewardError, match="a reply to prompt 1 cannot be read: odd") as error:
        scored(ComparisonPart(), "abcd", "?")
    assert "part comparison, principle" in error.value.where
    fine, odd, declined = scored(ComparisonPart(on_failure="skip"), "abcd", "?", "!")
    assert fine.value > 0.5 and math.isnan(odd.value) and odd.problem == "odd"
    assert declined.problem == "it declined: not that" and declined.parts["comparison.failed"] == 1
    [costs] = scored(ComparisonPart(on_failure="penalty", penalty=0.0), "?")
    assert costs.value == 0.0 and costs.parts["comparison.failed"] == 1.0


def test_a_judge_that_loses_pairs_is_an_error() -> None:
    class Lazy(Longer):
        def judge(self, pairs, principles):
            return super().judge(pairs, principles)[1:]

    with pytest.raises(RewardError, match="gave 1 verdicts on 2 pairs"):
        ComparisonReward(Lazy(), Same(), ComparisonPart())([episode("a"), episode("b")])


def test_the_start_says_one_thing_to_each_prompt() -> None:
    start = StartReplies(Engine(tiny.talker(), T), R, max_tokens=8, seed=3)
    episodes = rollout(Engine(tiny.talker(seed=1), T), R, tiny.chats(4), max_tokens=8, seed=0, group=2)
    said = start.replies(episodes)
    assert said[::2] == said[1::2] and len({visible(m) for m in said}) > 1
    assert all(len(visible(m)) <= 8 for m in said)
    again = StartReplies(Engine(tiny.talker(), T), R, max_tokens=8, seed=3)
    assert again.replies(episodes[::-1]) == said[::-1]  # of prompt and seed alone
    other = StartReplies(Engine(tiny.talker(), T), R, max_tokens=8, seed=4)
    assert other.replies(episodes) != said


def test_a_prefill_begins_both() -> None:
    asked = Conversation(messages=(user("q"), assistant("Sure, ")))
    [played] = rollout(Engine(tiny.talker(), T), R, [asked], max_tokens=6, seed=0)
    [rival] = StartReplies(Engine(tiny.talker(), T), R, max_tokens=6).replies([played])
    assert visible(rival).startswith("Sure, ") and len(visible(rival)) > 6
    judge = Longer()
    ComparisonReward(judge, StartReplies(Engine(tiny.talker(), T), R, max_tokens=6), ComparisonPart())(
        [played]
    )
    assert all(pair[0].messages == (user("q"),) for pair in judge.pairs)


class Written:
    """An engine that writes what it is given."""

    def __init__(self, ids: Sequence[int]) -> None:
        self.model, self._ids = tiny.model(), tuple(ids)

    def generate(self, prompts: Sequence[Sequence[int]], sampling: object) -> list[Generated]:
        return [Generated(self._ids) for _ in prompts]


class Generated(NamedTuple):
    tokens: tuple[int, ...]


def test_thinking_that_the_prompt_began_is_nobodys_answer() -> None:
    close = T.special[THINK_END]
    played = begun([*T.encode("two and two"), close, *T.encode("It is 4.")])
    start = Written([*T.encode("hmm"), close, *T.encode("Four."), T.end_id])
    [rival] = StartReplies(start, R, max_tokens=8).replies([played])  # type: ignore[arg-type]
    assert rival == assistant("Four.")


def test_the_model_as_judge() -> None:
    engine = Engine(tiny.model(max_position=8192), T)
    part = ComparisonPart(shots=0, min_mass=0.0)
    fn = ComparisonReward(EngineJudge.from_config(engine, T, part), Same(), part)
    one, turned = fn([episode("xyz"), episode("abc")])
    assert 0 < one.value < 1 and one.value != 0.5 and turned.value == 0.5


def test_only_principles_with_a_question_are_asked() -> None:
    law = Constitution.load()
    mends = [
        p.model_copy(update={"id": f"{p.id}-mends", "comparison_question": "", "weight": 50.0})
        for p in law.principles
    ]
    mixed = law.model_copy(update={"principles": (*mends, *law.principles[:2])})
    asked: list[str] = []

    class Noting(Longer):
        def judge(self, pairs: Sequence[Pair], principles: Sequence[Principle]) -> list[Ruling]:
            asked.extend(p.comparison_question for p in principles)
            return super().judge(pairs, principles)

    part = ComparisonPart(constitution=mixed, principles=2)
    ComparisonReward(Noting(), Same(), part)([episode("abcde"), episode("ab", question="p")])
    assert len(asked) == 4 and all(asked)
    with pytest.raises(ValidationError, match="the constitution has 2 for a comparison"):
        ComparisonPart(constitution=mixed, principles=3)
