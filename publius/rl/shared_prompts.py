"""Replies to one prompt as branches of one row, so that the prompt is computed once for all of them.

    prompt | reply 1 | reply 2 | ...

Every branch sees the prompt and itself, at the positions it has in a row of its own. Numbers are those of
separate rows, to rounding; with 8 samples and replies as long as prompts it is little over half the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Branches", "branch"]


class Branches(NamedTuple):
    """G rows of W places (padded), and where in them each place of the original rows is."""

    tokens_GW: Tensor
    positions_GW: Tensor
    mask: Tensor
    """bool [G, 1, W, W], True = attend."""
    places_BT: Tensor
    """Index into the flattened rows of each place that was not padding; 0 where it was."""


def branch(inputs_BT: Tensor, actions_BT: Tensor, lengths_B: Tensor) -> Branches:
    """Rows with one and the same beginning, up to the place of their first action, as one row each.

    Args:
        inputs_BT: int64, padded.
        actions_BT: bool; place t is about the token after input t. A row without any shares nothing.
        lengths_B: places of each row that are not padding.
    """
    device, lengths = inputs_BT.device, lengths_B.tolist()
    rows = [row[:length] for row, length in zip(inputs_BT.tolist(), lengths, strict=True)]
    acts = actions_BT.any(1).tolist()
    first = actions_BT.int().argmax(1).tolist()
    heads = [f + 1 if acting else length for f, acting, length in zip(first, acts, lengths, strict=True)]
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, (row, head) in enumerate(zip(rows, heads, strict=True)):
        groups.setdefault(tuple(row[:head]), []).append(number)
    width = max(len(head) + sum(lengths[i] - len(head) for i in group) for head, group in groups.items())
    tokens, positions, branches = (torch.zeros(len(groups), width, dtype=torch.int64) for _ in range(3))
    branches -= 1  # padding
    places = torch.zeros(inputs_BT.shape, dtype=torch.int64)
    for g, (head, group) in enumerate(groups.items()):
        end = len(head)
        _put(tokens[g], 0, head)
        positions[g, :end], branches[g, :end] = torch.arange(end), 0
        for number, i in enumerate(group, start=1):
            tail = rows[i][len(head) :]
            here = slice(end, end + len(tail))
            _put(tokens[g], end, tail)
            positions[g, here], branches[g, here] = torch.arange(len(head), lengths[i]), number
            places[i, : len(head)] = g * width + torch.arange(len(head))
            places[i, len(head) : lengths[i]] = g * width + torch.arange(end, end + len(tail))
            end += len(tail)
    of_query, of_key = branches[:, None, :, None], branches[:, None, None, :]
    mask = ((of_key == 0) | (of_key == of_query)).tril()
    return Branches(tokens.to(device), positions.to(device), mask.to(device), places.to(device))


def _put(row: Tensor, start: int, ids: Sequence[int]) -> None:
    row[start : start + len(ids)] = torch.tensor(ids, dtype=torch.int64)
