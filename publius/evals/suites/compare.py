"""Suites on several models: every number with its interval, and every model beside the first, paired."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from publius.core.errors import UserError
from publius.core.messages import Conversation
from publius.data.files import open_binary
from publius.evals.choices import ChoiceScorer
from publius.evals.contamination import Overlap
from publius.evals.report import Measure, ReportDocument
from publius.evals.suites.base import Suite, draw, right
from publius.evals.suites.judged import judge
from publius.evals.suites.measures import Readings, by_group, clusters_of, difference, measures, split, take
from publius.evals.suites.subjects import Subject
from publius.evals.task import Sample, run_task

__all__ = [
    "Asked",
    "Comparison",
    "Contamination",
    "Difference",
    "Open",
    "Searched",
    "SuiteResult",
    "Tested",
    "compare",
    "hashes",
    "join",
    "prepare",
    "run",
]


class Searched(NamedTuple):
    """What was looked for benchmarks in: its name, how much was read, and the words of a run."""

    against: str
    amount: int
    words: int


class Asked(NamedTuple):
    """A suite with the questions that are put to every model.

    Attributes:
        files: path -> sha256.
        left_out: questions that only a judge could mark, where there is none.
        overlaps: what of every question stands in the training text, where that was looked at.
    """

    suite: Suite
    questions: list[Conversation]
    files: dict[str, str]
    left_out: int = 0
    overlaps: Mapping[str, Overlap] | None = None
    searched: Searched | None = None


class Tested(NamedTuple):
    """One suite on one model."""

    suite: str
    model: str
    document: ReportDocument
    readings: dict[str, Readings]
    samples: list[Sample]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Difference(_Part):
    """What `second` has more of than `first`, on the same questions."""

    metric: str
    first: str
    second: str
    measure: Measure


class Contamination(_Part):
    """How much of a benchmark stands in the training text.

    Attributes:
        against: what was searched.
        amount: of it, tokens of shards and bytes of text together.
        words: how long a run of words is a match.
        dirty: items with a match. short: items with too few words to tell.
        mostly: items of whose words 80% or more match (Llama 2's "dirty").
        items: id -> the words that match, of the dirty ones.
    """

    against: str
    amount: int
    words: int
    n: int
    dirty: int
    mostly: int
    short: int
    items: dict[str, str]


class SuiteResult(_Part):
    """One suite on every model.

    Attributes:
        metrics: metric -> what it is.
        better: metric -> "higher", "lower" or "" (neither).
        chance: metric -> what guessing would give.
        reports: one a model that was asked, its name in `config["model"]`.
        skipped: models that cannot be asked, and why.
    """

    suite: str
    about: str
    n: int
    clusters: int
    left_out: int = 0
    files: dict[str, str] = {}
    metrics: dict[str, str] = {}
    better: dict[str, str] = {}
    chance: dict[str, float] = {}
    reports: list[ReportDocument]
    differences: list[Difference] = []
    skipped: dict[str, str] = {}
    contamination: Contamination | None = None


class Comparison(_Part):
    """What `publius eval` measured: `models` in the order given, the others held against the first."""

    models: list[str]
    settings: dict[str, Any]
    results: list[SuiteResult]
    finished: str = ""
    """When (UTC, ISO 8601); "" where nobody wrote it down."""


Open = Callable[[], AbstractContextManager[Subject]]
"""Loads a model; leaving it lets it go."""


def prepare(suite: Suite, paths: Sequence[str], limit: int | None, *, judged: bool) -> Asked:
    """A suite with the questions of its files: at most `limit`, and those only a judge can mark where there
    is one (`judged`).

    Raises:
        UserError: for files without questions, or with none that can be marked.
    """
    questions = suite.questions(paths)
    kept = [q for q in questions if judged or not suite.judged_only(q.meta)]
    if not kept:
        raise UserError(
            f"only a judge can mark {suite.name}", where=", ".join(paths), fix="give --judge MODEL"
        )
    return Asked(suite, draw(kept, limit), hashes(paths), len(questions) - len(kept))


def hashes(paths: Sequence[str]) -> dict[str, str]:
    """Path -> sha256 of what it holds (unpacked)."""
    found: dict[str, str] = {}
    for path in paths:
        with open_binary(path) as stream:
            digest = hashlib.sha256()
            while part := stream.read(1 << 20):
                digest.update(part)
            found[path] = digest.hexdigest()
    return found


def run(
    asked: Sequence[Asked],
    models: Sequence[Open],
    settings: Mapping[str, Any],
    judge_by: ChoiceScorer | None = None,
) -> Iterator[Tested]:
    """Put every suite to every model, one model in memory at a time; those that cannot be asked are left out.

    Raises:
        UserError: as reading a model does, and when no suite can be asked of any.
    """
    done = 0
    for opened in models:
        with opened() as subject:
            for one in asked:
                if subject.kind not in one.suite.models:
                    continue
                done += 1
                yield _test(one, subject, settings, judge_by)
    if not done:
        raise UserError(
            "none of these suites can be asked of these models",
            where=", ".join(one.suite.name for one in asked),
            fix="publius eval list tells what each suite can be asked of",
        )


def _test(one: Asked, subject: Subject, settings: Mapping[str, Any], judge_by: ChoiceScorer | None) -> Tested:
    suite = one.suite
    samples = run_task(suite.task(one.questions, subject.solver(suite)))
    if judge_by is not None:
        samples = judge(suite, samples, judge_by)
    metrics, groups = measures(suite, samples, subject.kind), by_group(suite, samples, subject.kind)
    if one.overlaps is not None:
        for name, part in split(samples, one.overlaps).items():
            groups[f"contamination.{name}"] = {
                key.removeprefix(f"{suite.name}."): value
                for key, value in measures(suite, part, subject.kind).items()
            }
    config = {
        **settings,
        "suite": suite.name,
        "model": subject.name,
        "kind": subject.kind,
        "files": one.files,
    }
    document = ReportDocument(
        model=subject.fingerprint, prefix=suite.name, metrics=metrics, by_category=groups, config=config
    )
    told = [m for m in suite.metrics if m.of_model and f"{suite.name}.{m.name}" in metrics]
    readings = {m.name: take(m, samples) for m in told}
    return Tested(suite.name, subject.name, document, readings, samples)


def compare(one: Asked, tested: Sequence[Tested], names: Sequence[str]) -> SuiteResult:
    """What one suite says of all models, in the order of `names`."""
    mine = [t for t in tested if t.suite == one.suite.name]
    units = {metric.name: metric.unit for metric in one.suite.metrics}
    seen = {t.model for t in mine}
    wanted = ", ".join(one.suite.models)
    return SuiteResult(
        suite=one.suite.name,
        about=one.suite.about,
        n=len(one.questions),
        clusters=len(set(clusters_of([Sample(task="", conversation=q) for q in one.questions]))),
        left_out=one.left_out,
        files=one.files,
        metrics={metric.name: metric.about for metric in one.suite.metrics},
        better={metric.name: metric.better for metric in one.suite.metrics},
        chance=_chance(one),
        reports=[t.document for t in mine],
        differences=join(mine, units) if mine and mine[0].model == names[0] else [],
        skipped={name: f"it is asked of: {wanted}" for name in names if name not in seen},
        contamination=_contamination(one, one.searched) if one.searched is not None else None,
    )


def _chance(one: Asked) -> dict[str, float]:
    """Of metrics that are shares of right options: what picking one blindly gives."""
    found: dict[str, float] = {}
    for metric in one.suite.metrics:
        if metric.mark is right:
            covered = [q.meta for q in one.questions if metric.covers(q.meta)]
            shares = [len(meta["right"]) / len(meta.get("among") or meta["options"]) for meta in covered]
            if shares:
                found[metric.name] = sum(shares) / len(shares)
    return found


def join(tested: Sequence[Tested], units: Mapping[str, float]) -> list[Difference]:
    """Every model after the first held against it, metric by metric, where both have it."""
    found: list[Difference] = []
    for other in tested[1:]:
        first = tested[0]
        for name, readings in other.readings.items():
            if name in first.readings:
                measure = difference(first.readings[name], readings, units.get(name, 1.0))
                if measure is not None:
                    found.append(
                        Difference(metric=name, first=first.model, second=other.model, measure=measure)
                    )
    return found


def _contamination(one: Asked, searched: Searched) -> Contamination:
    found = [one.overlaps[str(q.meta["id"])] for q in one.questions] if one.overlaps else []
    return Contamination(
        **searched._asdict(),
        n=len(found),
        dirty=sum(overlap.dirty for overlap in found),
        mostly=sum(overlap.covered >= 0.8 for overlap in found),
        short=sum(overlap.short for overlap in found),
        items={overlap.id: overlap.words for overlap in found if overlap.dirty},
    )
