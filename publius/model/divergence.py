"""The loss of learning from another model's distribution, without keeping either one's logits.

As in `likelihood`, both gradients are made chunk by chunk in the forward pass: the logits of student and
teacher exist for 512 tokens at a time, and only the student's gradients are kept.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Divergence", "distillation_loss", "divergence"]

_ROWS = 512
"""Tokens a chunk."""


class Divergence(NamedTuple):
    """Weighted sums over tokens, in nats."""

    kl: Tensor
    """KL(teacher || student), at temperature 1."""
    weight: Tensor


class _Distillation(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        teacher_NE: Tensor,
        teacher_VE: Tensor,
        targets_N: Tensor,
        weights_N: Tensor,
        share: float,
        temperature: float,
    ) -> Tensor:
        for_hidden, for_weight = ctx.needs_input_grad[:2]
        wide = torch.promote_types(hidden_ND.dtype, torch.float32)
        total = torch.zeros((), dtype=wide, device=hidden_ND.device)
        grad_hidden = torch.empty_like(hidden_ND) if for_hidden else None
        grad_weight = torch.zeros_like(weight_VD, dtype=wide) if for_weight else None
        for start in range(0, len(targets_N), _ROWS):
            here = slice(start, start + _ROWS)
            said_NV = (hidden_ND[here] @ weight_VD.T).to(wide)
            taught_NV = (teacher_NE[here] @ teacher_VE.T).to(wide)
            loss, error_NV = _chunk(
                said_NV, taught_NV, targets_N[here, None], weights_N[here, None].to(wide), share, temperature
            )
            total += loss
            error_NV = error_NV.to(hidden_ND.dtype)
            if grad_hidden is not None:
                grad_hidden[here] = error_NV @ weight_VD
            if grad_weight is not None:
                grad_weight += error_NV.T @ hidden_ND[here]
        ctx.save_for_backward(grad_hidden, None if grad_weight is None else grad_weight.to(weight_VD.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        found = [None if grad is None else grad * grads[0].to(grad.dtype) for grad in ctx.saved_tensors]
        return found[0], found[1], None, None, None, None, None, None


def _chunk(
    said_NV: Tensor,
    taught_NV: Tensor,
    targets_N1: Tensor,
    weights_N1: Tensor,
    share: float,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """The loss of a chunk, and its gradient in the student's logits."""
    logq_NV = F.log_softmax(said_NV, dim=-1)
    nll_N1 = -logq_NV.gather(1, targets_N1)
    error_NV = logq_NV.exp()
    error_NV.scatter_add_(1, targets_N1, torch.full_like(nll_N1, -1.0))
    error_NV *= 1 - share
    cooled_NV = F.log_softmax(said_NV / temperature, dim=-1)
    logp_NV = F.log_softmax(taught_NV / temperature, dim=-1)
    p_NV = logp_NV.exp()
    kl_N1 = (p_NV * (logp_NV - cooled_NV)).sum(1, keepdim=True)
    error_NV += share * temperature * (cooled_NV.exp() - p_NV)
    loss = ((share * temperature**2 * kl_N1 + (1 - share) * nll_N1) * weights_N1).sum()
    return loss, error_NV * weights_N1


def distillation_loss(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    teacher_NE: Tensor,
    teacher_VE: Tensor,
    targets_N: Tensor,
    weights_N: Tensor,
    *,
    share: float = 0.5,
    temperature: float = 1.0,
) -> Tensor:
    """sum of weights x (share x T^2 x KL(teacher_T || student_T) + (1 - share) x -log p(target)), in nats.

    Hinton et al. 2015 (arXiv 1503.02531), section 2: both distributions are softened by the temperature T,
    and T^2 keeps the size of the gradient. fp32 scalar, differentiable in the student's states and head.

    Args:
        hidden_ND, weight_VD: the student's last states and head.
        teacher_NE, teacher_VE: the teacher's, of any width, over the same vocabulary; no gradient.
        targets_N: what was said.
        weights_N: of each token; no gradient.
    """
    return _Distillation.apply(  # pyright: ignore[reportReturnType]
        hidden_ND, weight_VD, teacher_NE, teacher_VE, targets_N, weights_N, share, temperature
    )


@torch.no_grad()
def divergence(
    hidden_ND: Tensor, weight_VD: Tensor, teacher_NE: Tensor, teacher_VE: Tensor, weights_N: Tensor
) -> Divergence:
    """How far the student is from the teacher; arguments as `distillation_loss`."""
    total = torch.zeros((), device=hidden_ND.device)
    for start in range(0, len(weights_N), _ROWS):
        here = slice(start, start + _ROWS)
        logq_NV = F.log_softmax((hidden_ND[here] @ weight_VD.T).float(), dim=-1)
        logp_NV = F.log_softmax((teacher_NE[here] @ teacher_VE.T).float(), dim=-1)
        total += ((logp_NV.exp() * (logp_NV - logq_NV)).sum(1) * weights_N[here]).sum()
    return Divergence(total, weights_N.sum())
