"""Reinforcement learning: environments, rollouts, advantages, PPO with a KL to the start; DPO beside it."""

from publius.rl.dpo import DPOConfig, dpo
from publius.rl.environment import ChatEnvironment, Environment, ToolEnvironment
from publius.rl.ppo import PPOConfig, ppo
from publius.rl.rollout import rollout

__all__ = [
    "ChatEnvironment",
    "DPOConfig",
    "Environment",
    "PPOConfig",
    "ToolEnvironment",
    "dpo",
    "ppo",
    "rollout",
]
