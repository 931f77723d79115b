"""The report: metrics bound to the model they were measured on, and every sample behind them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from publius.core.stats import Estimate
from publius.evals.task import Sample
from publius.pipeline import Artifact

__all__ = ["Measure", "Report", "ReportDocument", "write_report"]


class Measure(BaseModel):
    """A number with its sample size, 95% interval, and how many samples had no score.

    `n` includes the unscored, which count against the model. Numbers that are not rates leave
    `low` and `high` None. A value that could not be measured is None (NaN is not JSON).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float | None
    n: int | None = None
    low: float | None = None
    high: float | None = None
    unscored: int = 0

    @classmethod
    def of(cls, estimate: Estimate | float, unscored: int = 0) -> Measure:
        """From an `Estimate` or a bare number."""
        if isinstance(estimate, Estimate):
            value = None if math.isnan(estimate.value) else estimate.value
            return cls(value=value, n=estimate.n, low=estimate.low, high=estimate.high, unscored=unscored)
        return cls(value=None if math.isnan(estimate) else float(estimate), unscored=unscored)

    def estimate(self) -> Estimate | float:
        """What `run.metric` takes."""
        value = math.nan if self.value is None else self.value
        if self.n is None or self.low is None or self.high is None:
            return value
        return Estimate(value, self.n, self.low, self.high)


class ReportDocument(BaseModel):
    """The content of `report.json`. `model` is the fingerprint of the weights measured, if any."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | None
    prefix: str
    split: str = ""
    metrics: dict[str, Measure]
    by_kind: dict[str, dict[str, Measure]] = {}
    by_category: dict[str, dict[str, Measure]] = {}
    config: dict[str, Any] = {}


class Report(Artifact):
    """`report.json` (metrics and the model they belong to) and `samples.jsonl` (every answer)."""

    def document(self) -> ReportDocument:
        """The parsed report.

        Raises:
            UserError: when the file is missing or damaged.
        """
        return self.parse("report.json", ReportDocument)

    def metrics(self) -> dict[str, Measure]:
        """The metrics by name."""
        return self.document().metrics

    def samples(self) -> list[Sample]:
        """Every question, reply and mark; empty for reports without a model."""
        path = self.path / "samples.jsonl"
        if not path.exists():
            return []
        return [Sample.model_validate_json(line) for line in path.read_text("utf-8").splitlines() if line]


def write_report(
    folder: Path, document: ReportDocument, samples: Iterable[Sample] | Sequence[Sample] = ()
) -> None:
    """Write `report.json` and `samples.jsonl` into `folder`."""
    lines = [sample.model_dump_json() + "\n" for sample in samples]
    if lines:
        (folder / "samples.jsonl").write_text("".join(lines), "utf-8")
    (folder / "report.json").write_text(document.model_dump_json(indent=1) + "\n", "utf-8")
