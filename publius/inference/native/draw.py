"""Draws a token for each row of logits, scores given ones, and reads probes, in the CPU's own code."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from publius.inference.native.build import library

__all__ = ["can_draw", "draw_rows", "read_rows", "score_rows"]


def can_draw(logits_BV: Tensor) -> bool:
    """Whether the functions here take these: fp32 on a CPU that has the library, each row together."""
    fits = logits_BV.device.type == "cpu" and logits_BV.dtype == torch.float32 and logits_BV.stride(1) == 1
    return fits and library() is not None


def draw_rows(
    logits_BV: Tensor,
    temperatures: Sequence[float],
    uniforms: Sequence[float],
    masks: Mapping[int, NDArray[np.uint32]] | None = None,
) -> list[tuple[int, float]]:
    """Token and log-probability of each row; NaN where the logits hold one, or where no token may come.

    Args:
        logits_BV: as `can_draw` wants them.
        temperatures: 0 is greedy; its log-probability is at temperature 1.
        uniforms: in [0, 1), where in the cumulative distribution to draw.
        masks: of some rows: a bit a token, the lowest first, all of one length; what has none may not come.
    """
    found = library()
    assert found is not None, "ask can_draw first"
    rows, count = logits_BV.shape
    heat, places = np.array(temperatures, np.float32), np.array(uniforms, np.float64)
    tokens, logps = np.empty(rows, np.int64), np.empty(rows, np.float32)
    bits, words = np.zeros(rows, np.uint64), 0
    for row, mask in (masks or {}).items():
        bits[row], words = mask.ctypes.data, len(mask)
    found.publius_draw(
        ctypes.c_void_p(logits_BV.data_ptr()), rows, count, ctypes.c_int64(logits_BV.stride(0)),
        *(ctypes.c_void_p(a.ctypes.data) for a in (heat, places, bits)), words,
        *(ctypes.c_void_p(a.ctypes.data) for a in (tokens, logps)),
    )  # fmt: skip
    return list(zip(tokens.tolist(), logps.tolist(), strict=True))


def score_rows(logits_BV: Tensor, rows: Sequence[int], tokens: Sequence[int]) -> list[float]:
    """Log-probability at temperature 1 of each token in its row, to the bit what `draw_rows` reports of it.

    Args:
        logits_BV: as `can_draw` wants them.
        rows: of each token; a row's tokens next to each other are the cheapest.
    """
    found = library()
    assert found is not None, "ask can_draw first"
    places, ids = np.array(rows, np.int64), np.array(tokens, np.int64)
    logps = np.empty(len(places), np.float32)
    found.publius_score(
        ctypes.c_void_p(logits_BV.data_ptr()), logits_BV.shape[1], ctypes.c_int64(logits_BV.stride(0)),
        len(places), *(ctypes.c_void_p(a.ctypes.data) for a in (places, ids, logps)),
    )  # fmt: skip
    return logps.tolist()


def read_rows(states_NS: Tensor, weights_KS: NDArray[np.float32]) -> NDArray[np.float32]:
    """Linear outputs [N, K] of each row, summed in one order wherever the row stands.

    Args:
        states_NS: as `can_draw` wants them.
        weights_KS: [K, S + 1], a bias last, contiguous.
    """
    found = library()
    assert found is not None, "ask can_draw first"
    rows, outputs = len(states_NS), len(weights_KS)
    read = np.empty((rows, outputs), np.float32)
    found.publius_read(
        ctypes.c_void_p(states_NS.data_ptr()), rows, states_NS.shape[1], ctypes.c_int64(states_NS.stride(0)),
        ctypes.c_void_p(weights_KS.ctypes.data), outputs, ctypes.c_void_p(read.ctypes.data),
    )  # fmt: skip
    return read
