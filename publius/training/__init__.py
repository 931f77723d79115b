"""Training: packed batches, Muon and AdamW, one loop; pretraining and supervised fine-tuning on it."""

from publius.model.likelihood import logprobs
from publius.training.batches import Batch, BatchSource, Example, PackedBatches, ShuffledBatches, pack
from publius.training.loop import LoopConfig, LoopResult, LossSum, train_loop
from publius.training.optimizer import OptimizerConfig, Optimizers, build_optimizers, schedule
from publius.training.pretrain import PretrainConfig, predict_pretrain, pretrain
from publius.training.sft import SFTConfig, predict_sft, sft

__all__ = [
    "Batch",
    "BatchSource",
    "Example",
    "LoopConfig",
    "LoopResult",
    "LossSum",
    "OptimizerConfig",
    "Optimizers",
    "PackedBatches",
    "PretrainConfig",
    "SFTConfig",
    "ShuffledBatches",
    "build_optimizers",
    "logprobs",
    "pack",
    "predict_pretrain",
    "predict_sft",
    "pretrain",
    "schedule",
    "sft",
    "train_loop",
]
