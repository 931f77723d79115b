"""The language-model loss and its measurement on held-out documents: shared by pretraining and SFT."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor

from publius.core.errors import UserError
from publius.model.likelihood import weighted_nll
from publius.model.transformer import Transformer
from publius.training.batches import Batch, PackedBatches
from publius.training.loop import LoopConfig, LossSum, to_device

__all__ = [
    "HeldOut",
    "LanguageConfig",
    "check_length",
    "held_out_loss",
    "language_loss",
    "steps_for",
    "summed_loss",
]


class LanguageConfig(LoopConfig):
    """How long and in what rows to train a language model. Give one of `epochs` and `tokens`; `steps`
    wins over both, so that `--set sft.steps=50` cuts any stage short."""

    steps: int | None = Field(default=None, ge=1)
    epochs: float | None = Field(default=None, gt=0)
    tokens: int | None = Field(default=None, ge=1)
    batch_tokens: int = Field(default=2048, ge=1)
    """Places in a batch, padding counted; `accumulation` batches make a step."""
    sequence_length: int = Field(default=256, ge=2)
    eval_tokens: int = Field(default=200_000, ge=1)
    """Held-out tokens measured (whole documents, from the first)."""

    @model_validator(mode="after")
    def _one_length(self) -> LanguageConfig:
        given = [name for name in ("epochs", "tokens") if getattr(self, name) is not None]
        if self.steps is None and len(given) != 1:
            raise ValueError(f"give steps, or exactly one of epochs and tokens (given: {given or 'none'})")
        if self.batch_tokens < self.sequence_length:
            raise ValueError(
                f"batch_tokens {self.batch_tokens} is less than one row of {self.sequence_length}"
            )
        return self

    @property
    def rows(self) -> int:
        """Rows in a batch."""
        return self.batch_tokens // self.sequence_length

    @property
    def step_tokens(self) -> int:
        """Places in a step."""
        return self.accumulation * self.rows * self.sequence_length

    def planned_tokens(self) -> int | None:
        """Tokens the model will read, when that does not depend on the data."""
        if self.steps is not None:
            return self.steps * self.step_tokens
        return self.tokens


class HeldOut(NamedTuple):
    """Sums over held-out documents."""

    nll: float
    """Weighted nats."""
    weight: float
    """Weighted tokens."""


def language_loss(model: Transformer, batch: Batch) -> LossSum:
    """Weighted cross-entropy of a packed batch; documents do not see each other.

    The head works only where a weight is positive, so prompts and padding cost no logits.
    """
    hidden_BTD = model.hidden(batch.tokens_BT, positions_BT=batch.positions_BT, packing=batch.packing)
    return summed_loss(model, hidden_BTD, batch.targets_BT, batch.weights_BT, batch.trained_N)


def summed_loss(
    model: Transformer, hidden_BTD: Tensor, targets_BT: Tensor, weights_BT: Tensor, trained_N: Tensor
) -> LossSum:
    """Weighted cross-entropy of the places `trained_N` (of the flattened rows); others cost no head."""
    weights_N, targets_N = weights_BT.flatten()[trained_N], targets_BT.flatten()[trained_N]
    trained_ND = hidden_BTD.flatten(0, 1).index_select(0, trained_N)
    total = weighted_nll(trained_ND, model.head_weight, targets_N, weights_N, compiled=model.compiled_loss)
    return LossSum(total, weights_N.sum(), targets_BT.numel())


@torch.no_grad()
def held_out_loss(model: Transformer, batches: Iterable[Batch]) -> HeldOut:
    """Total weighted loss of `model` over `batches`, with whatever precision its weights have."""
    nll = weight = 0.0
    for batch in batches:
        part = language_loss(model, to_device(batch, model.device))
        nll, weight = nll + float(part.total), weight + float(part.denominator)
    return HeldOut(nll, weight)


def steps_for(config: LanguageConfig, batches: PackedBatches) -> int:
    """Optimizer steps from whichever of `steps`, `epochs` and `tokens` is given."""
    if config.steps is not None:
        return config.steps
    if config.epochs is not None:
        return max(1, round(config.epochs * batches.steps_per_epoch / config.accumulation))
    return max(1, round((config.tokens or 0) / config.step_tokens))


def check_length(sequence_length: int, max_position: int, where: str) -> None:
    """Rows must fit the model's positions.

    Raises:
        UserError: when they do not.
    """
    if sequence_length > max_position:
        raise UserError(
            f"sequence_length {sequence_length} is more than the model's max_position {max_position}",
            where=where,
            fix="shorten sequence_length, or give the model a larger max_position",
        )
