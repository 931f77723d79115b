"""Reward: preference models, and what turns a finished episode into a number."""

from publius.reward.reward_fn import ModelReward, Reward, RewardFn, Trajectory, VerifierReward, WeightedReward
from publius.reward.reward_model import RewardConfig, train_reward

__all__ = [
    "ModelReward",
    "Reward",
    "RewardConfig",
    "RewardFn",
    "Trajectory",
    "VerifierReward",
    "WeightedReward",
    "train_reward",
]
