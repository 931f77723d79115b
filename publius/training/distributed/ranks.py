"""The ranks of a job: who they are, their groups, and how they agree."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import Store  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from publius.training.distributed.layout import ParallelConfig, Sizes, sizes

__all__ = ["Link", "Ranks", "backend", "current_ranks"]


def backend() -> str:
    """gloo between CPUs (control and saved states, also on a GPU), NCCL between GPUs."""
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"


class Link:
    """What rank 0 tells the others, in order. Text through the job's store: no pickle, and no group needed.

    Args:
        store: shared by the ranks of the job; each keeps its own place in the sequence.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._told = self._heard = 0

    def tell(self, text: str) -> None:
        """Rank 0: the next message."""
        self._told += 1
        self.store.set(f"told-{self._told}", text)

    def hear(self, wait: timedelta) -> str:
        """Another rank: the next message, waited for.

        Raises:
            DistStoreError: when none came in time.
        """
        key = f"told-{self._heard + 1}"
        self.store.wait([key], wait)
        self._heard += 1
        return self.store.get(key).decode()


class Ranks:
    """This process's place among the ranks, for one training.

    Attributes:
        layout: sizes in every direction.
        mesh: replicate x shard x tensor, where `shard` holds the context ranks too: they own different
            shards of the state, as ranks with other rows do.
        context_group: ranks that share my rows; None without context parallelism.
        tensor_group: ranks that share my matrices; None without tensor parallelism.
        replica_group: ranks that together hold one copy of the state.
        saving: a group of its own for saved states, which are written beside the training.
    """

    def __init__(self, config: ParallelConfig, device: torch.device) -> None:
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.layout: Sizes = sizes(config, self.world)
        replicate, shard, context, tensor = self.layout
        names = ("replicate", "shard", "tensor")
        self.mesh: DeviceMesh = init_device_mesh(
            device.type, (replicate, shard * context, tensor), mesh_dim_names=names
        )
        self.context_group = self.tensor_group = None
        if tensor > 1:
            self.tensor_group = self.mesh["tensor"].get_group()
        if context > 1:
            names = ("data", "context", "tensor")
            apart = init_device_mesh(device.type, (replicate * shard, context, tensor), mesh_dim_names=names)
            self.context_group = apart["context"].get_group()
        self.replica_group: dist.ProcessGroup = self._replicas(replicate)
        patience = timedelta(seconds=config.timeout_seconds)
        self._control: Any = dist.new_group(backend="gloo", timeout=patience)
        self.saving: Any = dist.new_group(backend="gloo", timeout=patience)

    def _replicas(self, count: int) -> dist.ProcessGroup:
        size = self.world // count
        groups: list[Any] = [dist.new_group(list(range(i * size, (i + 1) * size))) for i in range(count)]
        return groups[self.rank // size]

    @property
    def data_index(self) -> int:
        """Which share of the rows is mine."""
        return self.rank // (self.layout.context * self.layout.tensor)

    @property
    def context_index(self) -> int:
        """Which stretch of each row is mine."""
        return self.rank // self.layout.tensor % self.layout.context

    def sum(self, *numbers: float) -> list[float]:
        """Each number, summed over all ranks."""
        added = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(added, group=self._control)
        return added.tolist()

    def close(self) -> None:
        """Give the groups back that only this training used."""
        dist.destroy_process_group(self._control)
        dist.destroy_process_group(self.saving)


def current_ranks(config: ParallelConfig, device: torch.device) -> Ranks | None:
    """The ranks of the present job; None where this process works alone.

    Raises:
        UserError: when the layout does not fit their number.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return None
    return Ranks(config, device)
