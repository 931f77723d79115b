"""Linear probes on a model's own states, read for every token that is drawn.

A *state* is what the model knows at a place: the final hidden state that the next token is drawn from and,
where a probe asks for them, the residual stream after some of the layers, each divided by its root mean
square so that depth does not set the scale. A `Probe` is a matrix over them. It costs one small product for
each drawn token: the pass that draws has computed the states anyway.

Shape letters: N rows, D hidden size, S states side by side, K outputs.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from publius.core.errors import UserError
from publius.inference.native import can_draw, read_rows
from publius.model.config import ModelConfig
from publius.model.transformer import Transformer

__all__ = ["Probe", "States", "joined_layers", "states_of", "tapped", "whitened"]


class States(NamedTuple):
    """Of some rows of a step."""

    values_NS: Tensor
    """fp32: after each of `layers`, then the final hidden state."""
    layers: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Probe:
    """Linear outputs of a state.

    Args:
        weights: fp32 [K, (layers + 1) * D + 1]: for each output its weights on the states after `layers`, on
            the final hidden state, and a bias.
        layers: after how many layers the residual stream is read too, rising; each at least 1 and less than
            the model has.
    """

    weights: NDArray[np.float32]
    layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", np.ascontiguousarray(self.weights, np.float32))

    def __len__(self) -> int:
        """Outputs."""
        return len(self.weights)

    @property
    def width(self) -> int:
        """Numbers of one state (D)."""
        return (self.weights.shape[1] - 1) // (len(self.layers) + 1)

    def check(self, config: ModelConfig, where: str) -> None:
        """Refuse a probe made for another model.

        Raises:
            UserError: when widths or layers do not fit, or a weight is no number.
        """
        told = ""
        if self.weights.ndim != 2 or self.weights.shape[1] != (len(self.layers) + 1) * config.hidden_size + 1:
            wanted = (len(self.layers) + 1) * config.hidden_size + 1
            told = f"a probe of shape {self.weights.shape}, where rows of {wanted} are wanted"
        elif list(self.layers) != sorted({n for n in self.layers if 0 < n < config.layers}):
            told = f"a probe reads after layers {self.layers} of a model that has {config.layers}"
        elif not np.isfinite(self.weights).all():
            told = "a probe whose weights are not all numbers"
        if told:
            raise UserError(told, where=where, fix="use the probe that was trained on this model")

    def read(self, states: States) -> NDArray[np.float32]:
        """Outputs [N, K] of `states`, which hold at least this probe's layers.

        On a CPU with the native library each row is summed in one order: the batch does not matter.
        """
        values_NS = states.values_NS
        if states.layers != self.layers:
            kept = [*(states.layers.index(n) for n in self.layers), len(states.layers)]
            values_NS = values_NS.unflatten(1, (-1, self.width))[:, kept].flatten(1)
        if can_draw(values_NS):
            return read_rows(values_NS, self.weights)
        weights = torch.from_numpy(self.weights).to(values_NS.device)
        return (values_NS.float() @ weights[:, :-1].T + weights[:, -1]).cpu().numpy()

    @staticmethod
    def beside(probes: Sequence[Probe]) -> Probe | None:
        """One probe, the outputs of all in order; None for none. What one does not read has no weight."""
        if not probes:
            return None
        layers, width = joined_layers(probes), probes[0].width
        rows: list[NDArray[np.float32]] = []
        for probe in probes:
            wide = np.zeros((len(probe), len(layers) + 1, width), np.float32)
            places = [*(layers.index(n) for n in probe.layers), len(layers)]
            wide[:, places] = probe.weights[:, :-1].reshape(len(probe), len(places), width)
            rows.append(np.concatenate([wide.reshape(len(probe), -1), probe.weights[:, -1:]], 1))
        return Probe(np.concatenate(rows), layers)


def joined_layers(probes: Sequence[Probe]) -> tuple[int, ...]:
    """The layers that any of `probes` reads, rising."""
    return tuple(sorted({layer for probe in probes for layer in probe.layers}))


@contextmanager
def tapped(model: Transformer, layers: Sequence[int]) -> Generator[list[Tensor]]:
    """Inside, a forward of `model` adds the residual stream [B, T, D] after each of `layers` to the list."""
    taken: list[Tensor] = []

    def take(module: nn.Module, given: object, made: Tensor) -> None:
        taken.append(made)

    hooks = [model.model.layers[layer - 1].register_forward_hook(take) for layer in layers]
    try:
        yield taken
    finally:
        for hook in hooks:
            hook.remove()


def whitened(stream: Tensor, eps: float) -> Tensor:
    """The residual stream in fp32 divided by its root mean square: of a norm, all but its weights."""
    stream = stream.float()
    return stream * torch.rsqrt(stream.square().mean(-1, keepdim=True) + eps)


@torch.no_grad()
def states_of(model: Transformer, tokens_BT: Tensor, layers: Sequence[int] = ()) -> Tensor:
    """fp32 [B, T, S]: the states after every token of whole rows, by the model's own forward; causal."""
    with tapped(model, layers) as taken:
        final = model.hidden(tokens_BT).float()
    return torch.cat([*(whitened(part, model.config.norm_eps) for part in taken), final], -1)
