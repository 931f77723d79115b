"""Training: packed batches, Muon and AdamW, one loop; pretraining, extension and fine-tuning on it."""

from publius.model.likelihood import logprobs
from publius.training.average import AverageConfig, average
from publius.training.batches import Batch, BatchSource, Example, PackedBatches, ShuffledBatches, pack
from publius.training.distill import DistillConfig, distill
from publius.training.distributed import ParallelConfig
from publius.training.extend import ExtendConfig, Phase, extend, predict_extend
from publius.training.long_rows import LongBatch, LongBatches
from publius.training.lookup import LookupConfig
from publius.training.loop import LoopConfig, LoopResult, LossSum, train_loop
from publius.training.optimizer import OptimizerConfig, Optimizers, build_optimizers, schedule
from publius.training.plan import TrainingPlan, plan_training
from publius.training.pretrain import PretrainConfig, predict_pretrain, pretrain
from publius.training.scaling import Derived, derive, pretrain_config
from publius.training.sft import SFTConfig, predict_sft, sft
from publius.training.teach import InventConfig, TeachConfig, invent_prompts, teach_answers

__all__ = [
    "AverageConfig",
    "Batch",
    "BatchSource",
    "Derived",
    "DistillConfig",
    "Example",
    "ExtendConfig",
    "InventConfig",
    "LongBatch",
    "LongBatches",
    "LookupConfig",
    "LoopConfig",
    "LoopResult",
    "LossSum",
    "OptimizerConfig",
    "Optimizers",
    "PackedBatches",
    "ParallelConfig",
    "Phase",
    "PretrainConfig",
    "SFTConfig",
    "ShuffledBatches",
    "TeachConfig",
    "TrainingPlan",
    "average",
    "build_optimizers",
    "derive",
    "distill",
    "extend",
    "invent_prompts",
    "logprobs",
    "pack",
    "plan_training",
    "predict_extend",
    "predict_pretrain",
    "predict_sft",
    "pretrain",
    "pretrain_config",
    "schedule",
    "sft",
    "teach_answers",
    "train_loop",
]
