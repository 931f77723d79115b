"""Short texts that begin alike, scored in one plain forward pass: each shared token is read once.

The engine shares whole pages of tokens, which is much of a long prompt and little of a short one. Here sorted
texts become a tree, laid out as one row: a token sees its own ancestors and no other token. Matrix products
are PyTorch's, which for hundreds of rows at once are the faster ones; logits exist only where wanted.

Shape letters: B packs, T tokens of the longest, N wanted places, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from publius.inference.engine import Engine
from publius.inference.request import Request

__all__ = ["Pack", "packs_of", "read_packed"]

_MOST, _STEP = 512, 1024
"""Tokens of a pack, and of all packs of a forward pass: enough for the products, few enough for the mask."""
_LEAST, _LONG = 4, 64
"""A shorter common beginning is not worth a look; a longer one is better read once by the engine."""


class Pack(NamedTuple):
    """Texts as a tree of tokens.

    Attributes:
        reads: whose.
        tokens, places: of each node, a parent before its children.
        paths: of each read, its nodes.
    """

    reads: list[Request]
    tokens: list[int]
    places: list[int]
    paths: list[list[int]]


def packs_of(reads: Sequence[Request]) -> tuple[list[Pack], list[Request]]:
    """Sorted reads as packs, and those that the engine had better read: long ones, and those of which a pack
    would hold but a part of many that have a long beginning in common."""
    packs: list[Pack] = []
    cut: set[int] = set()
    left: list[Request] = []
    for read in reads:
        ids = read.prompt
        if len(ids) > _MOST:
            left.append(read)
            continue
        last = packs[-1] if packs else None
        common = _common(last.reads[-1].prompt, ids) if last is not None else 0
        if last is None or common < _LEAST or len(last.tokens) + len(ids) - common > _MOST:
            if common >= _LONG:
                cut |= {len(packs) - 1, len(packs)}
            packs.append(last := Pack([], [], [], []))
            common = 0
        path = last.paths[-1][:common] if common else []
        path += range(len(last.tokens), len(last.tokens) + len(ids) - common)
        last.tokens.extend(ids[common:])
        last.places.extend(range(common, len(ids)))
        last.reads.append(read)
        last.paths.append(path)
    left += [read for number in sorted(cut) for read in packs[number].reads]
    return [pack for number, pack in enumerate(packs) if number not in cut], left


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return place
    return min(len(one), len(other))


@torch.inference_mode()
def read_packed(engine: Engine, packs: Sequence[Pack]) -> list[Request]:
    """Fill in the scores of every pack's reads, and the likeliest id at each place.

    Returns:
        Reads that came to no numbers: the engine tells why.
    """
    packs = sorted(packs, key=lambda pack: -len(pack.tokens))
    failed: list[Request] = []
    start = 0
    while start < len(packs):
        end = start + max(1, _STEP // len(packs[start].tokens))
        failed += _forward(engine, packs[start:end])
        start = end
    return failed


def _forward(engine: Engine, packs: Sequence[Pack]) -> list[Request]:
    model = engine.model
    longest = len(packs[0].tokens)
    tokens_BT = torch.zeros(len(packs), longest, dtype=torch.int64)
    places_BT = torch.zeros_like(tokens_BT)
    mask_B1TT = torch.zeros(len(packs), 1, longest, longest, dtype=torch.bool)
    mask_B1TT[..., 0] = True  # padding sees the first, so that none has nothing to see
    wanted: list[tuple[Request, int, int, int]] = []
    for row, pack in enumerate(packs):
        count = len(pack.tokens)
        tokens_BT[row, :count], places_BT[row, :count] = torch.tensor(pack.tokens), torch.tensor(pack.places)
        for read, path in zip(pack.reads, pack.paths, strict=True):
            nodes = torch.tensor(path)
            mask_B1TT[row, 0][nodes[:, None], nodes] |= torch.ones(
                len(path), len(path), dtype=torch.bool
            ).tril()
            wanted += [(read, place, row, path[place]) for place in read.targets or {}]
    device = model.device
    hidden_BTD = model.hidden(
        tokens_BT.to(device), positions_BT=places_BT.to(device), mask=mask_B1TT.to(device)
    )
    rows, nodes = (torch.tensor([one[part] for one in wanted], device=device) for part in (2, 3))
    return _score(model.logits(hidden_BTD[rows, nodes]).float(), wanted)


def _score(logits_NV: Tensor, wanted: Sequence[tuple[Request, int, int, int]]) -> list[Request]:
    total_N = logits_NV.logsumexp(-1)
    best_N, ids_N = logits_NV.max(-1)
    places = [(i, t) for i, (read, place, *_) in enumerate(wanted) for t in (read.targets or {})[place]]
    rows, tokens = (torch.tensor(column, device=logits_NV.device) for column in zip(*places, strict=True))
    found = iter((logits_NV[rows, tokens] - total_N[rows]).tolist())
    best, ids, failed = (best_N - total_N).tolist(), ids_N.tolist(), dict[int, Request]()
    for i, (read, place, *_) in enumerate(wanted):
        values = [next(found) for _ in (read.targets or {})[place]]
        read.scores[place], read.ranked[place] = values, ((ids[i], best[i]),)
        if any(value != value for value in values):
            failed[id(read)] = read
    return list(failed.values())
