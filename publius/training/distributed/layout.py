"""How the ranks of a job share one training, and the checks that they can."""

from __future__ import annotations

import os
from typing import NamedTuple

from pydantic import Field

from publius.core.config import Config
from publius.core.errors import UserError
from publius.model.config import ModelConfig

__all__ = ["ParallelConfig", "Sizes", "check_model", "in_job", "sizes"]


class ParallelConfig(Config):
    """How many ranks do what; the product is the number of ranks. In one process nothing of this counts.

    None of it changes what is trained: batch, curve and result are those of one process, up to rounding.
    """

    shard: int = Field(default=0, ge=0)
    """Ranks that share one copy of weights, gradients and moments (FSDP2), each with rows of its own;
    0 is all that the others leave."""
    replicate: int = Field(default=1, ge=1)
    """Copies of that state, summed once a step (HSDP)."""
    tensor: int = Field(default=1, ge=1)
    """Ranks that share each matrix of a block, over the same rows (tensor parallel). Divides the key/value
    heads; belongs inside one machine."""
    context: int = Field(default=1, ge=1)
    """Ranks that share each row, a stretch of its places each (context parallel); they share state too."""
    timeout_seconds: float = Field(default=50.0, gt=0)
    """How long a rank waits for the others before it gives the job up."""


class Sizes(NamedTuple):
    """The layout of a job, all numbers known. Neighbouring ranks differ in `tensor` first, then in
    `context`, then in `shard`: what talks most is nearest."""

    replicate: int
    shard: int
    context: int
    tensor: int

    @property
    def data(self) -> int:
        """Groups of ranks with rows of their own."""
        return self.replicate * self.shard


def sizes(config: ParallelConfig, ranks: int) -> Sizes:
    """The layout of a job of `ranks`.

    Raises:
        UserError: when the product cannot be `ranks`.
    """
    fixed = config.replicate * config.context * config.tensor
    shard = config.shard or ranks // fixed
    if shard * fixed != ranks or not shard:
        parts = f"replicate {config.replicate} x context {config.context} x tensor {config.tensor}"
        parts += f" x shard {config.shard}" if config.shard else ""
        raise UserError(
            f"{parts} does not make {ranks} ranks",
            where="parallel",
            fix="give factors of the number of ranks, and shard=0 for what they leave",
        )
    return Sizes(config.replicate, shard, config.context, config.tensor)


def check_model(layout: Sizes, model: ModelConfig) -> None:
    """Can a model of this shape be laid out so?

    Raises:
        UserError: when `tensor` does not divide its heads or its feed-forward.
    """
    parts = {"kv_heads": model.kv_heads, "heads": model.heads, "intermediate_size": model.intermediate_size}
    for name, value in parts.items():
        if value % layout.tensor:
            raise UserError(
                f"tensor parallel {layout.tensor} does not divide the model's {name}, {value}",
                where="parallel.tensor",
                fix="use a divisor of all of " + ", ".join(f"{n} ({v})" for n, v in parts.items()),
            )


def in_job() -> bool:
    """Was this process started as one of several (by torchrun, or by `publius run --nproc`)?"""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ
