"""A model spread over ranks, in place: matrices cut by tensor parallelism, everything sharded by FSDP2.

    keep an outline of the model -> take fused matrices apart -> tensor parallel -> fully_shard -> (train)
    -> (gather on every rank, for an engine) -> restore on rank 0: become the outline again

While it lasts the model computes as before (`hidden`, `head_weight`, `forward` take and give plain tensors),
so losses and evaluations need not know. Parameters have their Hugging Face names: fused matrices are held
apart, because rows of q, k and v, or gate and up, must lie on one rank together (a product more for each).
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    parallelize_module,
)
from torch.distributed.tensor.placement_types import Placement

from publius.model.fused import Fused, fuse_weights, split_weights
from publius.model.transformer import Block, Transformer
from publius.training.distributed.layout import check_model
from publius.training.distributed.ranks import Ranks

__all__ = ["Piece", "ShardedModel"]


class _Apart(nn.Module):
    """The maps of a `Fused`, each with a weight of its own."""

    def __init__(self, fused: Fused) -> None:
        super().__init__()
        start = 0
        for name, rows in fused.parts.items():
            linear = nn.Linear(fused.in_features, rows, bias=fused.bias is not None, device="meta")
            for kind, whole in fused.named_parameters():
                part = nn.Parameter(whole.detach()[start : start + rows], requires_grad=whole.requires_grad)
                setattr(linear, kind, part)
            self.add_module(name, linear)
            start += rows

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., all rows]."""
        return torch.cat([part(x) for part in self.children()], dim=-1)


class Piece(NamedTuple):
    """One parameter, and this rank's part of it."""

    whole: DTensor
    local: nn.Parameter
    """A plain view of the part: what optimizers and saved states work on."""

    def like(self, local: Tensor) -> DTensor:
        """Something that belongs to the parameter (a moment), laid out as it is."""
        whole = self.whole
        return DTensor.from_local(
            local,
            whole.device_mesh,
            whole.placements,
            run_check=False,
            shape=whole.shape,
            stride=whole.stride(),
        )

    @property
    def shards(self) -> int:
        """Ranks the parameter is cut into."""
        mesh = self.whole.device_mesh
        cut = 1
        for dim, placement in enumerate(self.whole.placements):
            cut *= 1 if placement.is_replicate() else mesh.size(dim)
        return cut


class ShardedModel:
    """`model`, sharded in place until `restore`.

    Args:
        model: a Transformer, or a module around one; whole, with the same weights on every rank.
        ranks: the job's.
        dtype: of the computing; gradients are summed over ranks, and kept, in fp32.
        device: where shards live.

    Raises:
        UserError: when the layout does not fit the model.
    """

    def __init__(self, model: nn.Module, ranks: Ranks, dtype: torch.dtype, device: torch.device) -> None:
        self.model, self.ranks = model, ranks
        trunks = [module for module in model.modules() if isinstance(module, Transformer)]
        for trunk in trunks:
            check_model(ranks.layout, trunk.config)
        self._outline = _outline(model)
        if ranks.rank:
            self._outline.to("meta")  # only rank 0 will need the place
        names = _take_apart(model)
        if ranks.layout.tensor > 1:
            for trunk in trunks:
                _cut_matrices(trunk, ranks)
        _shard(model, trunks, ranks, dtype)
        model.to(device)
        self._device = device
        self._whole: nn.Module | None = None
        self._parameters: dict[str, Any] = {_outside(n, names): p for n, p in model.named_parameters()}
        self.pieces: dict[str, Piece] = {}
        for name, whole in self._parameters.items():
            if whole.requires_grad:
                self.pieces[name] = Piece(whole, nn.Parameter(whole.to_local().detach()))
        self._partial = [
            piece
            for name, piece in self.pieces.items()
            if ranks.tensor_group is not None and name.endswith(("q_norm.weight", "k_norm.weight"))
        ]

    @torch.no_grad()
    def collect(self) -> list[Tensor]:
        """After backward: this rank's part of every gradient that exists, put on the local parts too."""
        gradients: list[Tensor] = []
        for piece in self.pieces.values():
            grad: Any = piece.whole.grad
            piece.local.grad = None if grad is None else grad.to_local()
            if piece.local.grad is not None:
                gradients.append(piece.local.grad)
        for piece in self._partial:  # each tensor-parallel rank saw its own heads only
            if piece.local.grad is not None:
                dist.all_reduce(piece.local.grad, group=self.ranks.tensor_group)
        return gradients

    def square_sum(self) -> Tensor:
        """This rank's share of the squared norm of all gradients: what several ranks hold counts once."""
        shares = [
            piece.local.grad.float().square().sum() * (piece.shards / self.ranks.world)
            for piece in self.pieces.values()
            if piece.local.grad is not None
        ]
        return torch.stack(shares).sum() if shares else torch.zeros(())

    @torch.no_grad()
    def gather(self) -> nn.Module:
        """The model whole on this rank, for an engine to run. All ranks must call it.

        The first call makes it, later ones write the weights of then into it: an engine that has loaded it
        (`Engine.load`) follows, and forgets what it kept of the old ones, as after an optimizer's step. Each
        rank may then generate what it likes. All weights have a place in fp32 on every rank (an engine in
        another dtype casts them once more).
        """
        if self._whole is None:
            self._whole = copy.deepcopy(self._outline).to_empty(device=self._device).requires_grad_(False)
        own = split_weights(self._whole)
        for name, parameter in self._parameters.items():
            own[name].copy_(parameter.full_tensor())
        return self._whole

    @torch.no_grad()
    def restore(self) -> None:
        """Make the model what it was, with the trained weights, on rank 0; elsewhere it is empty (meta)."""
        weights: dict[str, Tensor] = {}
        for name, piece in self.pieces.items():
            value = piece.whole.full_tensor()
            if self.ranks.rank == 0:
                weights[name] = value.cpu()
            piece.whole.grad = piece.local.grad = None
        if self.ranks.rank == 0:
            own = dict(self._outline.named_parameters())
            for name, value in fuse_weights(self._outline, weights).items():
                own[name].copy_(value)
        kept = self._outline
        self.model.__class__ = type(kept)
        self.model.__dict__.clear()
        self.model.__dict__.update(kept.__dict__)


def _outline(model: nn.Module) -> nn.Module:
    """The same modules over the same memory, with parameters of their own."""
    memo: dict[int, Any] = {
        id(p): nn.Parameter(p.detach(), requires_grad=p.requires_grad) for p in model.parameters()
    }
    return copy.deepcopy(model, memo)


def _take_apart(model: nn.Module) -> list[str]:
    """Replace every `Fused`; returns the paths of what stands in their place."""
    found = [(path, module) for path, module in model.named_modules() if isinstance(module, Fused)]
    for path, module in found:
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, _Apart(module))
    return [path for path, _ in found]


def _outside(name: str, apart: list[str]) -> str:
    """`layers.0.self_attn.qkv_proj.q_proj.weight` -> `layers.0.self_attn.q_proj.weight`."""
    for path in apart:
        if name.startswith(f"{path}."):
            return f"{path.rpartition('.')[0]}.{name.removeprefix(path + '.')}"
    return name


def _cut_matrices(trunk: Transformer, ranks: Ranks) -> None:
    """Heads and feed-forward columns over the tensor-parallel ranks (Shoeybi et al. 2019, arXiv 1909.08053,
    section 3). Embeddings, norms and head are whole on each."""
    size = ranks.layout.tensor
    mesh = ranks.mesh["tensor"]
    whole: list[Placement] = [Replicate()]
    for block in trunk.model.layers:
        plan: dict[str, Any] = {"self_attn.o_proj": RowwiseParallel(), "mlp.down_proj": RowwiseParallel()}
        for path in ("self_attn.qkv_proj", "mlp.gate_up_proj"):
            plan[path] = PrepareModuleInput(input_layouts=tuple(whole), desired_input_layouts=tuple(whole))
            plan |= {
                f"{path}.{name}": ColwiseParallel() for name, _ in block.get_submodule(path).named_children()
            }
        parallelize_module(block, mesh, plan)
        block.self_attn.heads //= size  # pyright: ignore[reportAttributeAccessIssue, reportOperatorIssue]
        block.self_attn.kv_heads //= size  # pyright: ignore[reportAttributeAccessIssue, reportOperatorIssue]
    heads = {"heads": trunk.config.heads // size, "kv_heads": trunk.config.kv_heads // size}
    trunk.config = trunk.config.model_copy(update=heads)


def _shard(model: nn.Module, trunks: list[Transformer], ranks: Ranks, dtype: torch.dtype) -> None:
    """FSDP2: a group a block, one for all the rest (kept gathered from forward to backward)."""
    layout = ranks.layout
    mesh = ranks.mesh["replicate", "shard"] if layout.replicate > 1 else ranks.mesh["shard"]
    policy = MixedPrecisionPolicy(
        param_dtype=None if dtype == torch.float32 else dtype, reduce_dtype=torch.float32
    )
    for block in [module for module in model.modules() if isinstance(module, Block)]:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    for trunk in trunks:
        if trunk is model:
            register_fsdp_forward_method(trunk, "hidden")
    for module in model.modules():
        if isinstance(module, FSDPModule):  # gradients are sums; what to divide by is known after the step
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
