"""From logits to tokens: penalties, temperature, filters, greedy, and seeds that ignore the batch.

Every row draws by inverting the cumulative distribution at one uniform number per token. The numbers
are drawn when the row starts: from its own generator when it has a seed, else from torch's. So a
seeded row's tokens do not depend on which rows it shared a batch with, and the whole batch is still
sampled with a few vectorised operations. It is also what lets guessed tokens be checked exactly: a guess
stands when it is what the row would have drawn there.

Shape letters: B rows, V vocabulary.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from publius.inference.native import can_draw, draw_rows, score_rows
from publius.inference.request import Alternatives, Request
from publius.inference.sampling import Sampling

__all__ = [
    "Drawn",
    "adjusted",
    "draw",
    "likeliest",
    "log_probs",
    "pick",
    "row_uniforms",
    "scores",
]

Drawn = tuple[int, float]
"""A token and its log-probability."""


def row_uniforms(sampling: Sampling, index: int) -> Tensor:
    """The uniform numbers one row will use, float64 [max_tokens] in [0, 1).

    With a seed they are a function of (seed, index) only; row `index` of a call that gave one Sampling
    to all its prompts has its own stream.
    """
    if sampling.seed is None:
        return torch.rand(sampling.max_tokens, dtype=torch.float64)
    digest = hashlib.blake2b(f"{sampling.seed}:{index}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
    return torch.rand(sampling.max_tokens, dtype=torch.float64, generator=generator)


def adjusted(logits_V: Tensor, request: Request, said: Sequence[int]) -> Tensor:
    """Logits of one row after its penalties and biases; `said` is its reply so far."""
    sampling, logits_V = request.sampling, logits_V.float().clone()
    size = len(logits_V)
    if sampling.repetition_penalty != 1:
        seen = torch.tensor(sorted({*request.prompt, *said}), device=logits_V.device)
        values = logits_V[seen]
        factor = sampling.repetition_penalty
        logits_V[seen] = torch.where(values > 0, values / factor, values * factor)
    if said and (sampling.presence_penalty or sampling.frequency_penalty):
        counts = Counter(said)
        ids = torch.tensor(list(counts), device=logits_V.device)
        times = torch.tensor(list(counts.values()), dtype=torch.float32, device=logits_V.device)
        logits_V[ids] -= sampling.presence_penalty + sampling.frequency_penalty * times
    for token, bias in sampling.logit_bias.items():
        if 0 <= token < size:
            logits_V[token] += bias
    return logits_V


def log_probs(logits_BV: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """Log-probabilities of the distribution each row samples from, float32 [B, V].

    At temperature 1 without filters this is exactly log-softmax. For greedy rows too: the number
    reported is the model's own. Filtered tokens get -inf and the rest is renormalised.
    """
    logits_BV = logits_BV.float()
    scales = [s.temperature if s.temperature > 0 else 1.0 for s in samplings]
    if any(scale != 1.0 for scale in scales):
        logits_BV = logits_BV / torch.tensor(scales, device=logits_BV.device)[:, None]
    logp_BV = logits_BV.log_softmax(-1)
    filtered = [i for i, s in enumerate(samplings) if s.temperature > 0 and (s.top_k or s.top_p or s.min_p)]
    if filtered:
        rows = torch.tensor(filtered, device=logits_BV.device)
        logp_BV[rows] = _filter(logp_BV[rows], [samplings[i] for i in filtered])
    return logp_BV


def _filter(logp_BV: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """Top-k, then top-p of what is left, then min-p. Ties fall to the lower id: the batch does not matter."""
    vocabulary, device = logp_BV.shape[1], logp_BV.device
    top_k = torch.tensor([min(s.top_k or vocabulary, vocabulary) for s in samplings], device=device)[:, None]
    top_p = torch.tensor([s.top_p or 1.0 for s in samplings], dtype=torch.float64, device=device)[:, None]
    min_p = torch.tensor([s.min_p or 0.0 for s in samplings], dtype=torch.float64, device=device)[:, None]
    ordered, ids = logp_BV.sort(dim=-1, descending=True, stable=True)
    kept = torch.arange(vocabulary, device=device) < top_k
    p = ordered.double().masked_fill(~kept, -math.inf).softmax(-1)
    before = p.cumsum(-1) - p  # mass of the likelier tokens: the first token is always kept
    kept &= (before < top_p) | (top_p >= 1)
    kept &= p >= min_p * p[:, :1]
    ordered = ordered.masked_fill(~kept, -math.inf).log_softmax(-1)
    return torch.empty_like(logp_BV).scatter_(-1, ids, ordered)


def pick(logp_BV: Tensor, uniforms_B: Tensor, greedy_B: Tensor) -> tuple[Tensor, Tensor]:
    """Choose a token per row: argmax where greedy, else the inverse of the distribution at the uniform.

    Returns:
        tokens int64 [B] and their log-probabilities float32 [B] (NaN where the logits hold one).
    """
    if greedy_B.all():
        logp_B, tokens_B = logp_BV.max(-1)
        return tokens_B, logp_B
    cdf_BV = logp_BV.double().exp().cumsum(-1)
    total_B1 = cdf_BV[:, -1:]
    # Strictly below the total, so that a token of probability 0 (flat cdf) is never the answer.
    target_B1 = torch.minimum(uniforms_B[:, None] * total_B1, total_B1.nextafter(torch.zeros_like(total_B1)))
    drawn_B = torch.searchsorted(cdf_BV, target_B1, right=True)[:, 0]
    drawn_B = drawn_B.clamp_(max=logp_BV.shape[1] - 1)  # only NaN gets there; its log-probability tells
    tokens_B = torch.where(greedy_B, logp_BV.argmax(-1), drawn_B)
    return tokens_B, logp_BV.gather(-1, tokens_B[:, None])[:, 0]


def draw(
    logits_BV: Tensor,
    samplings: Sequence[Sampling],
    uniforms: Sequence[float],
    masks: Mapping[int, NDArray[np.uint32]] | None = None,
) -> list[tuple[Drawn, Tensor | None]]:
    """A token for each row, and the log-probabilities it was drawn from where those had to be made.

    How a row is drawn depends on its own sampling alone: without filters natively, where that is possible.
    `masks` of some rows say, a bit a token, which may come; logits of the others may become -inf in place.
    """
    masks = masks or {}
    made: list[tuple[Drawn, Tensor | None]] = [((0, 0.0), None)] * len(samplings)
    plain = [i for i, s in enumerate(samplings) if s.plain]
    if plain and can_draw(logits_BV):
        rows = logits_BV if len(plain) == len(samplings) else logits_BV[plain]
        drawn = draw_rows(
            rows,
            [samplings[i].temperature for i in plain],
            [uniforms[i] for i in plain],
            {place: masks[i] for place, i in enumerate(plain) if i in masks} if masks else None,
        )
        for i, one in zip(plain, drawn, strict=True):
            made[i] = (one, None)
        rest = [i for i, s in enumerate(samplings) if not s.plain]
    else:
        rest = list(range(len(samplings)))
    if rest:
        chosen, device = [samplings[i] for i in rest], logits_BV.device
        for i in rest:
            if i in masks:
                _restrict(logits_BV[i], masks[i])
        logp_BV = log_probs(logits_BV if len(rest) == len(samplings) else logits_BV[rest], chosen)
        greedy_B = torch.tensor([s.temperature == 0 for s in chosen], device=device)
        uniforms_B = torch.tensor([uniforms[i] for i in rest], dtype=torch.float64, device=device)
        tokens_B, chosen_B = pick(logp_BV, uniforms_B, greedy_B)
        for i, token, logp, logp_V in zip(rest, tokens_B.tolist(), chosen_B.tolist(), logp_BV, strict=True):
            made[i] = ((token, logp), logp_V)
    return made


def _restrict(logits_V: Tensor, mask: NDArray[np.uint32]) -> None:
    """Make -inf, in place, what has no bit set in `mask`."""
    size = len(logits_V)
    allowed = np.unpackbits(mask.view(np.uint8), bitorder="little", count=min(size, mask.size * 32))
    forbidden = torch.ones(size, dtype=torch.bool)
    forbidden[: len(allowed)] = torch.from_numpy(allowed == 0)
    logits_V.masked_fill_(forbidden.to(logits_V.device), -math.inf)


def scores(logits_BV: Tensor, rows: Sequence[int], tokens: Sequence[int]) -> list[float]:
    """Log-probability, at temperature 1, of each token in its row; NaN where the row holds one."""
    if can_draw(
        logits_BV
    ):  # each row by itself, in one order: PyTorch sums a lone long row by several threads
        return score_rows(logits_BV, rows, tokens)
    logits_BV, device = logits_BV.float(), logits_BV.device
    total_B = logits_BV.logsumexp(-1)
    index, ids = torch.tensor(rows, device=device), torch.tensor(tokens, device=device)
    return (logits_BV[index, ids] - total_B[index]).tolist()


def likeliest(logp_V: Tensor, count: int) -> Alternatives:
    """The `count` likeliest tokens of a row, without those that cannot come; of ties the lower ids first."""
    least = logp_V.topk(min(count, len(logp_V))).values[-1].clamp(min=torch.finfo(logp_V.dtype).min)
    ids = (logp_V >= least).nonzero()[:, 0]
    values, order = logp_V[ids].sort(descending=True, stable=True)
    return tuple(zip(ids[order].tolist()[:count], values.tolist()[:count], strict=True))
