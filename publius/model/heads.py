"""Scalar heads on a trunk: a reward for a whole reply, a value for every position."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from publius.model.attention import KVCache
from publius.model.transformer import Transformer

__all__ = ["RewardModel", "ValueModel"]


class RewardModel(nn.Module):
    """One score per row, read at its end token.

    The head starts at std 1/sqrt(D + 1), so first scores have unit scale (Stiennon et al. 2020,
    arXiv 2009.01325, appendix B). It has no bias: only differences of rewards mean anything.
    """

    def __init__(self, trunk: Transformer, *, seed: int | None = None) -> None:
        super().__init__()
        self.trunk = trunk
        width = trunk.config.hidden_size
        self.score = nn.Linear(width, 1, bias=False, device=trunk.device, dtype=trunk.dtype)
        if trunk.device.type != "meta":
            generator = None if seed is None else torch.Generator(trunk.device).manual_seed(seed)
            nn.init.normal_(self.score.weight, std=(width + 1) ** -0.5, generator=generator)

    def forward(self, tokens_BT: Tensor, last_B: Tensor) -> Tensor:
        """Scores [B]: `last_B` is the index of each row's end token; what follows it has no effect."""
        hidden_BTD = self.trunk.hidden(tokens_BT)
        rows = torch.arange(tokens_BT.shape[0], device=tokens_BT.device)
        return self.score(hidden_BTD[rows, last_B]).squeeze(-1)


class ValueModel(nn.Module):
    """The critic: the expected reward from every position on. A fresh head says 0 everywhere."""

    def __init__(self, trunk: Transformer) -> None:
        super().__init__()
        self.trunk = trunk
        self.score = nn.Linear(trunk.config.hidden_size, 1, device=trunk.device, dtype=trunk.dtype)
        if trunk.device.type != "meta":
            nn.init.zeros_(self.score.weight)
            nn.init.zeros_(self.score.bias)

    @classmethod
    def from_reward(cls, reward: RewardModel) -> ValueModel:
        """A critic that starts from a reward model: shares its trunk, copies its head."""
        value = cls(reward.trunk)
        with torch.no_grad():
            value.score.weight.copy_(reward.score.weight)
        return value

    def forward(
        self,
        tokens_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        mask: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Values [B, T]; arguments as `Transformer.hidden`."""
        hidden = self.trunk.hidden(tokens_BT, positions_BT=positions_BT, mask=mask, cache=cache)
        return self.score(hidden).squeeze(-1)
