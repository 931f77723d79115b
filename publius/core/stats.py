"""Intervals for every number we publish: a rate without n and an interval is not a result."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

__all__ = ["Estimate", "bootstrap", "mean_estimate", "wilson"]


class Estimate(NamedTuple):
    """A value with its sample size and 95% interval."""

    value: float
    n: int
    low: float
    high: float

    def as_dict(self) -> dict[str, Any]:
        """`{"value", "n", "low", "high"}`, as `publius show --json` prints it."""
        return {"value": self.value, "n": self.n, "low": self.low, "high": self.high}


def wilson(successes: int, n: int, z: float = 1.959964) -> Estimate:
    """A rate with its Wilson score interval (Wilson 1927); n = 0 gives the vacuous [0, 1]."""
    if n == 0:
        return Estimate(math.nan, 0, 0.0, 1.0)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Estimate(p, n, max(0.0, centre - half), min(1.0, centre + half))


def mean_estimate(values: Sequence[float], z: float = 1.959964) -> Estimate:
    """A mean with its normal 95% interval; one value gives a zero-width interval."""
    n = len(values)
    if n == 0:
        return Estimate(math.nan, 0, -math.inf, math.inf)
    mean = sum(values) / n
    if n == 1:
        return Estimate(mean, 1, mean, mean)
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1) / n)
    return Estimate(mean, n, mean - z * spread, mean + z * spread)


def bootstrap(
    items: Sequence[Any], statistic: Callable[[Sequence[Any]], float], *, draws: int = 1000, seed: int = 0
) -> Estimate:
    """Any statistic of `items` with a percentile bootstrap interval (Efron 1979)."""
    rng = random.Random(seed)
    n = len(items)
    values = sorted(statistic([items[rng.randrange(n)] for _ in range(n)]) for _ in range(draws))
    return Estimate(statistic(items), n, values[int(0.025 * draws)], values[int(0.975 * draws) - 1])
