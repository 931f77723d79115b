"""Saved states in parts: every rank writes and reads its own, through torch's distributed checkpoints.

In their safetensors form: the default form keeps a pickle. Read by any number of ranks, and by one process
without any (`state.load_state`).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from publius.training.state import demand, random_state, read_words, restore_random, write_words

__all__ = ["load_shards", "save_shards"]


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
        write_words(folder, words)
    writer = HuggingFaceStorageWriter(path=str(folder), save_distributed=True)
    saving: Any = async_save(state | random_state(), storage_writer=writer, process_group=group)
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
    demand(folder, [name for name in state if not name.startswith("optimizer.adamw.")], found)
    asked = {name: value for name, value in (state | random_state()).items() if name in found}
    load(asked, storage_reader=HuggingFaceStorageReader(str(folder)), process_group=group)
    restore_random(asked)
    return read_words(folder)
