"""Low-rank adapters: several models on one frozen trunk (Hu et al. 2021, arXiv 2106.09685).

An adapted model is an ordinary `Transformer` whose matrices are the trunk's own tensors, each with a small
change of its own beside it: y = W x + (alpha / r) B A x. B begins at zero, so it begins as the trunk, to the
bit. Embeddings, norms and head are the trunk's modules. Any number of adapted models costs one trunk and
their adapters; the trunk by itself is the reference.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from publius.model.heads import ValueModel
from publius.model.transformer import Block, Transformer

__all__ = ["Adapted", "LowRank", "adapted", "merged", "trainable"]

_MATRICES = (
    ("self_attn", "qkv_proj"),
    ("self_attn", "o_proj"),
    ("mlp", "gate_up_proj"),
    ("mlp", "down_proj"),
)


class LowRank(nn.Module):
    """The change of one matrix: `up` [out, r] times `down` [r, in], scaled."""

    def __init__(self, linear: nn.Linear, rank: int, scale: float, generator: torch.Generator) -> None:
        super().__init__()
        like = linear.weight
        down_RI = torch.empty(rank, linear.in_features, device=like.device, dtype=like.dtype)
        self.down = nn.Parameter(down_RI.normal_(0.0, linear.in_features**-0.5, generator=generator))
        self.up = nn.Parameter(torch.zeros(linear.out_features, rank, device=like.device, dtype=like.dtype))
        self.scale = scale

    def added(self, y: Tensor, x: Tensor) -> Tensor:
        """`y` [..., out], the linear map of `x` [..., in], and its change: in one pass, in place of `y`."""
        inner_NR = F.linear(x, self.down).flatten(0, -2)
        return y.flatten(0, -2).addmm_(inner_NR, self.up.T, alpha=self.scale).view(y.shape)

    def matrix(self) -> Tensor:
        """[out, in]: what is added to the weight."""
        return self.up @ self.down * self.scale


class Adapted(nn.Module):
    """A linear map of the trunk, shared, with a change of its own. Stands where an `nn.Linear` does."""

    def __init__(self, linear: nn.Linear, rank: int, scale: float, generator: torch.Generator) -> None:
        super().__init__()
        self.linear = linear
        self.change = LowRank(linear, rank, scale, generator)

    @property
    def weight(self) -> Tensor:
        """The sum, made anew at every reading: for who packs or writes weights, one matrix at a time."""
        return self.linear.weight + self.change.matrix()

    @property
    def bias(self) -> Tensor | None:
        """The trunk's."""
        return self.linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return self.change.added(self.linear(x), x)


def adapted(trunk: Transformer, rank: int, *, alpha: float | None = None, seed: int = 0) -> Transformer:
    """A model on `trunk`'s tensors with adapters of its own on every matrix of its blocks.

    Args:
        trunk: its own parameters are to be frozen by the caller, who may share it further.
        rank: of each change.
        alpha: the change is scaled by alpha / rank; None is `rank`, a scale of 1.
        seed: of the fresh `down` matrices.
    """
    generator = torch.Generator(trunk.device).manual_seed(seed)
    with torch.device("meta"):
        model = Transformer(trunk.config)
    model.model.embed_tokens, model.model.norm = trunk.model.embed_tokens, trunk.model.norm
    model.lm_head, model.rotary, model.adapted = trunk.lm_head, trunk.rotary, True
    scale = (rank if alpha is None else alpha) / rank
    for block, mine in zip(trunk.model.layers, model.model.layers, strict=True):
        assert isinstance(block, Block) and isinstance(mine, Block)
        for part, name in _MATRICES:
            linear = getattr(getattr(block, part), name)
            setattr(getattr(mine, part), name, Adapted(linear, rank, scale, generator))
        mine.input_layernorm = block.input_layernorm
        mine.post_attention_layernorm = block.post_attention_layernorm
        mine.self_attn.q_norm, mine.self_attn.k_norm = block.self_attn.q_norm, block.self_attn.k_norm
    return model.train(trunk.training)


@torch.no_grad()
def merged(model: Transformer) -> Transformer:
    """A plain model of its own tensors that says the same: every change added to a copy of its matrix."""
    weights: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, Adapted):
            weights[f"{name}.weight"] = module.weight
            if module.bias is not None:
                weights[f"{name}.bias"] = module.bias.clone()
    for name, value in model.state_dict().items():
        if ".linear." not in name and ".change." not in name:
            weights[name] = value.clone()
    with torch.device("meta"):
        plain = Transformer(model.config)
    plain.load_state_dict(weights, assign=True)
    return plain.train(model.training)


def trainable(model: nn.Module) -> nn.Module:
    """What training changes: the adapters (and a value head) where there are any, else all of `model`."""
    changes = [module for module in model.modules() if isinstance(module, LowRank)]
    if not changes:
        return model
    return nn.ModuleList([*changes, *([model.score] if isinstance(model, ValueModel) else [])])
