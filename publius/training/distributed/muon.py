"""Muon over shards: each matrix is orthogonalised once, whole, by the rank it is assigned to.

    local momentum -> parts to the owner -> orthogonalise -> parts back -> local update

Two all-to-all exchanges of the matrices in bf16 a step; arithmetic is divided by the ranks. The update is
that of one process: momenta are elementwise, and the owner sees the same bf16 matrix.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from publius.training.distributed.shard import Piece
from publius.training.optimizer import OptimizerConfig, lying, orthogonalise

__all__ = ["ShardedMuon"]


class ShardedMuon:
    """The interface of `Muon`.

    Args:
        pieces: the matrices by name; the ranks of `group` hold all parts of each, once.
        config: `momentum`, `weight_decay`, `newton_schulz_steps`.
        group: ranks that together hold one copy of the state.
    """

    def __init__(self, pieces: dict[str, Piece], config: OptimizerConfig, group: dist.ProcessGroup) -> None:
        self.config, self.pieces, self.group = config, pieces, group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        self.momenta = {name: torch.zeros_like(piece.local) for name, piece in pieces.items()}
        self._shapes = {name: tuple(piece.whole.shape) for name, piece in pieces.items()}
        self._owner = _owners(self._shapes, self.size)
        self._places = self._gather_places()

    def _gather_places(self) -> dict[str, list[tuple[slice, slice]]]:
        """By name, the rows and columns that each rank of the group holds."""
        mine: list[list[int]] = []
        for piece in self.pieces.values():
            whole = piece.whole
            shape, offset = compute_local_shape_and_global_offset(
                whole.shape, whole.device_mesh, whole.placements
            )
            mine.append([offset[0], offset[0] + shape[0], offset[1], offset[1] + shape[1]])
        device = next(iter(self.pieces.values())).local.device
        table = torch.tensor(mine, dtype=torch.int64, device=device)
        tables = [torch.empty_like(table) for _ in range(self.size)]
        dist.all_gather(tables, table, group=self.group)
        return {
            name: [(slice(r0, r1), slice(c0, c1)) for r0, r1, c0, c1 in (t[i].tolist() for t in tables)]
            for i, name in enumerate(self.pieces)
        }

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Update every parameter from its local `.grad` (none counts as zero)."""
        keep, decay = self.config.momentum, 1 - lr * self.config.weight_decay
        sent: dict[str, Tensor] = {}
        for name, piece in self.pieces.items():
            grad = torch.zeros_like(piece.local) if piece.local.grad is None else piece.local.grad
            momentum = self.momenta[name].lerp_(grad, 1 - keep)
            sent[name] = grad.lerp(momentum, keep).bfloat16()
        updates = self._give_back(self._orthogonalised(self._to_owners(sent)), sent)
        for name, piece in self.pieces.items():
            rows, columns = self._shapes[name]
            scale = max(1.0, rows / columns) ** 0.5
            piece.local.mul_(decay).add_(updates[name].float(), alpha=-lr * scale)

    def _owned(self, rank: int) -> list[str]:
        return [name for name, owner in self._owner.items() if owner == rank]

    def _part_size(self, name: str, rank: int) -> int:
        rows, columns = self._places[name][rank]
        return (rows.stop - rows.start) * (columns.stop - columns.start)

    def _exchange(self, out: list[list[Tensor]], sizes: list[int]) -> list[Tensor]:
        """`out[r]` to each rank r; what came, `sizes[r]` numbers from each."""
        flat = [torch.cat([t.flatten() for t in part]) if part else None for part in out]
        some = next((t for t in flat if t is not None), None)
        device = next(iter(self.momenta.values())).device if some is None else some.device
        given = [0 if t is None else t.numel() for t in flat]
        packed = [t for t in flat if t is not None]
        source = torch.cat(packed) if packed else torch.empty(0, dtype=torch.bfloat16, device=device)
        came = torch.empty(sum(sizes), dtype=torch.bfloat16, device=device)
        dist.all_to_all_single(came, source, sizes, given, group=self.group)
        return list(came.split(sizes))

    def _to_owners(self, parts: dict[str, Tensor]) -> dict[str, Tensor]:
        """Every matrix that I own, whole."""
        mine = self._owned(self.rank)
        out = [[parts[name] for name in self._owned(rank)] for rank in range(self.size)]
        came = self._exchange(out, [sum(self._part_size(n, r) for n in mine) for r in range(self.size)])
        device = next(iter(self.momenta.values())).device
        whole = {name: torch.empty(self._shapes[name], dtype=torch.bfloat16, device=device) for name in mine}
        for rank, flat in enumerate(came):
            pieces = flat.split([self._part_size(name, rank) for name in mine]) if mine else ()
            for name, part in zip(mine, pieces, strict=True):
                place = whole[name][self._places[name][rank]]
                place.copy_(part.view(place.shape))
        return whole

    def _orthogonalised(self, whole: dict[str, Tensor]) -> dict[str, Tensor]:
        """All of one shape (or its transpose) in one batched product."""
        groups: dict[Any, list[str]] = {}
        for name, matrix in whole.items():
            groups.setdefault(tuple(sorted(matrix.shape)), []).append(name)
        done: dict[str, Tensor] = {}
        for names in groups.values():
            stacked = torch.stack([lying(whole[name]) for name in names])
            for name, update in zip(
                names, orthogonalise(stacked, self.config.newton_schulz_steps), strict=True
            ):
                done[name] = update if whole[name].shape == update.shape else update.mT
        return done

    def _give_back(self, done: dict[str, Tensor], parts: dict[str, Tensor]) -> dict[str, Tensor]:
        """My part of every matrix, from its owner."""
        out = [[done[n][self._places[n][r]] for n in self._owned(self.rank)] for r in range(self.size)]
        owned = [self._owned(rank) for rank in range(self.size)]
        came = self._exchange(out, [sum(parts[name].numel() for name in names) for names in owned])
        mine: dict[str, Tensor] = {}
        for names, flat in zip(owned, came, strict=True):
            pieces = flat.split([parts[name].numel() for name in names]) if names else ()
            mine |= {name: part.view(parts[name].shape) for name, part in zip(names, pieces, strict=True)}
        return mine

    def tensors(self) -> dict[str, Tensor]:
        """The state, by name: this rank's parts."""
        return {f"muon.{name}": value for name, value in self.momenta.items()}


def _owners(shapes: dict[str, tuple[int, ...]], size: int) -> dict[str, int]:
    """Who orthogonalises what: heaviest first, each to the rank with least to do."""
    load = [0] * size
    owner: dict[str, int] = {}
    for name, (rows, columns) in sorted(shapes.items(), key=lambda item: (-_work(item[1]), item[0])):
        rank = load.index(min(load))
        load[rank] += _work((rows, columns))
        owner[name] = rank
    return owner


def _work(shape: tuple[int, ...]) -> int:
    return shape[0] * shape[1] * min(shape)
