"""Reward: preference models, and what turns a finished episode into a number."""

from publius.reward.code_reward import CodePart, CodeReward
from publius.reward.comparison_reward import ComparisonPart, ComparisonReward, StartReplies
from publius.reward.compose import ModelPart, RewardSpec, Sources, compose
from publius.reward.format_reward import FormatPart, FormatReward
from publius.reward.guard import RewardError
from publius.reward.judge_reward import JudgePart, JudgeReward
from publius.reward.math_reward import MathPart, MathReward
from publius.reward.reward_fn import (
    ModelReward,
    Part,
    Reward,
    RewardFn,
    Trajectory,
    VerifierReward,
    WeightedReward,
)
from publius.reward.reward_judge import RewardJudge, evaluate_reward_judge, label_by_reward
from publius.reward.reward_model import RewardConfig, train_reward
from publius.reward.shaping import LengthPart, LengthReward, RepetitionPart, RepetitionReward

__all__ = [
    "CodePart",
    "CodeReward",
    "ComparisonPart",
    "ComparisonReward",
    "FormatPart",
    "FormatReward",
    "JudgePart",
    "JudgeReward",
    "LengthPart",
    "LengthReward",
    "MathPart",
    "MathReward",
    "ModelPart",
    "ModelReward",
    "Part",
    "RepetitionPart",
    "RepetitionReward",
    "Reward",
    "RewardConfig",
    "RewardError",
    "RewardFn",
    "RewardJudge",
    "RewardSpec",
    "Sources",
    "StartReplies",
    "Trajectory",
    "VerifierReward",
    "WeightedReward",
    "compose",
    "evaluate_reward_judge",
    "label_by_reward",
    "train_reward",
]
