"""Whether to compile the blocks, and where compiled code is kept.

Compiling is an extra: without a compiler, training is as correct and a little slower, so its absence is
never an error. The choice depends on the machine and on the length of the whole run, never on a clock: a run
that was killed chooses again as it did.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Literal

import torch

from publius.core.console import console

__all__ = ["PAYS_FROM_FLOPS", "can_compile", "compile_blocks"]

PAYS_FROM_FLOPS = 1.5e14
"""A run of so many floating-point operations (about ten minutes of one core) wins back twice what compiling
costs; measured in docs/decisions.md."""


def compile_blocks(wanted: bool | Literal["auto"], device: torch.device, flops: float) -> bool:
    """Whether this run compiles.

    Args:
        wanted: `auto` compiles on CPU when the run is long enough and compiling works.
        device: where the run computes.
        flops: of the whole run, forward and backward; 0 when unknown.
    """
    if wanted == "auto":
        return device.type == "cpu" and flops >= PAYS_FROM_FLOPS and can_compile(device.type)
    if wanted and not can_compile(device.type):
        console.print(
            "compile: this machine cannot (no working C++ compiler?); going on without", markup=False
        )
        return False
    return wanted


@functools.cache
def can_compile(device: str) -> bool:
    """Whether compiling a small function on `device` works: tried, since headers can be missing too.

    Compiled code is kept in the user's cache folder (TORCHINDUCTOR_CACHE_DIR, else XDG_CACHE_HOME, else
    ~/.cache), so that it is made once for each shape.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(cache) / "publius" / "inductor"))
    try:
        torch.compile(_tried)(torch.zeros(8, device=device))
    except Exception:  # whatever is missing: the answer is no
        return False
    return True


def _tried(x: torch.Tensor) -> torch.Tensor:
    return x.sin() + 1
