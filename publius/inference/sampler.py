"""From logits to tokens: temperature, top-k, top-p, greedy, and seeds that ignore the batch.

Every row draws by inverting the cumulative distribution at one uniform number per token. The numbers
are drawn when the row starts: from its own generator when it has a seed, else from torch's. So a
seeded row's tokens do not depend on which rows it shared a batch with, and the whole batch is still
sampled with a few vectorised operations.

Shape letters: B rows, V vocabulary.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from publius.core.errors import UserError

__all__ = ["Sampling", "log_probs", "pick", "row_uniforms"]


@dataclass(frozen=True)
class Sampling:
    """How to continue a prompt.

    Args:
        max_tokens: most new tokens, >= 1.
        temperature: 0 is greedy; 1 samples from the model's own distribution.
        top_k: keep the k likeliest tokens; None keeps all.
        top_p: then keep the smallest set whose probability reaches top_p, in (0, 1]; None keeps all.
        stop: stop when the new text contains one of these.
        stop_ids: stop at these tokens, beside the tokenizer's end token, which always stops.
        seed: None draws from torch's global generator.

    Raises:
        UserError: naming the field out of range.
    """

    max_tokens: int = 64
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            _refuse("max_tokens", self.max_tokens, "at least 1")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            _refuse("temperature", self.temperature, "finite, and 0 (greedy) or more")
        if self.top_k is not None and self.top_k < 1:
            _refuse("top_k", self.top_k, "at least 1, or None to keep all tokens")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            _refuse("top_p", self.top_p, "above 0 and at most 1, or None to keep all tokens")
        if isinstance(self.stop, str) or any(not text for text in self.stop):
            _refuse("stop", self.stop, "a tuple of texts, none of them empty")


def _refuse(field: str, value: object, wanted: str) -> None:
    raise UserError(f"{field} is {value!r}", where=f"Sampling.{field}", fix=f"{field} must be {wanted}")


def row_uniforms(sampling: Sampling, index: int) -> torch.Tensor:
    """The uniform numbers one row will use, float64 [max_tokens] in [0, 1).

    With a seed they are a function of (seed, index) only; row `index` of a call that gave one Sampling
    to all its prompts has its own stream.
    """
    if sampling.seed is None:
        return torch.rand(sampling.max_tokens, dtype=torch.float64)
    digest = hashlib.blake2b(f"{sampling.seed}:{index}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
    return torch.rand(sampling.max_tokens, dtype=torch.float64, generator=generator)


def log_probs(logits_BV: torch.Tensor, samplings: Sequence[Sampling]) -> torch.Tensor:
    """Log-probabilities of the distribution each row samples from, float32 [B, V].

    At temperature 1 without top-k or top-p this is exactly log-softmax. For greedy rows too: the number
    reported is the model's own. Filtered tokens get -inf and the rest is renormalised.
    """
    logits_BV = logits_BV.float()
    scales = [s.temperature if s.temperature > 0 else 1.0 for s in samplings]
    if any(scale != 1.0 for scale in scales):
        logits_BV = logits_BV / torch.tensor(scales, device=logits_BV.device)[:, None]
    logp_BV = logits_BV.log_softmax(-1)
    filtered = [i for i, s in enumerate(samplings) if s.temperature > 0 and (s.top_k or s.top_p)]
    if filtered:
        rows = torch.tensor(filtered, device=logits_BV.device)
        logp_BV[rows] = _filter(logp_BV[rows], [samplings[i] for i in filtered])
    return logp_BV


def _filter(logp_BV: torch.Tensor, samplings: Sequence[Sampling]) -> torch.Tensor:
    """Top-k, then top-p of what is left. Ties fall to the lower id, so the batch does not matter."""
    vocabulary, device = logp_BV.shape[1], logp_BV.device
    top_k = torch.tensor([s.top_k or vocabulary for s in samplings], device=device)[:, None]
    top_p = torch.tensor([s.top_p or 1.0 for s in samplings], dtype=torch.float64, device=device)[:, None]
    ordered, ids = logp_BV.sort(dim=-1, descending=True, stable=True)
    kept = torch.arange(vocabulary, device=device) < top_k
    p = ordered.double().masked_fill(~kept, -math.inf).softmax(-1)
    before = p.cumsum(-1) - p  # mass of the likelier tokens: the first token is always kept
    kept &= (before < top_p) | (top_p >= 1)
    ordered = ordered.masked_fill(~kept, -math.inf).log_softmax(-1)
    return torch.empty_like(logp_BV).scatter_(-1, ids, ordered)


def pick(
    logp_BV: torch.Tensor, uniforms_B: torch.Tensor, greedy_B: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose a token per row: argmax where greedy, else the inverse of the distribution at the uniform.

    Returns:
        tokens int64 [B] and their log-probabilities float32 [B] (NaN where the logits hold one).
    """
    cdf_BV = logp_BV.double().exp().cumsum(-1)
    total_B1 = cdf_BV[:, -1:]
    # Strictly below the total, so that a token of probability 0 (flat cdf) is never the answer.
    target_B1 = torch.minimum(uniforms_B[:, None] * total_B1, total_B1.nextafter(torch.zeros_like(total_B1)))
    drawn_B = torch.searchsorted(cdf_BV, target_B1, right=True)[:, 0]
    drawn_B = drawn_B.clamp_(max=logp_BV.shape[1] - 1)  # only NaN gets there; its log-probability tells
    tokens_B = torch.where(greedy_B, logp_BV.argmax(-1), drawn_B)
    return tokens_B, logp_BV.gather(-1, tokens_B[:, None])[:, 0]
