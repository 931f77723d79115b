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
from publius.model.memory import Memory, training_memory
from publius.model.parallel import Layout, choose_layout, meta_model
from publius.model.transfer import ImportConfig, export_checkpoint, import_checkpoint, import_model
from publius.model.transformer import Transformer

__all__ = [
    "Checkpoint",
    "ImportConfig",
    "Layout",
    "Memory",
    "ModelConfig",
    "RewardCheckpoint",
    "RewardModel",
    "Scale",
    "Tier",
    "Transformer",
    "ValueModel",
    "choose_layout",
    "export_checkpoint",
    "import_checkpoint",
    "import_model",
    "load_model",
    "load_reward_model",
    "logprobs",
    "meta_model",
    "preset",
    "save_checkpoint",
    "save_reward_checkpoint",
    "token_nll",
    "training_memory",
    "weighted_nll",
]
