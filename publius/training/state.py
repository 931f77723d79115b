"""What a training loop saves: weights, moments and random state as safetensors, the rest as JSON.

One process writes `state.safetensors`; several write a shard each. Either is read by any number of
processes: tensors have the names of a checkpoint, whatever the layout in memory. Shards go through torch's
distributed checkpoints in their safetensors form; its default form keeps a pickle.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from publius.core.errors import UserError
from publius.model.fused import fused_parts, split_weights
from publius.training.optimizer import Optimizers

__all__ = ["load_shards", "load_state", "save_shards", "save_state"]

_ONE = "state.safetensors"
_WORDS = "state.json"


def save_state(folder: Path, model: nn.Module, optimizers: Optimizers, words: dict[str, Any]) -> None:
    """Write everything a resumed loop needs into `folder`; `words` are JSON-able facts of the caller."""
    state = {f"model.{name}": value for name, value in split_weights(model).items()}
    state |= {f"optimizer.{name}": value for name, value in optimizers.tensors().items()} | _random()
    save_file({n: v.detach().cpu().contiguous().clone() for n, v in state.items()}, folder / _ONE)
    _write_words(folder, words)


def load_state(folder: Path, model: nn.Module, optimizers: Optimizers) -> dict[str, Any]:
    """Put weights, moments and random state back in place; returns the facts.

    Raises:
        UserError: when the state is another model's.
    """
    state = load_file(folder / _ONE) if (folder / _ONE).exists() else _read_whole(folder)
    weights, fused = dict(model.named_parameters()), fused_parts(model)
    with torch.no_grad():
        for name, parameter in weights.items():
            parts = [part.name for part in fused.get(name, ())] or [name]
            _demand(folder, [f"model.{part}" for part in parts], state)
            parameter.copy_(torch.cat([state[f"model.{part}"] for part in parts]).reshape(parameter.shape))
    optimizers.restore(_without_prefix(state))
    _restore_random(state)
    return _read_words(folder)


def save_shards(
    folder: Path, state: dict[str, Tensor], words: dict[str, Any], group: dist.ProcessGroup
) -> Callable[[], None]:
    """Begin to write this rank's part of `state`; call the result to wait until every rank has written.

    The tensors are copied before this returns, and written in a thread: training can go on.

    Args:
        folder: one for all ranks, on a disk they share.
        state: DTensors, or plain tensors that are the same on every rank.
        words: as `save_state`; rank 0's are written.
        group: of all ranks, used by nothing else meanwhile.
    """
    if dist.get_rank() == 0:
        _write_words(folder, words)
    writer = HuggingFaceStorageWriter(path=str(folder), save_distributed=True)
    saving: Any = async_save(state | _random(), storage_writer=writer, process_group=group)
    future: Future[Any] = saving

    def wait() -> None:
        future.result()

    return wait


def load_shards(folder: Path, state: dict[str, Tensor], group: dist.ProcessGroup) -> dict[str, Any]:
    """Fill the tensors of `state` in place, each rank its own part; returns the facts.

    AdamW's moments stay as they are when the state has none yet (no step was made before it was saved).

    Raises:
        UserError: when the state is another model's.
    """
    found = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    _demand(folder, [name for name in state if not name.startswith("optimizer.adamw.")], found)
    asked = {name: value for name, value in (state | _random()).items() if name in found}
    load(asked, storage_reader=HuggingFaceStorageReader(str(folder)), process_group=group)
    _restore_random(asked)
    return _read_words(folder)


def _read_whole(folder: Path) -> dict[str, Tensor]:
    """All of a state that several ranks wrote."""
    reader = HuggingFaceStorageReader(str(folder))
    state: dict[str, Any] = {}
    for name, facts in reader.read_metadata().state_dict_metadata.items():
        known: Any = facts
        state[name] = torch.empty(known.size, dtype=known.properties.dtype)
    load(state, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    return state


def _demand(folder: Path, wanted: Any, found: Any) -> None:
    missing = sorted(set(wanted) - set(found))
    if missing:
        raise UserError(
            f"the saved state has no {missing[0]}: it is of another model or an older version",
            where=str(folder),
            fix="delete the unfinished artifact (its .partial folder) and run again: the stage starts over",
        )


def _without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix("optimizer."): v for n, v in state.items() if n.startswith("optimizer.")}


def _random() -> dict[str, Tensor]:
    state = {"rng.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["rng.cuda"] = torch.cuda.get_rng_state()
    return state


def _restore_random(state: dict[str, Tensor]) -> None:
    torch.set_rng_state(state["rng.cpu"])
    if "rng.cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["rng.cuda"])


def _write_words(folder: Path, words: dict[str, Any]) -> None:
    (folder / _WORDS).write_text(json.dumps(words), encoding="utf-8")


def _read_words(folder: Path) -> dict[str, Any]:
    return json.loads((folder / _WORDS).read_text(encoding="utf-8"))
