"""Advantage estimators: per-token rewards and values in, advantages and returns out. Pure.

Shapes: [B, T]; `mask` is True at actions. Places that are not actions (prompt, tool results, padding)
are stepped over, as if the actions stood side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

__all__ = [
    "ESTIMATORS",
    "Advantages",
    "Estimator",
    "EstimatorName",
    "centred",
    "gae",
    "grpo",
    "masked_mean",
    "rloo",
    "whiten",
]


_ROUNDING = 1e-5
"""Of a total: more than the mean of a group in fp32 is off by."""


class Advantages(NamedTuple):
    """`advantages` weigh the policy's gradient; `returns` are the critic's targets. Both [B, T]."""

    advantages: Tensor
    returns: Tensor


EstimatorName = Literal["gae", "rloo", "grpo"]
Estimator = Callable[[Tensor, Tensor, Tensor, Tensor], Advantages]
"""(rewards_BT, values_BT, mask_BT, groups_B) -> Advantages; `groups` numbers the prompt of each row."""


def gae(
    rewards_BT: Tensor,
    values_BT: Tensor,
    mask_BT: Tensor,
    groups_B: Tensor | None = None,
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
) -> Advantages:
    """Generalised advantage estimation (Schulman et al. 2016, arXiv 1506.02438, eq. 16)."""
    advantages_BT = torch.zeros_like(rewards_BT)
    following_B = rewards_BT.new_zeros(len(rewards_BT))  # the value after the next action; 0 past the end
    running_B = torch.zeros_like(following_B)
    for t in range(rewards_BT.shape[1] - 1, -1, -1):
        acts = mask_BT[:, t]
        delta = rewards_BT[:, t] + gamma * following_B - values_BT[:, t]
        running_B = torch.where(acts, delta + gamma * lam * running_B, running_B)
        following_B = torch.where(acts, values_BT[:, t], following_B)
        advantages_BT[:, t] = torch.where(acts, running_B, 0.0)
    return Advantages(advantages_BT, torch.where(mask_BT, advantages_BT + values_BT, 0.0))


def centred(
    advantages_BT: Tensor, rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, groups_B: Tensor
) -> Tensor:
    """Each row less the mean, over its group's other rows, of what they got beyond the critic's value of the
    prompt (all their rewards, whatever lambda is): [B, T].

    So what the critic got wrong about the prompt cancels, and replies that are all alike teach nothing. The
    other rows do not depend on this one's actions, so the gradient stays unbiased (the baseline of `rloo`, on
    top of a critic). A row alone in its group is left as it is.
    """
    first_B = mask_BT.int().argmax(1)
    whole_B = torch.where(mask_BT, rewards_BT, 0.0).sum(1) - values_BT.gather(1, first_B[:, None]).squeeze(1)
    whole_B = whole_B * mask_BT.any(1)
    same_BB = (groups_B[:, None] == groups_B[None, :]).to(whole_B.dtype)
    others_B = (same_BB @ whole_B - whole_B) / (same_BB.sum(1) - 1).clamp(min=1)
    return torch.where(mask_BT, advantages_BT - others_B[:, None], 0.0)


def rloo(rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, groups_B: Tensor) -> Advantages:
    """REINFORCE with the mean of the group's other samples as baseline.

    Ahmadian et al. 2024, arXiv 2402.14740. A row alone in its group (its partners had no reward) has no
    baseline, and teaches nothing.
    """
    totals_B, sums_B, sizes_B = _group_sums(rewards_BT, mask_BT, groups_B)
    baseline_B = (sums_B - totals_B) / (sizes_B - 1).clamp(min=1)
    return _spread((totals_B - baseline_B) * (sizes_B > 1), totals_B, mask_BT)


def grpo(rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, groups_B: Tensor) -> Advantages:
    """Totals standardised within each group (Shao et al. 2024, arXiv 2402.03300, section 4.1.2).

    Totals that differ by no more than rounding are alike, and teach nothing: divided by their own spread,
    rounding would count as much as a reward.
    """
    totals_B, sums_B, sizes_B = _group_sums(rewards_BT, mask_BT, groups_B)
    means_B = sums_B / sizes_B
    centred_B = totals_B - means_B
    centred_B = torch.where(centred_B.abs() > _ROUNDING * means_B.abs(), centred_B, 0.0)
    same_BB = (groups_B[:, None] == groups_B[None, :]).to(totals_B.dtype)
    spread_B = ((same_BB @ centred_B.square()) / sizes_B).sqrt()
    return _spread(centred_B / (spread_B + 1e-6), totals_B, mask_BT)


def _group_sums(rewards_BT: Tensor, mask_BT: Tensor, groups_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    totals_B = torch.where(mask_BT, rewards_BT, 0.0).sum(1)
    same_BB = (groups_B[:, None] == groups_B[None, :]).to(totals_B.dtype)
    return totals_B, same_BB @ totals_B, same_BB.sum(1)


def _spread(advantages_B: Tensor, totals_B: Tensor, mask_BT: Tensor) -> Advantages:
    return Advantages(
        torch.where(mask_BT, advantages_B[:, None], 0.0), torch.where(mask_BT, totals_B[:, None], 0.0)
    )


ESTIMATORS: dict[EstimatorName, Estimator] = {"gae": gae, "rloo": rloo, "grpo": grpo}


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the True places of `mask`; 0 when there are none."""
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)


def whiten(values: Tensor, mask: Tensor, *, shift: bool = True) -> Tensor:
    """Unit variance over the True places of the whole batch; `shift` also removes the mean."""
    mean = masked_mean(values, mask)
    scale = (masked_mean((values - mean).square(), mask) + 1e-8).rsqrt()
    return torch.where(mask, ((values - mean) if shift else values) * scale, 0.0)
