"""Matrices that read the same input, kept as one in memory and under their own names outside.

q, k and v are one product, and so are gate and up: fewer and larger products are faster, most of all on CPU
and in small models. Checkpoints, initial weights and Muon know the parts by their Hugging Face names.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["Fused", "Part", "fuse_weights", "fused_parts", "split_weights"]


class Part(NamedTuple):
    """Rows `start` to `stop` of a fused parameter, and the name they have outside."""

    name: str
    start: int
    stop: int


class Fused(nn.Linear):
    """Several linear maps of one input, stacked by rows.

    Args:
        inputs: columns.
        parts: name -> rows of each map, in order.
        bias: whether every map has a bias.
    """

    def __init__(self, inputs: int, parts: dict[str, int], *, bias: bool) -> None:
        super().__init__(inputs, sum(parts.values()), bias=bias)
        self.parts = dict(parts)


def fused_parts(model: nn.Module) -> dict[str, tuple[Part, ...]]:
    """Name of each fused parameter in `model` -> its parts, with their names in a checkpoint."""
    found: dict[str, tuple[Part, ...]] = {}
    for path, module in model.named_modules():
        if not isinstance(module, Fused):
            continue
        parent = path.rpartition(".")[0]
        for kind in ("weight", "bias") if module.bias is not None else ("weight",):
            start, parts = 0, list[Part]()
            for name, rows in module.parts.items():
                parts.append(Part(f"{parent}.{name}.{kind}", start, start + rows))
                start += rows
            found[f"{path}.{kind}"] = tuple(parts)
    return found


def split_weights(model: nn.Module) -> dict[str, Tensor]:
    """The state of `model` under Hugging Face names; parts are views of the fused parameters."""
    fused, split = fused_parts(model), dict[str, Tensor]()
    for name, value in model.state_dict().items():
        if name in fused:
            split |= {part.name: value[part.start : part.stop] for part in fused[name]}
        else:
            split[name] = value
    return split


def fuse_weights(model: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse: `weights` (complete, of the right shapes) under the names of `model`'s own state.

    Parts are taken out of `weights` as they are copied, so that they are not held twice.
    """
    for name, parts in fused_parts(model).items():
        weights[name] = torch.cat([weights.pop(part.name) for part in parts])
    return weights
