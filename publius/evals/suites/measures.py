"""From samples to numbers: every metric with n and a clustered interval, by group, and between two models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from publius.core.stats import Estimate, clustered_rate, clustered_ratio, paired_difference
from publius.evals.contamination import Overlap
from publius.evals.report import Measure
from publius.evals.suites.base import Kind, Metric, Suite, group_names
from publius.evals.task import Sample

__all__ = [
    "Readings",
    "bounded",
    "by_group",
    "clusters_of",
    "difference",
    "measure",
    "measures",
    "split",
    "take",
]


class Readings(NamedTuple):
    """What the samples a metric covers give, `above` over `below`; both are 0 for those that do not count."""

    above: list[float]
    below: list[float]
    clusters: list[object]
    ids: list[str]
    unscored: int


def clusters_of(samples: Sequence[Sample]) -> list[object]:
    """The cluster of each sample: its own id where it shares none."""
    metas = [sample.conversation.meta for sample in samples]
    return [meta["cluster"] if meta.get("cluster") is not None else meta["id"] for meta in metas]


def take(metric: Metric, samples: Sequence[Sample]) -> Readings:
    """The readings of the samples that a metric covers."""
    covered = [sample for sample in samples if metric.covers(sample.conversation.meta)]
    values = [metric.of(sample) for sample in covered]
    return Readings(
        [value if value is not None else 0.0 for value in values],
        [float(value is not None) for value in values],
        clusters_of(covered),
        [str(sample.conversation.meta["id"]) for sample in covered],
        sum(metric.unscored(sample) for sample in covered),
    )


def _estimate(found: Readings, unit: float) -> Estimate:
    counted = [i for i, weight in enumerate(found.below) if weight]
    values = [found.above[i] for i in counted]
    if unit == 1.0 and all(value in (0.0, 1.0) for value in values):
        return clustered_rate(values, [found.clusters[i] for i in counted])
    return clustered_ratio(found.above, found.below, found.clusters)


def measure(metric: Metric, samples: Sequence[Sample]) -> Measure | None:
    """One metric of the samples it covers; None where none of them counts."""
    found = take(metric, samples)
    return bounded(_estimate(found, metric.unit), found.unscored) if any(found.below) else None


def bounded(estimate: Estimate, unscored: int = 0) -> Measure:
    """A measure; an interval without ends (of one cluster alone) is none."""
    found = Measure.of(estimate, unscored)
    if math.isfinite(estimate.low) and math.isfinite(estimate.high):
        return found
    return found.model_copy(update={"low": None, "high": None})


def measures(suite: Suite, samples: Sequence[Sample], kind: Kind) -> dict[str, Measure]:
    """`SUITE.METRIC` -> its number, for those that can be read of a model of this kind."""
    named = {m.name: measure(m, samples) for m in suite.metrics if kind in m.models}
    return {f"{suite.name}.{name}": found for name, found in named.items() if found is not None}


def by_group(suite: Suite, samples: Sequence[Sample], kind: Kind) -> dict[str, dict[str, Measure]]:
    """`dimension.value` -> metric -> its number. Within one value its own cluster is no longer one.

    A group that is one cluster as a whole (a subject, a behaviour) has the items in it for independent.
    """
    found: dict[str, dict[str, Measure]] = {}
    for name, group in group_names(samples).items():
        if len(set(clusters_of(group))) == 1:
            group = [_unclustered(sample) for sample in group]
        named = {m.name: measure(m, group) for m in suite.metrics if kind in m.models}
        found[name] = {metric: one for metric, one in named.items() if one is not None}
    return found


def _unclustered(sample: Sample) -> Sample:
    meta = {key: value for key, value in sample.conversation.meta.items() if key != "cluster"}
    return sample.model_copy(update={"conversation": sample.conversation.model_copy(update={"meta": meta})})


def difference(first: Readings, second: Readings, unit: float = 1.0) -> Measure | None:
    """The second model's number less the first's, on the same questions, paired.

    None where either has none.

    Args:
        unit: how far one question can part them.

    Raises:
        ValueError: when they were not asked the same questions in the same order.
    """
    if first.ids != second.ids:
        raise ValueError("the two models were not asked the same questions")
    if not any(first.below) or not any(second.below):
        return None
    below = (first.below, second.below)
    found = paired_difference(first.above, second.above, first.clusters, below=below, unit=unit)
    return bounded(found, first.unscored + second.unscored)


def split(samples: Sequence[Sample], overlaps: Mapping[str, Overlap]) -> dict[str, list[Sample]]:
    """The samples whose questions are `clean`, `dirty`, or too `short` to tell; empty ones left out."""
    found: dict[str, list[Sample]] = {"clean": [], "dirty": [], "short": []}
    for sample in samples:
        overlap = overlaps[str(sample.conversation.meta["id"])]
        found["short" if overlap.short else "dirty" if overlap.dirty else "clean"].append(sample)
    return {name: some for name, some in found.items() if some}
