"""Where a checkpoint's weights come from: the pretraining they began with, and the compute in them.

Dangerous capabilities are measured on the helpful-only checkpoint, not on the one that is released. That says
something about the release only when both grew from the same pretrained weights, and when not much training
lies between. Both are read from the records of the pipeline; what has no record has no lineage, and evidence
about it does not count.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from publius.model.checkpoint import Checkpoint
from publius.pipeline import Record
from publius.pipeline.artifact import read_record

__all__ = ["Lineage", "growth", "lineage", "related"]

_WEIGHTS = ("base", "policy", "model", "models", "student")
"""Inputs whose weights a stage goes on from; a judge, a reward or a teacher gives none."""


class Lineage(NamedTuple):
    """What a checkpoint's weights grew from."""

    roots: frozenset[str]
    """Ids of the artifacts its weights began as; empty where nothing is recorded."""
    flops: float
    """Of all training in them."""


def lineage(model: Checkpoint) -> Lineage:
    """Follow the records of a checkpoint of the pipeline to where its weights began.

    An ancestor that has been deleted ends the way: its id is not known to be a beginning, so there is none.
    """
    folder = model.path.resolve().parent
    if not (folder / "record.json").is_file():
        return Lineage(frozenset(), 0.0)
    first = read_record(folder)
    seen, waiting, roots, flops = {first.id}, [first], set[str](), 0.0
    while waiting:
        record = waiting.pop()
        flops += record.flops
        before = _before(record)
        if not before:
            roots.add(record.id)
        for one in before:
            found = _found(folder.parent, one)
            if found is None:
                return Lineage(frozenset(), 0.0)
            if found.id not in seen:
                seen.add(found.id)
                waiting.append(found)
    return Lineage(frozenset(roots), flops)


def _before(record: Record) -> list[str]:
    given = [record.inputs[name] for name in _WEIGHTS if name in record.inputs]
    return [id for one in given for id in ([one] if isinstance(one, str) else one)]


def _found(artifacts: Path, id: str) -> Record | None:
    for place in artifacts.glob(f"*-{id[:12]}"):
        if (place / "record.json").is_file():
            record = read_record(place)
            if record.id == id:
                return record
    return None


def related(one: Lineage, other: Lineage) -> bool:
    """Whether both are known, and began as the same weights."""
    return bool(one.roots) and one.roots == other.roots


def growth(model: Lineage, assessed: Lineage) -> float | None:
    """How many times more compute is in `model` than in what was assessed; None where that is unknown."""
    if not related(model, assessed) or assessed.flops <= 0 or model.flops <= 0:
        return None
    return model.flops / assessed.flops
