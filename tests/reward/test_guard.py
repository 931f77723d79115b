from __future__ import annotations

import math

import pytest

from publius.reward.guard import RewardError, part_means, sift
from publius.reward.reward_fn import Reward
from tests.reward.episodes import episode

EPISODES = [episode(str(i), prompt=i // 2) for i in range(4)]
FINE = [Reward(float(i), {"a": float(i)}) for i in range(4)]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_error_names_prompt_part_and_step(bad: float) -> None:
    rewards = [*FINE[:3], Reward(bad, {"a": 1.0, "b": bad})]
    with pytest.raises(RewardError, match=f"the reward of a reply to prompt 1 is {bad}") as error:
        sift(EPISODES, rewards, "error", "step 7")
    assert error.value.where == "step 7, part b" and "on_nan=skip" in error.value.fix


def test_skip_leaves_out_and_counts() -> None:
    rewards = [FINE[0], Reward(math.nan, {"a": math.nan}), FINE[2], FINE[3]]
    found = sift(EPISODES, rewards, "skip", "step 7")
    assert found.skipped == 1
    assert found.trajectories == [EPISODES[0], EPISODES[2], EPISODES[3]]
    assert [r.value for r in found.rewards] == [0.0, 2.0, 3.0]


@pytest.mark.parametrize("on_nan", ["error", "skip"])
def test_a_part_that_was_told_to_skip_is_no_error(on_nan) -> None:
    rewards = [FINE[0], Reward(math.nan, {"judge": math.nan}, "judge: unreadable"), FINE[2], FINE[3]]
    assert sift(EPISODES, rewards, on_nan, "step 7").skipped == 1


def test_nothing_left_is_an_error() -> None:
    rewards = [Reward(math.nan, {}, "judge: unreadable")] * 4
    with pytest.raises(RewardError, match="none of 4 replies has a reward: judge: unreadable"):
        sift(EPISODES, rewards, "skip", "step 7")
    with pytest.raises(RewardError, match="none is finite"):
        sift(EPISODES, [Reward(math.nan, {})] * 4, "skip", "step 7")


def test_one_reward_an_episode() -> None:
    with pytest.raises(RewardError, match="gave 3 rewards for 4 episodes"):
        sift(EPISODES, FINE[:3], "skip", "step 7")


def test_part_means_are_over_those_that_have_it() -> None:
    rewards = [Reward(0, {"a": 1.0, "b": 4.0}), Reward(0, {"a": 3.0}), Reward(0, {"a": math.nan})]
    assert part_means(rewards) == {"a": 2.0, "b": 4.0}
