"""The model: one definition that trains, rolls out and serves; its heads, checkpoints and cost."""

from publius.model.checkpoint import (
    Checkpoint,
    RewardCheckpoint,
    load_model,
    load_reward_model,
    save_checkpoint,
    save_reward_checkpoint,
)
from publius.model.config import ModelConfig, Scale, Tier, preset
from publius.model.heads import RewardModel, ValueModel
from publius.model.likelihood import logprobs, token_nll, weighted_nll
from publius.model.parallel import plan_model
from publius.model.transfer import ImportConfig, export_checkpoint, import_checkpoint, import_model
from publius.model.transformer import Transformer

__all__ = [
    "Checkpoint",
    "ImportConfig",
    "ModelConfig",
    "RewardCheckpoint",
    "RewardModel",
    "Scale",
    "Tier",
    "Transformer",
    "ValueModel",
    "export_checkpoint",
    "import_checkpoint",
    "import_model",
    "load_model",
    "load_reward_model",
    "logprobs",
    "plan_model",
    "preset",
    "save_checkpoint",
    "save_reward_checkpoint",
    "token_nll",
    "weighted_nll",
]
