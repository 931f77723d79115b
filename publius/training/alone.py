"""One process that trains by itself; `distributed.session` is the same for a rank of a job.

The loop asks either of them for what differs: where gradients are, what their sums over all processes are,
and how a state is written and read.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from publius.training.optimizer import OptimizerConfig, build_optimizers
from publius.training.state import load_state, save_state
from publius.training.twin import Twin

__all__ = ["Alone"]

_B = TypeVar("_B")
_L = TypeVar("_L")


class Alone:
    """The whole model, its optimizers, and every row of each batch.

    Args:
        model: moved to `device`.
        config: of the optimizers.
        dtype: of the computing.
        device: of the model.
    """

    compiles = True
    """Whether `compile="auto"` may compile."""

    def __init__(
        self, model: nn.Module, config: OptimizerConfig, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._model, self.dtype = model.to(device), dtype
        self.optimizers = build_optimizers(model, config)

    def share(self, batch: _B) -> _B:
        """What this process computes of a batch: all."""
        return batch

    def loss(self, loss: Callable[[Any, Any], _L], twin: Twin, batch: Any) -> _L:
        """The loss of a batch, by the module that computes."""
        return loss(twin.module, batch)

    def gradients(self, twin: Twin) -> list[Tensor]:
        """Of the masters, after backward."""
        return twin.gradients()

    def sums(
        self, gradients: list[Tensor], total: Tensor, denominator: Tensor, tokens: int
    ) -> tuple[float, float, float, int]:
        """Loss, weight, the gradient's norm, and tokens; one read from the device."""
        norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
        loss, weight, length = torch.stack((total.float(), denominator.float(), norm.float())).tolist()
        return loss, weight, length, tokens

    def save(self, folder: Path, words: dict[str, Any]) -> None:
        """Write the state."""
        save_state(folder, self._model, self.optimizers, words)

    def load(self, folder: Path) -> dict[str, Any]:
        """Put a state back, written by any number of processes; returns its facts."""
        return load_state(folder, self._model, self.optimizers)

    def close(self, *, failed: bool) -> None:
        """Nothing to give back."""
