"""Reward: preference models, and what turns a finished episode into a number."""

from publius.reward.reward_fn import ModelReward, Reward, RewardFn, Trajectory, VerifierReward, WeightedReward
from publius.reward.reward_judge import RewardJudge, evaluate_reward_judge, label_by_reward
from publius.reward.reward_model import RewardConfig, train_reward

__all__ = [
    "ModelReward",
    "Reward",
    "RewardConfig",
    "RewardFn",
    "RewardJudge",
    "Trajectory",
    "VerifierReward",
    "WeightedReward",
    "evaluate_reward_judge",
    "label_by_reward",
    "train_reward",
]
