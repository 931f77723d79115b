"""Intervals for every number we publish: a rate without n and an interval is not a result."""

from __future__ import annotations

import math
import random
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

__all__ = [
    "CalibrationBin",
    "Estimate",
    "auroc",
    "binomial_upper",
    "bootstrap",
    "calibration",
    "calibration_error",
    "mean_estimate",
    "t_estimate",
    "wilson",
]


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


def binomial_upper(successes: int, n: int, confidence: float = 0.95) -> float:
    """The one-sided upper bound of a rate (Clopper and Pearson 1934): exact, never surer than is promised."""
    if n == 0 or successes >= n:
        return 1.0
    low, high = successes / n, 1.0
    for _ in range(60):  # the chance to see so few falls as the rate rises
        middle = (low + high) / 2
        low, high = (middle, high) if _at_most(successes, n, middle) > 1 - confidence else (low, middle)
    return high


def _at_most(successes: int, n: int, rate: float) -> float:
    """The chance of at most so many of `n`."""
    if rate <= 0:
        return 1.0
    terms = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        + k * math.log(rate) + (n - k) * math.log1p(-rate)
        for k in range(successes + 1)
    ]  # fmt: skip
    return math.fsum(math.exp(term) for term in terms)


def auroc(positives: Sequence[float], negatives: Sequence[float], z: float = 1.959964) -> Estimate:
    """How often a positive scores above a negative (a tie is half), with DeLong's interval (1988).

    Where all are told apart that interval has no width: then it is Wilson's, of as many as there are on the
    smaller side. NaN where a side is empty.
    """
    m, n = len(positives), len(negatives)
    if not m or not n:
        return Estimate(math.nan, m + n, 0.0, 1.0)
    high, low = sorted(positives), sorted(negatives)
    above = [_rank(low, score) / n for score in positives]
    below = [1 - _rank(high, score) / m for score in negatives]
    area = sum(above) / m
    spread = _variance(above) / m + _variance(below) / n
    if spread == 0:  # nothing was ever out of order: what a rate of none among the fewer would leave open
        fewer = wilson(round(area * min(m, n)), min(m, n), z)
        return Estimate(area, m + n, fewer.low, fewer.high)
    half = z * math.sqrt(spread)
    return Estimate(area, m + n, max(0.0, area - half), min(1.0, area + half))


def _rank(ordered: Sequence[float], score: float) -> float:
    """How many lie below, those equal by half."""
    return (bisect_left(ordered, score) + bisect_right(ordered, score)) / 2


def _variance(values: Sequence[float]) -> float:
    if len(values) < 2:
        return 0.0
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values) / (len(values) - 1)


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


def t_estimate(values: Sequence[float]) -> Estimate:
    """A mean with Student's 95% interval, for a handful of values (seeds); that of one value has no end."""
    n = len(values)
    if n < 2:
        value = values[0] if values else math.nan
        return Estimate(value, n, -math.inf, math.inf)
    mean = sum(values) / n
    error = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1) / n)
    return Estimate(mean, n, mean - _t(n - 1) * error, mean + _t(n - 1) * error)


_T = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)


def _t(freedom: int) -> float:
    """The 97.5% quantile of Student's t; from 11 degrees on by Fisher and Cornish (1960), to 3e-4."""
    if freedom <= len(_T):
        return _T[freedom - 1]
    z = 1.959964
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def bootstrap(
    items: Sequence[Any], statistic: Callable[[Sequence[Any]], float], *, draws: int = 1000, seed: int = 0
) -> Estimate:
    """Any statistic of `items` with a percentile bootstrap interval (Efron 1979)."""
    rng = random.Random(seed)
    n = len(items)
    values = sorted(statistic([items[rng.randrange(n)] for _ in range(n)]) for _ in range(draws))
    return Estimate(statistic(items), n, values[int(0.025 * draws)], values[int(0.975 * draws) - 1])


class CalibrationBin(NamedTuple):
    """Predictions of about the same confidence, and how often they came true.

    Attributes:
        low, high: the bin's edges.
        confidence: mean of what was said.
        observed: share that came true, with its 95% interval.
    """

    low: float
    high: float
    confidence: float
    observed: float
    n: int
    observed_low: float
    observed_high: float


def _cells(said: Sequence[tuple[float, float]], bins: int, low: float) -> list[list[tuple[float, float]]]:
    cells: list[list[tuple[float, float]]] = [[] for _ in range(bins)]
    for confidence, outcome in said:
        cells[max(0, min(int((confidence - low) / (1 - low) * bins), bins - 1))].append((confidence, outcome))
    return cells


def calibration(
    said: Sequence[tuple[float, bool]], *, bins: int = 10, low: float = 0.0
) -> list[CalibrationBin]:
    """Stated against observed: the bins, of equal width between `low` and 1, that are not empty.

    Args:
        said: (confidence, whether it came true).
        low: the least confidence there can be: 0.5 for the preferred one of two.
    """
    table: list[CalibrationBin] = []
    width = (1 - low) / bins
    for i, cell in enumerate(_cells(said, bins, low)):
        if cell:
            seen = wilson(sum(bool(outcome) for _, outcome in cell), len(cell))
            mean = sum(confidence for confidence, _ in cell) / len(cell)
            edges = (low + i * width, low + (i + 1) * width)
            table.append(CalibrationBin(*edges, mean, *seen))
    return table


def calibration_error(said: Sequence[tuple[float, float]], *, bins: int = 10, low: float = 0.0) -> float:
    """Mean gap between confidence and outcome over bins of equal width (ECE; Guo et al. 2017).

    Args:
        said: (confidence, outcome), where an outcome may be a probability itself. NaN where there are none.
        low: as for `calibration`.
    """
    if not said:
        return math.nan
    return sum(abs(sum(c - o for c, o in cell)) for cell in _cells(said, bins, low)) / len(said)
