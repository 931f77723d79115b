"""Laws of rewards: an episode is worth the same whatever stands beside it, and the better is worth more.

Every reward function that ships is held to both, by itself and in a sum.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import ExitStack

import pytest

from publius.constitution.consistency import Consistency, ReplyCase
from publius.constitution.judges import ParseFailure
from publius.inference.engine import Engine
from publius.model.heads import RewardModel
from publius.reward.compose import RewardSpec, Sources, compose
from publius.reward.reward_fn import ModelReward, RewardFn, Trajectory
from tests.landlock import CONTAINED
from tests.reward.episodes import T, episode
from tests.rl import tiny

MODEL = ModelReward(RewardModel(tiny.model(), seed=3), pad_id=T.pad_id, end_id=T.end_id, batch=3)


class Polite:
    """A judge that knows one thing, and cannot read replies of question marks."""

    def consistent(self, cases: Sequence[ReplyCase]) -> list[Consistency | ParseFailure]:
        return [
            ParseFailure("odd", c.principle.id)
            if "??" in c.reply
            else Consistency(2.0 if "please" in c.reply else -2.0, 1.0, c.principle.id)
            for c in cases
        ]


def made(*parts: dict, judge: object = None, model: ModelReward | None = None) -> RewardFn:
    spec = RewardSpec.model_validate({"parts": parts})
    with ExitStack() as stack:
        return compose(spec, Sources(T, model, judge), stack)  # pyright: ignore[reportArgumentType]


JUDGE = {"kind": "judge", "shots": 0, "min_mass": 0.0, "principles": 2}
CODE = {"kind": "code", "limits": {"seconds": 5}}
META = {"answer": "12", "tests": [{"call": "f(3)", "value": 6}]}

FUNCTIONS = {
    "model": lambda: MODEL,
    "judge": lambda: made(JUDGE | {"on_failure": "skip"}, judge=Polite()),
    "the model as judge": lambda: made(JUDGE, judge=Engine(tiny.model(max_position=4096), T)),
    "length": lambda: made({"kind": "length", "soft": 2, "hard": 30}),
    "repetition": lambda: made({"kind": "repetition", "n": 2}),
    "format": lambda: made({"kind": "format", "ended": True, "answer": True}),
    "math": lambda: made({"kind": "math"}),
    "a sum": lambda: made(
        {"kind": "model", "weight": 0.1}, {"kind": "math"}, {"kind": "length", "soft": 2, "hard": 30},
        JUDGE | {"on_failure": "penalty", "penalty": -1.0}, model=MODEL, judge=Polite(),
    ),
}  # fmt: skip

REPLIES = ("12", "please", "abababababab", "The answer is 12", "no", "a much longer reply than these", "x")


def mixed() -> list[Trajectory]:
    """Of many lengths, out of order, some cut off."""
    return [episode(r, prompt=i, question=f"q{i}", ended=i % 3 != 1, **META) for i, r in enumerate(REPLIES)]


def check_order(fn: RewardFn) -> None:
    """The same reward in any order, in any company, and alone."""
    episodes = mixed()
    whole = fn(episodes)
    assert len(whole) == len(episodes)
    for seed in range(4):
        order = random.Random(seed).sample(range(len(episodes)), len(episodes))
        for i, found in zip(order, fn([episodes[i] for i in order]), strict=True):
            assert found.value == pytest.approx(whole[i].value, abs=1e-5)
            assert found.parts == pytest.approx(whole[i].parts, abs=1e-5)
    for i, one in enumerate(episodes):
        assert fn([one])[0].value == pytest.approx(whole[i].value, abs=1e-5)
    assert fn([]) == []


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_episode_is_worth_the_same_in_any_order(name: str) -> None:
    check_order(FUNCTIONS[name]())


@CONTAINED
def test_programs_too() -> None:
    good, bad = "def f(x): return 2 * x", "def f(x): return x"
    episodes = [episode(c, prompt=i, **META) for i, c in enumerate((good, bad, good, "", bad))]
    fn = made(CODE)
    assert [r.value for r in fn(episodes)] == [1, 0, 1, 0, 0]
    assert [r.value for r in fn(episodes[::-1])] == [0, 0, 1, 0, 1]


BETTER = {
    "judge": ("Yes, please do.", "Go away."),
    "length": ("short", "long" * 10),
    "repetition": ("abcdefgh", "abababab"),
    "format": ("The answer is 12.", "12"),
    "math": ("The answer is 12.", "The answer is 13."),
    "a sum": ("please: 12", "no: 13, no: 13, no: 13"),
}


def check_better(name: str) -> None:
    """A reply known to be better is worth more: not the same (constant, or all accepted), not less."""
    good, bad = FUNCTIONS[name]()([episode(reply, **META) for reply in BETTER[name]])
    assert good.value > bad.value


@pytest.mark.parametrize("name", BETTER)
def test_the_better_reply_is_worth_more(name: str) -> None:
    check_better(name)
