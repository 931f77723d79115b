"""Averages of fine-tuned models: what they agree on stays, what one of them forgot comes back.

Models fine-tuned from one start lie in one basin, where the mean of their weights is as good a model as any
of them, and often better (Wortsman et al. 2022, arXiv 2203.05482); between an aligned policy and its start
it keeps the reward and brings back what alignment cost (Ramé et al. 2024, arXiv 2406.16768). Models that
share no start do not average to anything.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field

from publius.core.config import Config
from publius.core.errors import UserError
from publius.model.checkpoint import Checkpoint, save_checkpoint
from publius.pipeline import Run, stage

__all__ = ["AverageConfig", "average"]


class AverageConfig(Config):
    """How much of each model."""

    weights: tuple[float, ...] = Field(default=())
    """A share of each, in order, any scale; none gives equal shares."""


@stage(version=1)
def average(run: Run, config: AverageConfig, *, models: list[Checkpoint]) -> Checkpoint:
    """The weighted mean of the models' parameters, in fp32, with the first one's tokenizer.

    Raises:
        UserError: for weights that do not fit the models, and models of different shapes or tokenizers.
    """
    shares = _shares(config, len(models))
    first = models[0]
    _same_kind(models)
    mean = first.load()
    with torch.no_grad():
        for parameter in mean.parameters():
            parameter.mul_(shares[0])
        for checkpoint, share in zip(models[1:], shares[1:], strict=True):  # one at a time: they may be large
            for parameter, other in zip(mean.parameters(), checkpoint.load().parameters(), strict=True):
                parameter.add_(other, alpha=share)
    save_checkpoint(run.output, mean, first.tokenizer())
    return Checkpoint(run.output)


def _shares(config: AverageConfig, models: int) -> list[float]:
    weights = config.weights or (1.0,) * models
    if len(weights) != models or min(weights, default=-1.0) < 0 or sum(weights) <= 0:
        raise UserError(
            f"{models} models, weights {list(weights)}",
            where="average.weights",
            fix="give one weight >= 0 for each model, in order, not all 0; or none",
        )
    return [weight / sum(weights) for weight in weights]


def _same_kind(models: Sequence[Checkpoint]) -> None:
    first = models[0]
    for other in models[1:]:
        for what, same in (
            ("shape", other.config() == first.config()),
            ("tokenizer", _tokenizer(other) == _tokenizer(first)),
        ):
            if not same:
                raise UserError(
                    f"{other.path} and {first.path} differ in their {what}",
                    where="average: models",
                    fix="average models that were fine-tuned from one start",
                )


def _tokenizer(checkpoint: Checkpoint) -> bytes:
    return checkpoint.file("tokenizer.json").read_bytes()
