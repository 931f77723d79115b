"""What a hunt may spend, and its habits."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from publius.core.config import Config

__all__ = ["HuntSettings"]


class HuntSettings(Config):
    """Budget and habits of a hunt."""

    plan: Literal["search", "random", "plain", "bare"] = "search"
    """`random` draws style, mutator and request evenly, `plain` asks in the wordings of `direct`, `bare` asks
    the request as it stands: what a search is compared with."""
    budget: int = Field(default=1000, ge=1)
    """Replies of the target: attacks and the re-runs that confirm them."""
    width: int = Field(default=16, ge=1)
    """Attacks of a generation, played side by side. Fewer learn sooner, more are played faster."""
    keep: int = Field(default=3, ge=1)
    """Best chains that a cell keeps."""
    memory: int = Field(default=3, ge=0)
    """Earlier attacks on its cell that an attacker is shown, best first."""
    breed: float = Field(default=0.5, ge=0, le=1)
    """Share of attacks that come from a kept chain, where one is kept that got something: half of them put
    one more mutator around the same request, half say the same around another. The others are drawn anew."""
    explore: float = Field(default=0.2, ge=0, le=1)
    """Share of draws that the bandit makes evenly, in what they cost."""
    discount: float = Field(default=0.999, gt=0, le=1)
    """What each further attack leaves of the weight of those before it."""
    tries: int = Field(default=5, ge=1)
    """Re-runs of a hit at temperature 1."""
    reproduced: int = Field(default=1, ge=1)
    """Re-runs that must reach the goal again for a hit to be a finding."""
    seed: int = 0
