"""One training spread over the ranks of a job; `training.alone` is the same for one process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from publius.training.batches import BatchSource
from publius.training.distributed.context import ContextParallel
from publius.training.distributed.layout import ParallelConfig
from publius.training.distributed.muon import ShardedMuon
from publius.training.distributed.parts import load_shards, save_shards
from publius.training.distributed.ranks import Ranks, current_ranks
from publius.training.distributed.shard import ShardedModel
from publius.training.optimizer import OptimizerConfig, Optimizers, divide
from publius.training.twin import Twin

__all__ = ["Session", "join_session"]

_L = TypeVar("_L")


class Session:
    """The sharded model, its optimizers, and this rank's part in each step.

    Args:
        model: whole, with the same weights on every rank; sharded in place until `close`.
        source: from now on makes this rank's rows only.
        ranks: of the job.
        config: of the optimizers.
        dtype: of the computing.
        device: of this rank.
    """

    compiles = False
    """`compile="auto"` leaves a sharded model as it is."""
    dtype = torch.float32
    """Shards are cast where they are gathered: there is no copy in another dtype."""

    def __init__(
        self,
        model: nn.Module,
        source: BatchSource[Any],
        ranks: Ranks,
        config: OptimizerConfig,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.ranks, self._device = ranks, device
        source.share(ranks.data_index, ranks.layout.data)
        self._context = ContextParallel(model, ranks) if ranks.layout.context > 1 else None
        self._sharded = ShardedModel(model, ranks, dtype, device)
        self._module: nn.Module = model if self._context is None else self._context
        pieces = self._sharded.pieces
        inside, rest = divide({name: piece.local for name, piece in pieces.items()}, config)
        matrices = {name: pieces[name] for name in inside}
        muon = ShardedMuon(matrices, config, ranks.replica_group) if matrices else None
        self.optimizers = Optimizers(rest, muon, config)

    def share(self, batch: Any) -> Any:
        """This rank's stretch of the rows of a batch; made before it goes to the device, which would have to
        be waited for.

        Raises:
            UserError: when the rows cannot be shared so.
        """
        return batch if self._context is None else self._context.share(batch)

    def loss(self, loss: Callable[[Any, Any], _L], twin: Twin, batch: Any) -> _L:
        """The loss of what `share` left, by the module that computes."""
        return loss(self._module, batch)

    def gradients(self, twin: Twin) -> list[Tensor]:
        """This rank's parts of the gradients, for the optimizers; call once, after backward."""
        return self._sharded.collect()

    def sums(
        self, gradients: list[Tensor], total: Tensor, denominator: Tensor, tokens: int
    ) -> tuple[float, float, float, int]:
        """Of all ranks: loss, weight, the gradient's norm, and tokens; one read from the device.

        Ranks that share matrices saw the same places, and counted them each.
        """
        layout = self.ranks.layout
        mine = torch.stack((total.float(), denominator.float(), self._sharded.square_sum().to(total.device)))
        loss, weight, squares, read = self.ranks.sum(*mine.tolist(), float(tokens))
        return loss / layout.tensor, weight / layout.tensor, squares**0.5, round(read / layout.tensor)

    def save(self, folder: Path, words: dict[str, Any]) -> Callable[[], None]:
        """Begin to write this rank's part of the state; the result waits for all ranks' to be written."""
        return save_shards(folder, self._state(self.optimizers.tensors()), words, self.ranks.saving)

    def load(self, folder: Path) -> dict[str, Any]:
        """Take this rank's part of a state written by any number of ranks."""
        blank = {
            f"adamw.{key}.{name}": torch.zeros(1) if key == "step" else torch.zeros_like(local)
            for name, local in self.optimizers.rest.items()
            for key in ("step", "exp_avg", "exp_avg_sq")
        }
        tensors = self.optimizers.tensors() | blank
        words = load_shards(folder, self._state(tensors), self.ranks.saving)
        if words["progress"]["step"] > words["guard"]["skipped"]:  # else AdamW has no moments yet
            self.optimizers.restore(tensors)
        return words

    def _state(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights and moments under their names, as parts of whole tensors."""
        pieces = self._sharded.pieces
        state: dict[str, Tensor] = {f"model.{n}": p.like(p.local.detach()) for n, p in pieces.items()}
        for name, value in tensors.items():
            kind, _, rest = name.partition(".")
            key, owner = ("", rest) if kind == "muon" else (rest.partition(".")[0], rest.partition(".")[2])
            state[f"optimizer.{name}"] = value if key == "step" else pieces[owner].like(value)
        return state

    def close(self, *, failed: bool) -> None:
        """Give the model back: whole on rank 0, empty elsewhere; after a failure the shards stay."""
        if not failed:
            self._sharded.restore()
            self.ranks.close()


def join_session(
    model: nn.Module,
    source: BatchSource[Any],
    parallel: ParallelConfig,
    config: OptimizerConfig,
    dtype: torch.dtype,
    device: torch.device,
) -> Session | None:
    """Spread a training over the ranks of the present job; None where this process works alone.

    Raises:
        UserError: when layout, model and batch do not go together.
    """
    ranks = current_ranks(parallel, device)
    return None if ranks is None else Session(model, source, ranks, config, dtype, device)
