"""Rotary position variants: how fast each pair of a head turns with position.

A variant is a frozen config, told apart by `kind`, so that it is part of a model's identity. The table of
cosines itself is `attention.RotaryTable`.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor

from publius.core.config import Config

__all__ = [
    "DynamicRope",
    "LinearRope",
    "Llama3Rope",
    "PlainRope",
    "RopeScaling",
    "Rotation",
    "YarnRope",
    "rotation",
]


class PlainRope(Config):
    """RoPE as published (Su et al. 2021, arXiv 2104.09864)."""

    kind: Literal["default"] = "default"


class LinearRope(Config):
    """Positions divided by `factor` (Chen et al. 2023, arXiv 2306.15595)."""

    kind: Literal["linear"] = "linear"
    factor: float = Field(gt=0)


class DynamicRope(Config):
    """NTK-aware scaling of the base, by the length of the row, for rows over `max_position` (Peng et al.
    2023, arXiv 2309.00071, section 3.3). Shorter rows are plain."""

    kind: Literal["dynamic"] = "dynamic"
    factor: float = Field(ge=1)


class YarnRope(Config):
    """YaRN (Peng et al. 2023, arXiv 2309.00071): slow pairs interpolated, fast ones left, a ramp between."""

    kind: Literal["yarn"] = "yarn"
    factor: float = Field(gt=0)
    original_max_position: int = Field(gt=0)
    """Positions before the extension."""
    attention_factor: float | None = Field(default=None, gt=0)
    """What cosines and sines are multiplied by; None derives it from `factor` (and the two `mscale`)."""
    mscale: float | None = None
    mscale_all_dim: float | None = None
    beta_fast: float = Field(default=32.0, gt=0)
    """Turns over the original length above which a pair is left as it is."""
    beta_slow: float = Field(default=1.0, gt=0)
    """Turns below which a pair is fully interpolated."""
    truncate: bool = True
    """Round the ends of the ramp outwards to whole pairs."""


class Llama3Rope(Config):
    """Llama 3.1's: slow pairs divided by `factor`, fast ones left, a smooth step between."""

    kind: Literal["llama3"] = "llama3"
    factor: float = Field(gt=0)
    low_freq_factor: float = Field(default=1.0, gt=0)
    high_freq_factor: float = Field(default=4.0, gt=0)
    original_max_position: int = Field(gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> Llama3Rope:
        if self.high_freq_factor <= self.low_freq_factor:
            raise ValueError("high_freq_factor must be greater than low_freq_factor")
        return self


RopeScaling = Annotated[
    PlainRope | LinearRope | DynamicRope | YarnRope | Llama3Rope, Field(discriminator="kind")
]


class Rotation(NamedTuple):
    """Radians per position of each pair, fp32 [d/2], and what cos and sin are multiplied by."""

    rates: Tensor
    scale: float


def rotation(
    rope: RopeScaling, theta: float, head_dim: int, *, max_position: int, length: int, device: torch.device
) -> Rotation:
    """The rotation of a head.

    Args:
        rope: the variant.
        theta: the base.
        head_dim: d.
        max_position: the model's own (only the dynamic variant asks).
        length: of the row, in tokens (only the dynamic variant asks).
        device: of `rates`.
    """
    if isinstance(rope, DynamicRope) and length > max_position:
        stretch = rope.factor * length / max_position - (rope.factor - 1)
        theta = theta * stretch ** (head_dim / (head_dim - 2))
    steps = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device)
    plain = 1.0 / (theta ** (steps / head_dim))
    if isinstance(rope, LinearRope):
        return Rotation(plain / rope.factor, 1.0)
    if isinstance(rope, YarnRope):
        return Rotation(_yarn_rates(rope, theta, head_dim, plain), _yarn_scale(rope))
    if isinstance(rope, Llama3Rope):
        return Rotation(_llama3_rates(rope, plain), 1.0)
    return Rotation(plain, 1.0)


def _yarn_rates(rope: YarnRope, theta: float, head_dim: int, plain: Tensor) -> Tensor:
    """Section 3.2 of the paper, with the ends of the ramp as transformers rounds and clamps them."""

    def pair_with(turns: float) -> float:
        return head_dim * math.log(rope.original_max_position / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = pair_with(rope.beta_fast), pair_with(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001
    pairs = torch.arange(head_dim // 2, dtype=torch.float32, device=plain.device)
    kept = 1 - ((pairs - low) / (high - low)).clamp(0, 1)
    return plain / rope.factor * (1 - kept) + plain * kept


def _yarn_scale(rope: YarnRope) -> float:
    def grown(weight: float) -> float:
        return 1.0 if rope.factor <= 1 else 0.1 * weight * math.log(rope.factor) + 1.0

    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.mscale and rope.mscale_all_dim:
        return grown(rope.mscale) / grown(rope.mscale_all_dim)
    return grown(1.0)


def _llama3_rates(rope: Llama3Rope, plain: Tensor) -> Tensor:
    turns = rope.original_max_position * plain / (2 * math.pi)  # over the original length
    share = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    share = share.clamp(0, 1)  # 0: slow, divided by the factor; 1: fast, as it was
    return (1 - share) * plain / rope.factor + share * plain
