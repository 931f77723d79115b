"""A study: the same arms over several seeds, and a published claim held against what they measured.

A claim is a contrast: what some arms measured less what others did, seed by seed, so that what a seed shares
cancels. Its interval is over seeds (Student's t): with three of them it is wide, and says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from publius.core.config import Config
from publius.core.errors import UserError
from publius.core.stats import Estimate, t_estimate
from publius.pipeline import Artifact, Run, stage

__all__ = [
    "Claim",
    "Place",
    "Reading",
    "Result",
    "StudyConfig",
    "StudyDocument",
    "StudyReport",
    "Value",
    "difference",
    "outcome",
    "study",
]

Direction = Literal["higher", "lower", "same"]
Outcome = Literal["as published", "direction as published, within noise", "not shown", "opposite"]


class Place(Config):
    """Where an arm was measured: its name, and where on the axis, if the study has one."""

    arm: str
    x: float | None = None


class Reading(Place):
    """One number: `metric` of the record of input `part`."""

    part: int = Field(ge=0)
    metric: str
    measure: str
    """What it is called in this study; arms are compared within one."""
    seed: int


class Claim(Config):
    """What was published, and the contrast that bears it out: `these` are `direction` than `those`."""

    text: str
    source: str
    measure: str
    these: tuple[Place, ...] = Field(min_length=1)
    those: tuple[Place, ...] = Field(min_length=1)
    direction: Direction
    margin: float = Field(default=0.0, ge=0)
    """How large a difference still counts as `same`."""


class StudyConfig(Config):
    """What is read from the parts, and what it is held against."""

    title: str
    readings: tuple[Reading, ...] = Field(min_length=1)
    claims: tuple[Claim, ...] = ()
    x_label: str = ""
    units: dict[str, Literal["share", "number"]] = Field(default_factory=dict)
    """Of each measure: a share is shown in percent; one not named is a share."""

    @model_validator(mode="after")
    def _claims_are_measured(self) -> StudyConfig:
        places = {(r.measure, r.arm, r.x) for r in self.readings}
        for claim in self.claims:
            for place in (*claim.these, *claim.those):
                if (claim.measure, place.arm, place.x) not in places:
                    raise ValueError(
                        f"the claim {claim.text!r} is about {claim.measure} of {place.arm} at {place.x}, "
                        "which no reading measures"
                    )
        return self


class Value(BaseModel):
    """What one arm measured with one seed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    measure: str
    arm: str
    x: float | None
    seed: int
    value: float
    n: int | None = None
    low: float | None = None
    high: float | None = None


class Result(BaseModel):
    """A claim beside what was found: the contrast over seeds, and what that says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    claim: Claim
    value: float
    n: int
    """Seeds."""
    low: float | None
    high: float | None
    """None with one seed, which has no interval."""
    outcome: Outcome


class StudyDocument(BaseModel):
    """The content of `study.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: StudyConfig
    values: tuple[Value, ...]
    results: tuple[Result, ...]


class StudyReport(Artifact):
    """`study.json`: every value, and every claim beside what was found."""

    def document(self) -> StudyDocument:
        """The parsed study.

        Raises:
            UserError: when the file is missing or damaged.
        """
        return self.parse("study.json", StudyDocument)


@stage(version=1, light=True)
def study(run: Run, config: StudyConfig, *, parts: list[Artifact]) -> StudyReport:
    """Read the numbers of `parts` and hold the claims against them.

    Metrics: `study.claim.K`, the contrast of claim K (from 1) with its interval over seeds;
    `study.as_published`, how many claims came out as published, within noise or beyond it.

    Raises:
        UserError: for a part or a metric that is not there, or one that could not be measured.
    """
    values = tuple(_value(reading, parts) for reading in config.readings)
    results: list[Result] = []
    for number, claim in enumerate(config.claims, 1):
        found = difference(claim, values)
        low, high = (side if math.isfinite(side) else None for side in (found.low, found.high))
        results.append(
            Result(
                claim=claim, value=found.value, n=found.n, low=low, high=high, outcome=outcome(claim, found)
            )
        )
        run.metric(f"study.claim.{number}", found if low is not None else found.value)
    good = sum("as published" in result.outcome for result in results)
    run.metric("study.as_published", good)
    document = StudyDocument(config=config, values=values, results=tuple(results))
    (run.output / "study.json").write_text(document.model_dump_json(indent=1) + "\n", "utf-8")
    return StudyReport(run.output)


def _value(reading: Reading, parts: Sequence[Artifact]) -> Value:
    where = f"study: {reading.measure} of {reading.arm}, seed {reading.seed}"
    if reading.part >= len(parts):
        raise UserError(
            f"there is no part {reading.part}, only {len(parts)}", where=where, fix="count parts from 0"
        )
    record = parts[reading.part].record
    metrics: dict[str, Any] = record.metrics if record is not None else {}
    found = metrics.get(reading.metric)
    if not isinstance(found, dict):
        raise UserError(
            f"the part has no metric {reading.metric!r}",
            where=where,
            fix=f"it has: {', '.join(sorted(metrics)) or 'none'}",
        )
    value = found.get("value")
    if value is None or not math.isfinite(value):
        raise UserError(
            f"{reading.metric} could not be measured", where=where, fix="give that stage more samples"
        )
    return Value(
        measure=reading.measure, arm=reading.arm, x=reading.x, seed=reading.seed, value=value,
        n=found.get("n"), low=found.get("low"), high=found.get("high"),
    )  # fmt: skip


def difference(claim: Claim, values: Sequence[Value]) -> Estimate:
    """Mean of `these` less mean of `those`, over the seeds that have them all.

    Raises:
        UserError: when no seed has them all.
    """
    by_seed: dict[int, dict[tuple[str, float | None], float]] = {}
    for value in values:
        if value.measure == claim.measure:
            by_seed.setdefault(value.seed, {})[value.arm, value.x] = value.value
    these, those = ([(p.arm, p.x) for p in places] for places in (claim.these, claim.those))
    differences = [
        sum(seen[place] for place in these) / len(these) - sum(seen[place] for place in those) / len(those)
        for seen in by_seed.values()
        if seen.keys() >= {*these, *those}
    ]
    if not differences:
        raise UserError(
            "no seed measured every arm of a claim",
            where=f"study: {claim.text}",
            fix="give each of its arms a reading with the same seed",
        )
    return t_estimate(differences)


def outcome(claim: Claim, found: Estimate) -> Outcome:
    """What a contrast says of a claim. One seed has no interval, so nothing of it is beyond noise."""
    if claim.direction == "same":
        if max(abs(found.low), abs(found.high)) <= claim.margin:
            return "as published"
        if found.low > claim.margin or found.high < -claim.margin:
            return "opposite"
        inside = abs(found.value) <= claim.margin
        return "direction as published, within noise" if inside else "not shown"
    sign = 1 if claim.direction == "higher" else -1
    low, high = sorted((sign * found.low, sign * found.high))
    if low > 0:
        return "as published"
    if high < 0:
        return "opposite"
    return "direction as published, within noise" if sign * found.value > 0 else "not shown"
