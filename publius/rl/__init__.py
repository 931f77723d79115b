"""Reinforcement learning: environments, rollouts, advantages, and PPO with a KL to the start."""

from publius.rl.environment import ChatEnvironment, Environment, ToolEnvironment
from publius.rl.ppo import PPOConfig, ppo
from publius.rl.rollout import rollout

__all__ = ["ChatEnvironment", "Environment", "PPOConfig", "ToolEnvironment", "ppo", "rollout"]
