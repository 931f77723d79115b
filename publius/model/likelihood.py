"""Log-likelihoods of tokens without keeping fp32 logits: the training loss and the RL log-probs."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from publius.model.transformer import Transformer

__all__ = ["logprobs", "token_nll"]

_CHUNK_ELEMENTS = 1 << 27
"""Logits kept at once (256 MB in bf16); more tokens than that go in chunks, recomputed in backward."""
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
