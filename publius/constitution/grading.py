"""How far a judge can be trusted: graded on pairs whose better answer is known.

Accuracy, agreement of the two orders, calibration, and how often the judge gave no judgement, by kind.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from publius.constitution.judges import (
    Abstention,
    Bench,
    JudgeConfig,
    Judgement,
    Pair,
    ParseFailure,
    Ruling,
    Skipped,
    clamped,
    seated,
)
from publius.constitution.principles import Constitution
from publius.constitution.raw_text import visible
from publius.core.device import set_threads
from publius.core.errors import UserError
from publius.core.stats import (
    CalibrationBin,
    Estimate,
    bootstrap,
    calibration,
    calibration_error,
    clustered_rate,
    mean_estimate,
    wilson,
)
from publius.data.artifacts import Preferences
from publius.data.splits import things
from publius.data.types import Preference
from publius.inference.remote import RemoteStats
from publius.model.checkpoint import Checkpoint
from publius.pipeline.artifact import Artifact
from publius.pipeline.run import Run
from publius.pipeline.stage import stage

__all__ = [
    "JudgeEvalConfig",
    "JudgeReport",
    "disagreement",
    "evaluate_judge",
    "grade_judge",
    "record_remote",
    "silence",
    "write_judge_report",
]


class JudgeEvalConfig(JudgeConfig):
    """How a judge is graded. `max_pairs` bounds the pairs used (the first ones)."""

    max_pairs: int | None = Field(default=None, ge=1)


class JudgeReport(Artifact):
    """What grading a judge found."""

    def metrics(self) -> dict[str, Any]:
        """Name -> {value, n, low, high}."""
        return json.loads(self.file("judge.json").read_text("utf-8"))["metrics"]

    def calibration(self) -> list[CalibrationBin]:
        """Stated against observed: the bins of confidence that are not empty."""
        rows = json.loads(self.file("judge.json").read_text("utf-8"))["calibration"]
        return [CalibrationBin(**row) for row in rows]

    def samples(self) -> list[dict[str, Any]]:
        """One row per pair: the texts, the principle and the verdict."""
        return json.loads(self.file("judge.json").read_text("utf-8"))["samples"]


@stage(version=5)
def evaluate_judge(
    run: Run,
    config: JudgeEvalConfig,
    *,
    pairs: Preferences,
    judge: Checkpoint | None = None,
    panel: list[Checkpoint] | None = None,
) -> JudgeReport:
    """Grade a judge on the validation pairs, whose better answer is known.

    The judge is `judge`, a remote model of the config, or where there are several, with those of `panel`,
    all of them together. Metrics: see `grade_judge`; of remote judges also `remote.*`.
    """
    set_threads(config.threads)
    checkpoints = [*([judge] if judge else []), *(panel or [])]
    with seated(config, checkpoints) as bench:
        metrics, table, samples = grade_judge(
            bench,
            config.constitution,
            pairs.val()[: config.max_pairs],
            interval=config.interval,
            seed=config.seed,
        )
        record_remote(run, bench.stats())
    return write_judge_report(run, metrics, table, samples)


def write_judge_report(
    run: Run, metrics: dict[str, Estimate], table: Sequence[CalibrationBin], samples: list[dict[str, Any]]
) -> JudgeReport:
    """Record the metrics of a graded judge and write its report."""
    for name, estimate in metrics.items():
        run.metric(name, estimate)
    body = {
        "metrics": {name: _finite(e) for name, e in metrics.items()},
        "calibration": [row._asdict() for row in table],
        "samples": samples,
    }
    (run.output / "judge.json").write_text(
        json.dumps(body, ensure_ascii=False, indent=1, allow_nan=False), "utf-8"
    )
    return JudgeReport(run.output)


def _finite(estimate: Estimate) -> dict[str, Any]:
    """For JSON: of no readable judgement there is no rate, and NaN is not JSON."""
    return estimate.as_dict() | {"value": estimate.value if math.isfinite(estimate.value) else None}


def grade_judge(
    bench: Bench,
    constitution: Constitution,
    comparisons: Sequence[Preference],
    *,
    interval: tuple[float, float] | None = None,
    seed: int = 0,
) -> tuple[dict[str, Estimate], list[CalibrationBin], list[dict[str, Any]]]:
    """Grade a judge on pairs with a known better answer, one sampled principle each.

    A pair without a judgement counts as wrong. Which side is the better one is shuffled, so a judge that
    always says "first" scores one half. Soft pairs count by the side of 0.5 they are on; those at 0.5 have
    no better side and are left out, counted.

    Args:
        interval: verdicts are clamped into it.

    Returns:
        metrics (judge.accuracy, .inconsistency, .failures, .abstentions, .skipped, .brier, .ece, .ties,
        .accuracy.<source>, and of a panel .disagreement), the calibration table (confidence in the side
        preferred, 0.5 to 1), and one row per pair.

    Raises:
        UserError: when no pair has a better side.
    """
    graded = [item for item in comparisons if item.probability != 0.5]
    if not graded:
        raise UserError(
            "no pairs to grade the judge on", where="evaluate_judge", fix="give pairs with a validation split"
        )
    rng = random.Random(seed)
    pairs: list[Pair] = []
    truths: list[bool] = []
    for item in graded:
        flip = rng.random() < 0.5
        a, b = (item.rejected, item.chosen) if flip else (item.chosen, item.rejected)
        pairs.append((item.prompt, a, b))
        truths.append((item.probability > 0.5) != flip)
    principles = [constitution.sample(rng) for _ in pairs]
    verdicts = [clamped(v, interval) for v in bench.judge.judge(pairs, principles)]
    metrics, table = _metrics(graded, truths, verdicts)
    if tied := len(comparisons) - len(graded):
        metrics["judge.ties"] = wilson(tied, len(comparisons))
    samples = [
        {
            "prompt": [visible(m) for m in c.messages],
            "a": visible(a),
            "b": visible(b),
            "a_is_better": truth,
            "source": item.source,
            **verdict._asdict(),
        }
        for (c, a, b), truth, item, verdict in zip(pairs, truths, graded, verdicts, strict=True)
    ]
    return metrics, table, samples


def _metrics(
    graded: Sequence[Preference], truths: Sequence[bool], verdicts: Sequence[Ruling]
) -> tuple[dict[str, Estimate], list[CalibrationBin]]:
    right = [
        isinstance(v, Judgement) and (v.probability > 0.5) == t for v, t in zip(verdicts, truths, strict=True)
    ]
    read = [(v, t) for v, t in zip(verdicts, truths, strict=True) if isinstance(v, Judgement)]
    about = things(item.prompt for item in graded)
    # turned so that the preferred side comes first
    said = [(max(v.probability, 1 - v.probability), (v.probability > 0.5) == t) for v, t in read]
    metrics = {
        "judge.accuracy": clustered_rate(right, about),
        "judge.inconsistency": wilson(sum(not v.consistent for v, _ in read), len(read)),
        **silence("judge", verdicts),
        "judge.brier": mean_estimate([(v.probability - t) ** 2 for v, t in read] or [1.0]),
        "judge.ece": _error(said),
    }
    if any(v.votes for v, _ in read):
        metrics["judge.disagreement"] = disagreement([v for v, _ in read])
    sources = sorted({item.source for item in graded if item.source})
    for source in sources if len(sources) > 1 else []:
        hits = [r for r, item in zip(right, graded, strict=True) if item.source == source]
        those = [a for a, item in zip(about, graded, strict=True) if item.source == source]
        metrics[f"judge.accuracy.{source}"] = clustered_rate(hits, those)
    return metrics, calibration(said, low=0.5)


def _error(said: Sequence[tuple[float, bool]]) -> Estimate:
    if not said:
        return Estimate(math.nan, 0, 0.0, 1.0)
    return bootstrap(said, lambda some: calibration_error(some, low=0.5), draws=200)


def silence(prefix: str, verdicts: Sequence[Ruling]) -> dict[str, Estimate]:
    """How often there was no judgement, by kind: `.failures` (unreadable), `.abstentions`, `.skipped`."""
    kinds = {"failures": ParseFailure, "abstentions": Abstention, "skipped": Skipped}
    return {
        f"{prefix}.{name}": wilson(sum(isinstance(v, kind) for v in verdicts), len(verdicts))
        for name, kind in kinds.items()
    }


def disagreement(read: Sequence[Judgement]) -> Estimate:
    """How often the members of a panel did not all prefer one side."""
    split = sum(min(v.votes) < 0.5 < max(v.votes) for v in read if v.votes)
    return wilson(split, sum(bool(v.votes) for v in read))


def record_remote(run: Run, stats: RemoteStats | None) -> None:
    """Record what asking remote models took, where there were some."""
    if stats is not None:
        for name, value in stats._asdict().items():
            run.metric(f"remote.{name}", value)
