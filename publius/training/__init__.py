"""Training: packed batches, Muon and AdamW, one loop; pretraining and supervised fine-tuning on it."""

from publius.model.likelihood import logprobs
from publius.training.batches import Batch, BatchSource, Example, PackedBatches, ShuffledBatches, pack
from publius.training.distributed import ParallelConfig
from publius.training.loop import LoopConfig, LoopResult, LossSum, train_loop
from publius.training.optimizer import OptimizerConfig, Optimizers, build_optimizers, schedule
from publius.training.plan import TrainingPlan, plan_training
from publius.training.pretrain import PretrainConfig, predict_pretrain, pretrain
from publius.training.scaling import Derived, derive, pretrain_config
from publius.training.sft import SFTConfig, predict_sft, sft

__all__ = [
    "Batch",
    "BatchSource",
    "Derived",
    "Example",
    "LoopConfig",
    "LoopResult",
    "LossSum",
    "OptimizerConfig",
    "Optimizers",
    "PackedBatches",
    "ParallelConfig",
    "PretrainConfig",
    "SFTConfig",
    "ShuffledBatches",
    "TrainingPlan",
    "build_optimizers",
    "derive",
    "logprobs",
    "pack",
    "plan_training",
    "predict_pretrain",
    "predict_sft",
    "pretrain",
    "pretrain_config",
    "schedule",
    "sft",
    "train_loop",
]
