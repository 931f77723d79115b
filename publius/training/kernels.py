"""Which kernel computes attention while a run trains, and whether it can here.

`auto` is SDPA everywhere: it is what was measured to be right, and `flex` and `varlen` (`model.packed`) have
not run on a GPU yet. `benchmarks/gpu.py` checks and times all three; when it has, `auto` follows it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch

from publius.core.errors import UserError
from publius.model.config import ModelConfig
from publius.model.packed import Kernel
from publius.training.compiling import can_compile

__all__ = ["attention_kernel"]

_SMALLEST_FLEX = 16
_LARGEST_FLASH, _FLASH_STEP = 256, 8


def attention_kernel(
    wanted: Kernel | Literal["auto"],
    device: torch.device,
    dtype: torch.dtype,
    shapes: Iterable[ModelConfig],
    *,
    context: int = 1,
) -> Kernel:
    """The kernel of a run.

    Args:
        wanted: as configured.
        device: where the run computes.
        dtype: in which it computes.
        shapes: of the models it trains.
        context: ranks that share a row.

    Raises:
        UserError: when that kernel cannot work so.
    """
    if wanted == "auto" or wanted == "sdpa":
        return "sdpa"
    if reason := _cannot(wanted, device, dtype, shapes, context):
        raise UserError(
            f"attention={wanted} cannot be used: {reason}",
            where="attention",
            fix="leave it at auto, or set it to sdpa; the result is the same up to rounding",
        )
    return wanted


def _cannot(
    wanted: Kernel, device: torch.device, dtype: torch.dtype, shapes: Iterable[ModelConfig], context: int
) -> str | None:
    if device.type != "cuda":
        return f"it has no gradient on {device.type}, only on CUDA"
    if context > 1:
        return f"rows are shared by {context} ranks (parallel.context)"
    dims = sorted({shape.head_dim for shape in shapes})
    if wanted == "flex":
        small = [dim for dim in dims if dim < _SMALLEST_FLEX]
        if small:
            return f"heads need {_SMALLEST_FLEX} dimensions or more, not {small[0]}"
        return (
            None if can_compile("cuda") else "it has to be compiled, and this machine has no working Triton"
        )
    if dtype not in (torch.bfloat16, torch.float16):
        return f"FlashAttention computes in bfloat16, not in {dtype} (dtype)"
    odd = [dim for dim in dims if dim > _LARGEST_FLASH or dim % _FLASH_STEP]
    if odd:
        return f"heads need a multiple of {_FLASH_STEP} dimensions up to {_LARGEST_FLASH}, not {odd[0]}"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "FlashAttention needs an Ampere GPU or a later one"
    return None
