"""Log-likelihoods of tokens without keeping the logits: the training loss and the RL log-probs.

`weighted_nll`, the training loss, knows the weight of every token, so it makes its gradients chunk by chunk
in the forward pass and keeps those alone. `token_nll` cannot know what its values are used for: it keeps the
logits in the compute dtype, and past a size makes them again in backward.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from publius.model.transformer import Transformer

__all__ = ["logprobs", "token_nll", "weighted_nll"]

_LOSS_ROWS = 512
"""Tokens a chunk in `weighted_nll`: fast, and bounded in memory. Measured on one core in bf16, forward and
backward, 2,048 tokens of 512 with 32,768 ids: chunks of 1024, 512, 256 and 128 took 1.70, 1.82, 2.01 and
2.47 s, and 309, 212, 163 and 157 MB. 8,192 tokens at 512 took 7.4 s and 224 MB; keeping the logits, 11.3 s
and 619 MB."""
_CHUNK_ELEMENTS = 1 << 25
"""Logits kept at once by `token_nll` (64 MB in bf16); more go in chunks, recomputed in backward."""
_CACHE_ROWS = 512
"""Rows widened to fp32 at once: a few megabytes that stay in cache and in the allocator."""


class _LinearNLL(torch.autograd.Function):
    """-log softmax(h W^T)[target] per token, fp32.

    Keeps the logits in the compute dtype only, and backward makes (softmax - onehot) from them in that
    dtype; plain autograd keeps fp32 copies of [N, V]. Mixed-dtype arithmetic is avoided throughout: on
    CPU it is many times slower than a conversion followed by a same-dtype kernel.
    """

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
        logits_NV = hidden_ND @ weight_VD.T
        ctx.save_for_backward(hidden_ND, weight_VD, targets_N, logits_NV)
        wide = torch.promote_types(logits_NV.dtype, torch.float32)
        pieces = zip(logits_NV.split(_CACHE_ROWS), targets_N[:, None].split(_CACHE_ROWS), strict=True)
        return -torch.cat([F.log_softmax(x.to(wide), dim=-1).gather(1, t) for x, t in pieces]).squeeze(1)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, Tensor | None, None]:
        (grad_N,) = grads
        hidden_ND, weight_VD, targets_N, logits_NV = ctx.saved_tensors
        error_NV = F.softmax(logits_NV, dim=-1)
        error_NV[torch.arange(len(targets_N), device=targets_N.device), targets_N] -= 1.0
        error_NV.mul_(grad_N[:, None].to(error_NV.dtype))
        grad_hidden = error_NV @ weight_VD if ctx.needs_input_grad[0] else None
        grad_weight = error_NV.T @ hidden_ND if ctx.needs_input_grad[1] else None
        return grad_hidden, grad_weight, None


def token_nll(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    """Negative log-likelihood in nats of each target, [N] fp32, differentiable in hidden and weight."""
    rows = max(1, _CHUNK_ELEMENTS // weight_VD.shape[0])
    if hidden_ND.shape[0] <= rows:
        return _apply(hidden_ND, weight_VD, targets_N)
    pieces = zip(hidden_ND.split(rows), targets_N.split(rows), strict=True)
    return torch.cat([checkpoint(_apply, h, weight_VD, t, use_reentrant=False) for h, t in pieces])  # pyright: ignore[reportCallIssue, reportArgumentType]


class _WeightedNLL(torch.autograd.Function):
    """sum of weight x -log softmax(h W^T)[target], with both gradients made in forward.

    The gradient in the logits, weight x (softmax - onehot), is written over them in their own dtype; the
    matrix's gradient is added up over chunks in fp32.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        targets_N: Tensor,
        weights_N: Tensor,
        compiled: bool,
    ) -> Tensor:
        chunk = _compiled_chunk() if compiled else _chunk
        wide = torch.promote_types(hidden_ND.dtype, torch.float32)
        total = torch.zeros((), dtype=wide, device=hidden_ND.device)
        for_hidden, for_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden_ND) if for_hidden else None
        grad_weight: Tensor | None = None
        for start in range(0, len(targets_N), _LOSS_ROWS):
            here = slice(start, start + _LOSS_ROWS)
            hidden, target = hidden_ND[here], targets_N[here, None]
            loss, error = chunk(hidden @ weight_VD.T, target, weights_N[here, None].to(wide))
            total += loss
            if grad_hidden is not None:
                grad_hidden[here] = error @ weight_VD
            if for_weight:
                part = error.T @ hidden
                grad_weight = part if grad_weight is None else _added(grad_weight, part, wide)
        if for_weight:
            grad_weight = torch.zeros_like(weight_VD) if grad_weight is None else grad_weight
            grad_weight = grad_weight.to(weight_VD.dtype)
        ctx.save_for_backward(grad_hidden, grad_weight)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        found = [None if grad is None else grad * grads[0].to(grad.dtype) for grad in ctx.saved_tensors]
        return found[0], found[1], None, None, None


def _chunk(logits_NV: Tensor, targets_N1: Tensor, weights_N1: Tensor) -> tuple[Tensor, Tensor]:
    """The weighted sum over a chunk, and its gradient in the logits, written over them."""
    wide = logits_NV.to(weights_N1.dtype, copy=True)
    said = wide.gather(1, targets_N1)
    top = wide.amax(1, keepdim=True)
    mass = wide.sub_(top).exp_().sum(1, keepdim=True)
    total = ((mass.log() - (said - top)) * weights_N1).sum()  # in this order nothing is lost near 0
    logits_NV.copy_(wide.mul_(weights_N1 / mass))
    logits_NV.scatter_add_(1, targets_N1, -weights_N1.to(logits_NV.dtype))
    return total, logits_NV


@functools.cache
def _compiled_chunk() -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    return torch.compile(_whole_chunk, dynamic=True)


def _whole_chunk(logits_NV: Tensor, targets_N1: Tensor, weights_N1: Tensor) -> tuple[Tensor, Tensor]:
    """`_chunk` as one expression, for a compiler that makes three passes over the logits of it."""
    wide = logits_NV.to(weights_N1.dtype)
    top = wide.amax(1, keepdim=True)
    mass = (wide - top).exp().sum(1, keepdim=True)
    said = wide.gather(1, targets_N1) - top
    hit = torch.arange(wide.shape[1], device=wide.device) == targets_N1
    error = ((wide - top).exp() / mass - hit.to(wide.dtype)) * weights_N1
    return ((mass.log() - said) * weights_N1).sum(), error.to(logits_NV.dtype)


def _added(sum_VD: Tensor, part_VD: Tensor, wide: torch.dtype) -> Tensor:
    return sum_VD.to(wide).add_(part_VD) if sum_VD.dtype != wide else sum_VD.add_(part_VD)


def weighted_nll(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, weights_N: Tensor, *, compiled: bool = False
) -> Tensor:
    """sum of weights x negative log-likelihood in nats, fp32 scalar, differentiable in hidden and weight.

    Logits exist for 512 tokens at a time; `compiled` fuses what is done to them. `weights_N` has no gradient.
    """
    return _WeightedNLL.apply(hidden_ND, weight_VD, targets_N, weights_N, compiled)  # pyright: ignore[reportReturnType]


def _apply(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    return _LinearNLL.apply(hidden_ND, weight_VD, targets_N)  # pyright: ignore[reportReturnType]


def logprobs(
    model: Transformer,
    tokens_BT: Tensor,
    targets_BT: Tensor,
    *,
    select_BT: Tensor | None = None,
    positions_BT: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Log-probability of each target given the tokens up to its place, [B, T] fp32, differentiable.

    Args:
        model: the policy.
        tokens_BT: inputs.
        targets_BT: the token to score at each place (usually the inputs moved on by one).
        select_BT: bool; places left out give 0 and cost no head product (prompts, padding).
        positions_BT: as `Transformer.hidden`.
        mask: as `Transformer.hidden`.
    """
    hidden_BTD = model.hidden(tokens_BT, positions_BT=positions_BT, mask=mask)
    if select_BT is None:
        nll = token_nll(hidden_BTD.flatten(0, 1), model.head_weight, targets_BT.flatten())
        return -nll.view(targets_BT.shape)
    nll = token_nll(hidden_BTD[select_BT], model.head_weight, targets_BT[select_BT])
    blank_BT = torch.zeros(targets_BT.shape, dtype=torch.float32, device=tokens_BT.device)
    return blank_BT.masked_scatter(select_BT, -nll)
