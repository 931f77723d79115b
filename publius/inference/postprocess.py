"""What becomes of a step's logits: scores, drawn tokens, guesses that stand, ends.

Shape letters: N logits, V vocabulary.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from publius.core.errors import UserError
from publius.inference.readings import Probe
from publius.inference.request import Alternatives, Request
from publius.inference.runner import Ran, wanted_rows
from publius.inference.sampler import Drawn, adjusted, draw, likeliest, scores
from publius.inference.sampling import Sampling
from publius.inference.scheduler import Work
from publius.tokenizer.tokenizer import Tokenizer

__all__ = ["postprocess"]

_log = logging.getLogger(__name__)
_FORCED = 64
"""Most tokens that a row gets in a step without asking the model: other rows wait meanwhile."""


class _Row(NamedTuple):
    """A row of logits to draw from: whose, and how many guesses come before it."""

    work: Work
    guesses: int


def postprocess(plan: Sequence[Work], ran: Ran, tokenizer: Tokenizer) -> list[int]:
    """Give every request of `plan` what its logits say.

    A request that ends has its `stop_reason` set; one whose states or logits are no numbers, its `error` too.

    Returns:
        for each work, how many of its guesses stood.
    """
    rows: list[_Row] = []
    index: list[int] = []
    scored: list[tuple[Request, int, int]] = []
    at, logits_NV = 0, ran.logits_NV
    for work in plan:
        wanted = wanted_rows(work)
        if work.request.targets is not None:
            first = work.request.computed
            scored += [(work.request, first + row, at + i) for i, row in enumerate(wanted)]
        else:
            rows += [_Row(work, i) for i in range(len(wanted))]
            index += range(at, at + len(wanted))
        at += len(wanted)
    with torch.inference_mode():
        if scored:
            _score(logits_NV, scored)
        drawn = _draw(rows, logits_NV if len(index) == at else logits_NV[index]) if rows else []
    if ran.readings:
        _keep(rows, index, ran.readings)
    stood: list[int] = []
    done = 0
    for number, work in enumerate(plan):
        offered = drawn[done : done + 1 + len(work.draft)] if work.complete else []
        done += len(offered)
        if number in ran.spoilt:
            _fail(work.request)
        stood.append(_go_on(work, offered, tokenizer))
    return stood


def _go_on(work: Work, drawn: Sequence[tuple[Drawn, Alternatives | None]], tokenizer: Tokenizer) -> int:
    """Add what was drawn, and what must follow; how many guesses stood. Whatever goes wrong in it ends this
    request: the others of the step go on."""
    try:
        stood = max(0, _take(work, drawn, tokenizer) - 1)
        if drawn:
            _force(work.request, tokenizer)
        return stood
    except Exception as error:
        _log.exception("a request failed")
        problem = f"what was drawn could not be taken: {type(error).__name__}: {error}"
        work.request.error = UserError(problem, where="Engine", fix="report it, with the request")
        work.request.stop_reason = "error"
        return 0


def _fail(request: Request) -> None:
    """What was computed for it is not numbers."""
    request.error = (request.guide and request.guide.error) or UserError(
        "the model's logits are not numbers (NaN)",
        where="Engine",
        fix="sample less extremely; with plain sampling, its weights diverged: go back",
    )
    request.stop_reason = "error"


def _take(work: Work, drawn: Sequence[tuple[Drawn, Alternatives | None]], tokenizer: Tokenizer) -> int:
    """Add drawn tokens until one ends the request or a guess was wrong; how many were added."""
    request = work.request
    if request.stop_reason is not None:
        return 0
    for added, ((token, logprob), alternatives) in enumerate(drawn, 1):
        if logprob != logprob:
            _fail(request)
            return added
        if alternatives is not None:
            request.alternatives.append(alternatives)
        ended = request.add(token, logprob, tokenizer)
        if ended or (added <= len(work.draft) and work.draft[added - 1] != token):
            return added
    return len(drawn)


def _force(request: Request, tokenizer: Tokenizer) -> None:
    """Add the tokens that must come next, whatever the model says: drawn among one, each would have come with
    log-probability 0. The next step reads them together, and what ends a reply is not read at all.

    A probe wants the state before every token, and a forbidden one is for the draw to find.
    """
    guide, sampling = request.guide, request.sampling
    if guide is None or request.probe is not None:
        return
    for _ in range(_FORCED):
        if request.stop_reason is not None or (token := guide.forced()) is None:
            return
        if sampling.logit_bias.get(token) == -math.inf:
            return
        if sampling.alternatives:
            request.alternatives.append(((token, 0.0),))
        request.add(token, 0.0, tokenizer)


def _draw(rows: Sequence[_Row], logits_NV: Tensor) -> list[tuple[Drawn, Alternatives | None]]:
    """For each row a token, its log-probability, and the alternatives when asked for."""
    samplings = [row.work.request.sampling for row in rows]
    uniforms: list[float] = []
    biased: dict[int, Sampling] = {}
    for number, (work, guesses) in enumerate(rows):
        request = work.request
        assert request.uniforms is not None
        uniforms.append(float(request.uniforms[len(request.tokens) + guesses]))
        if request.sampling.only_biases and logits_NV.dtype == torch.float32:
            biased[number] = request.sampling
        elif request.sampling.adjusts:
            said = [*request.tokens, *work.draft[:guesses]]
            logits_NV[number] = adjusted(logits_NV[number], request, said).to(logits_NV.dtype)
    _bias(logits_NV, biased)
    guided = [(number, guide) for number, row in enumerate(rows) if (guide := row.work.request.guide)]
    masks = {number: bits for number, guide in guided if (bits := guide.allowed()) is not None}
    drawn = draw(logits_NV, samplings, uniforms, masks)
    for number, guide in guided:
        logprob = drawn[number][0][1]
        if logprob != logprob and guide.error is None and not logits_NV[number].isnan().any():
            guide.stick("every token that may come next is forbidden otherwise")
    return [
        (
            one,
            likeliest(logp_V, sampling.alternatives)
            if logp_V is not None and sampling.alternatives
            else None,
        )
        for (one, logp_V), sampling in zip(drawn, samplings, strict=True)
    ]


def _keep(rows: Sequence[_Row], index: Sequence[int], readings: Mapping[Probe, NDArray[np.float32]]) -> None:
    """What the probes said of the states that `rows` (at `index` of the wanted ones) were drawn from."""
    plain = {probe: values_NK.tolist() for probe, values_NK in readings.items()}
    for (work, guesses), place in zip(rows, index, strict=True):
        probe = work.request.probe
        if probe is not None:
            work.request.keep(guesses, plain[probe][place])


def _bias(logits_NV: Tensor, biased: Mapping[int, Sampling]) -> None:
    """Add the biases of some rows, all at once: rows of a server have some at every step."""
    if not biased:
        return
    known = [sampling.biases for sampling in biased.values()]
    rows = np.repeat(np.fromiter(biased, np.int64, len(known)), [len(ids) for ids, _ in known])
    tokens, values = (np.concatenate(parts) for parts in zip(*known, strict=True))
    if not (inside := tokens < logits_NV.shape[1]).all():
        rows, tokens, values = rows[inside], tokens[inside], values[inside]
    at = tuple(torch.from_numpy(places).to(logits_NV.device) for places in (rows, tokens))
    logits_NV.index_put_(at, torch.from_numpy(values).to(logits_NV.device), accumulate=True)


def _score(logits_NV: Tensor, scored: Sequence[tuple[Request, int, int]]) -> None:
    """Log-probabilities of the targets of each (request, place, row) into the requests, and of the likeliest
    ids where they are asked for: all from one sum, so that equal tokens have equal numbers."""
    targets = [(request.targets or {})[place] for request, place, _ in scored]
    ranked = _likeliest_ids(logits_NV, scored)
    asked = [[*ids, *more] for ids, more in zip(targets, ranked, strict=True)]
    rows = [row for (_, _, row), ids in zip(scored, asked, strict=True) for _ in ids]
    values = scores(logits_NV, rows, [token for ids in asked for token in ids])
    done = 0
    for (request, place, _), ids, more in zip(scored, targets, ranked, strict=True):
        found = values[done : done + len(ids) + len(more)]
        done += len(found)
        request.scores[place] = found[: len(ids)]
        if more:
            request.ranked[place] = tuple(zip(more, found[len(ids) :], strict=True))
        if any(value != value for value in found):
            _fail(request)


def _likeliest_ids(logits_NV: Tensor, scored: Sequence[tuple[Request, int, int]]) -> list[list[int]]:
    """For each place that is scored the ids its request wants ranked, best first; mostly none."""
    counts = [min(request.sampling.alternatives, logits_NV.shape[1]) for request, _, _ in scored]
    found: list[list[int]] = [[] for _ in counts]
    asking = [number for number, count in enumerate(counts) if count]
    if asking:
        rows = [scored[number][2] for number in asking]
        ids_NK = logits_NV[rows].topk(max(counts)).indices.tolist()
        for number, ids in zip(asking, ids_NK, strict=True):
            found[number] = ids[: counts[number]]
    return found
