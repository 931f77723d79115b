"""A judge as reward: does the reply keep to the constitution, asked by sampled principles.

Direct scoring, without a preference model between (Lee et al. 2023, RLAIF, arXiv 2309.00267, section 3.2.2):
any `ConsistencyJudge` will do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from publius.constitution.consistency import Consistency, ConsistencyConfig, ConsistencyJudge, ReplyCase
from publius.constitution.raw_text import visible
from publius.reward.guard import RewardError
from publius.reward.judging import JudgingRules, average, draw_principles
from publius.reward.reward_fn import Reward, Trajectory

__all__ = ["JudgePart", "JudgeReward"]


class JudgePart(JudgingRules, ConsistencyConfig):
    """The part `judge` of a reward: p(yes) that a reply keeps to its prompt's principles."""

    kind: Literal["judge"] = "judge"
    name: str = "judge"


class JudgeReward:
    """What `judge` says of each last reply, averaged over the principles drawn for its prompt.

    Thinking is not shown to the judge, nor are tool calls. `judge.failed` is the share of principles under
    which it could not be read.

    Raises:
        RewardError: for a reading that failed, with `on_failure="error"`.
    """

    def __init__(self, judge: ConsistencyJudge, part: JudgePart) -> None:
        self._judge, self._part = judge, part

    def __call__(self, trajectories: Sequence[Trajectory]) -> list[Reward]:
        part = self._part
        cases: list[ReplyCase] = []
        for trajectory in trajectories:
            said = trajectory.conversation.messages
            before = trajectory.conversation.model_copy(update={"messages": said[:-1]})
            drawn = draw_principles(part.constitution, before, part.principles, part.seed)
            cases += [ReplyCase(before, visible(said[-1]), principle) for principle in drawn]
        readings = self._judge.consistent(cases)
        if len(readings) != len(cases):
            raise RewardError(
                f"a judge gave {len(readings)} readings of {len(cases)} cases",
                where=f"part {part.name}",
                fix="give one reading for each case, in order",
            )
        k = part.principles
        rewards: list[Reward] = []
        for i, trajectory in enumerate(trajectories):
            mine = readings[i * k : (i + 1) * k]
            values = [self._value(r) for r in mine if isinstance(r, Consistency)]
            failures = [r for r in mine if not isinstance(r, Consistency)]
            rewards.append(average(part, part.name, trajectory.prompt, values, failures))
        return rewards

    def _value(self, reading: Consistency) -> float:
        return reading.probability if self._part.form == "probability" else reading.logit
