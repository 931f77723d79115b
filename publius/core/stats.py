"""Intervals for every number we publish: a rate without n and an interval is not a result."""

from __future__ import annotations

import math
import random
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

__all__ = [
    "CalibrationBin",
    "Estimate",
    "auroc",
    "binomial_upper",
    "bootstrap",
    "calibration",
    "calibration_error",
    "clustered",
    "clustered_rate",
    "clustered_ratio",
    "mean_estimate",
    "paired_difference",
    "t_estimate",
    "wilson",
]


_Z = 1.959964


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
    return Estimate(p, n, *_score_interval(p, n, z))


def _score_interval(p: float, n: float, z: float = _Z) -> tuple[float, float]:
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # rounding would leave the value outside its own interval
    return 0.0 if p == 0 else max(0.0, centre - half), 1.0 if p == 1 else min(1.0, centre + half)


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

    Where all are told apart that interval has no width, and where a side has one score alone, how far its
    others lie apart cannot be known: then it is Wilson's, of as many as there are on the smaller side. NaN
    where a side is empty.
    """
    m, n = len(positives), len(negatives)
    if not m or not n:
        return Estimate(math.nan, m + n, 0.0, 1.0)
    high, low = sorted(positives), sorted(negatives)
    above = [_rank(low, score) / n for score in positives]
    below = [1 - _rank(high, score) / m for score in negatives]
    area = sum(above) / m
    spread = _variance(above) / m + _variance(below) / n
    if spread == 0 or min(m, n) == 1:  # what such a rate among the fewer would leave open
        return Estimate(area, m + n, *_score_interval(area, min(m, n), z))
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


def clustered(values: Sequence[float], clusters: Sequence[Hashable] | None = None) -> Estimate:
    """A mean whose interval knows that items of one cluster (a passage, a subject, a template) go together.

    The variance is that of Miller 2024 (arXiv 2411.00640, equation 4), the sum over clusters of squared sums
    of deviations, times G / (G - 1); the interval is Student's with G - 1 degrees of freedom, for G clusters
    (Cameron and Miller 2015). Without `clusters` every item is one.

    Returns:
        With `n` the items. One cluster alone says nothing about others: its interval has no end.

    Raises:
        ValueError: when there are not as many clusters as values.
    """
    return clustered_ratio(values, [1.0] * len(values), clusters)


def clustered_ratio(
    above: Sequence[float], below: Sequence[float], clusters: Sequence[Hashable] | None = None
) -> Estimate:
    """Sum of `above` over sum of `below`, with the interval of `clustered`, linearised (Cochran 1977, 6.3).

    For a rate over those items that count only, `below` is 1 where one counts. `n` is the sum of `below`.
    """
    pull = _pull(above, below)
    total = sum(below)
    if not pull or not total:
        return Estimate(math.nan, 0, -math.inf, math.inf)
    value = sum(above) / total
    half = _half(pull, clusters)
    return Estimate(value, round(total), value - half, value + half)


def clustered_rate(hits: Sequence[bool | float], clusters: Sequence[Hashable] | None = None) -> Estimate:
    """A rate with Wilson's interval at the number of items the clusters are worth (Korn and Graubard 1998).

    That number is n over the design effect (the clustered variance over that of independent items), never
    above n, and less again by the squared ratio of Student's quantile for the clusters to the normal one.
    Where all items agree the design effect cannot be seen, and every cluster counts once. Without clusters it
    is `wilson`.
    """
    n = len(hits)
    labels = _labels(n, clusters)
    groups = len(set(labels))
    if not n:
        return wilson(0, 0)
    rate = sum(hits) / n
    if groups == n:  # a hit may be a share of one: rounding their sum would be another rate
        return Estimate(rate, n, *_score_interval(rate, n))
    if groups == 1:
        return Estimate(rate, n, 0.0, 1.0)
    spread = sum((hit - rate) ** 2 for hit in hits) / n**2
    sums = _sums([hit - rate for hit in hits], labels)
    clustered = groups / (groups - 1) * sum(s * s for s in sums) / n**2
    worth = float(groups) if spread == 0 else n * min(1.0, spread / clustered if clustered else 1.0)
    worth *= (_Z / _t(groups - 1)) ** 2
    return Estimate(rate, n, *_score_interval(rate, worth))


def paired_difference(
    first: Sequence[float],
    second: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    *,
    below: tuple[Sequence[float], Sequence[float]] | None = None,
    unit: float = 1.0,
) -> Estimate:
    """How much the second's mean is above the first's, on the same items in the same order.

    What makes an item hard for both falls out, so the interval is that of the differences, clustered as in
    `clustered` (Miller 2024, section 4.2). Its variance is widened by a pair of clusters that disagree, each
    by half (Agresti and Min 2005), so that agreement on a few items is not taken for certainty.

    Args:
        below: of both, where their numbers are ratios (`clustered_ratio`).
        unit: how far one item can part the two: 1 for marks of right and wrong.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} items are not pairs")
    under = below or ([1.0] * len(first), [1.0] * len(second))
    pulls = _pull(first, under[0]), _pull(second, under[1])
    if not first or not pulls[0] or not pulls[1]:
        return Estimate(math.nan, 0, -math.inf, math.inf)
    value = sum(second) / sum(under[1]) - sum(first) / sum(under[0])
    groups = len(set(_labels(len(first), clusters)))
    half = _half([b - a for a, b in zip(*pulls, strict=True)], clusters, unit / groups)
    return Estimate(value, len(first), value - half, value + half)


def _pull(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """How much each item moves the ratio: they sum to 0, and the ratio's variance is that of their sum."""
    total = sum(below)
    if len(above) != len(below):
        raise ValueError(f"{len(above)} values over {len(below)}")
    if not total:
        return []
    value = sum(above) / total
    return [(a - value * b) / total for a, b in zip(above, below, strict=True)]


def _half(pull: Sequence[float], clusters: Sequence[Hashable] | None, wider: float = 0.0) -> float:
    """Half the 95% interval of a sum of what the items pull; `wider` is one more standard error."""
    sums = _sums(pull, _labels(len(pull), clusters))
    groups = len(sums)
    if groups < 2:
        return math.inf
    return _t(groups - 1) * math.sqrt(groups / (groups - 1) * sum(s * s for s in sums) + wider * wider)


def _labels(n: int, clusters: Sequence[Hashable] | None) -> Sequence[Hashable]:
    if clusters is None:
        return range(n)
    if len(clusters) != n:
        raise ValueError(f"{n} values in {len(clusters)} clusters")
    return clusters


def _sums(values: Sequence[float], labels: Sequence[Hashable]) -> list[float]:
    found: dict[Hashable, float] = {}
    for value, label in zip(values, labels, strict=True):
        found[label] = found.get(label, 0.0) + value
    return list(found.values())


def bootstrap(
    items: Sequence[Any], statistic: Callable[[Sequence[Any]], float], *, draws: int = 1000, seed: int = 0
) -> Estimate:
    """Any statistic of `items` with a percentile bootstrap interval (Efron 1979).

    The interval is widened to hold its value: drawing again moves a biased statistic (a calibration error
    grows by it), all its draws perhaps.
    """
    rng = random.Random(seed)
    n = len(items)
    value = statistic(items)
    values = sorted(statistic([items[rng.randrange(n)] for _ in range(n)]) for _ in range(draws))
    low, high = values[int(0.025 * draws)], values[int(0.975 * draws) - 1]
    return Estimate(value, n, min(low, value), max(high, value))


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
