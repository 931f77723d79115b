"""PPO's losses and rewards, pure: tensors in, a NamedTuple of tensors out.

Shapes: [B, T] with `mask` True at actions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from publius.rl.advantage import masked_mean

__all__ = ["PolicyLoss", "RunningScale", "ValueLoss", "policy_loss", "token_rewards", "value_loss"]


class PolicyLoss(NamedTuple):
    """Clipped surrogate loss and what to watch beside it."""

    loss: Tensor
    ratio: Tensor
    """Mean new/old probability ratio."""
    deviation: Tensor
    """Largest |ratio - 1|."""
    clip_fraction: Tensor
    approx_kl: Tensor
    """Mean of (ratio - 1) - log ratio, per token, old to new (Schulman's k3, for monitoring only)."""


class ValueLoss(NamedTuple):
    """Clipped squared error."""

    loss: Tensor
    clip_fraction: Tensor


def policy_loss(
    logprobs_BT: Tensor, old_logprobs_BT: Tensor, advantages_BT: Tensor, mask_BT: Tensor, *, clip: float = 0.2
) -> PolicyLoss:
    """The clipped surrogate of Schulman et al. (2017), arXiv 1707.06347, eq. 7."""
    log_ratio = torch.where(mask_BT, logprobs_BT - old_logprobs_BT, 0.0)
    ratio = log_ratio.exp()
    plain, clipped = advantages_BT * ratio, advantages_BT * ratio.clamp(1 - clip, 1 + clip)
    detached = ratio.detach()
    return PolicyLoss(
        loss=-masked_mean(torch.minimum(plain, clipped), mask_BT),
        ratio=masked_mean(detached, mask_BT),
        deviation=torch.where(mask_BT, (detached - 1).abs(), 0.0).max(),
        clip_fraction=masked_mean((clipped < plain).float(), mask_BT),
        approx_kl=masked_mean(detached - 1 - log_ratio.detach(), mask_BT),
    )


def value_loss(
    values_BT: Tensor, old_values_BT: Tensor, returns_BT: Tensor, mask_BT: Tensor, *, clip: float = 0.2
) -> ValueLoss:
    """Half the larger of the plain and the clipped squared error (as in Stiennon et al. 2020)."""
    clipped = old_values_BT + (values_BT - old_values_BT).clamp(-clip, clip)
    plain_error, clipped_error = (values_BT - returns_BT).square(), (clipped - returns_BT).square()
    return ValueLoss(
        loss=0.5 * masked_mean(torch.maximum(plain_error, clipped_error), mask_BT),
        clip_fraction=masked_mean((clipped_error > plain_error).float(), mask_BT),
    )


def token_rewards(
    scores_B: Tensor, logprobs_BT: Tensor, reference_BT: Tensor, mask_BT: Tensor, *, beta: float
) -> Tensor:
    """-beta * k1 KL at every action, and the score on the last one (the <|end|> where there is one).

    k1 = log p - log p_ref, signed: as a reward its gradient is unbiased, which k3's is not.
    """
    rewards_BT = torch.where(mask_BT, -beta * (logprobs_BT - reference_BT), 0.0)
    places = torch.arange(mask_BT.shape[1], device=mask_BT.device)
    last_B = torch.where(mask_BT, places, -1).max(1).values
    rows = torch.nonzero(last_B >= 0).squeeze(1)
    rewards_BT[rows, last_B[rows]] += scores_B[rows]
    return rewards_BT


class RunningScale:
    """Running standard deviation of scores (Welford), to divide by. The mean is never removed."""

    def __init__(self, count: int = 0, mean: float = 0.0, squares: float = 0.0) -> None:
        self.count, self.mean, self.squares = count, mean, squares

    def update(self, scores: Tensor) -> None:
        """Take in a batch of scores."""
        for score in scores.tolist():
            self.count += 1
            delta = score - self.mean
            self.mean += delta / self.count
            self.squares += delta * (score - self.mean)

    @property
    def std(self) -> float:
        """1 until two scores were seen."""
        return max((self.squares / (self.count - 1)) ** 0.5, 1e-6) if self.count > 1 else 1.0

    def state(self) -> dict[str, float]:
        """For resume: RunningScale(**state)."""
        return {"count": self.count, "mean": self.mean, "squares": self.squares}
