"""What `publius eval` measured, as evidence: of each suite the numbers of the very weights to be decided on.

A file that `publius eval --out` wrote holds several models beside each other. Those that are not meant are
passed over, and so is every model behind an address: nobody knows its weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from publius.core.errors import UserError
from publius.evals import Measure
from publius.evals.registry import SUITES
from publius.evals.suites.compare import Comparison
from publius.evals.suites.stage import SuiteReport

__all__ = ["SUITE_METRICS", "Evaluation"]

SUITE_METRICS: frozenset[str] = frozenset(
    f"{suite.name}.{metric.name}" for suite in SUITES.values() for metric in suite.metrics
)
"""Every number that our suites can give. One of lm-eval's is named under a policy's `metrics:`."""


class Evaluation(NamedTuple):
    """A comparison, where it lies, and when it was made (ISO 8601; "" is unknown)."""

    comparison: Comparison
    file: Path
    when: str

    @classmethod
    def of(cls, report: SuiteReport) -> Evaluation:
        """From a stage; the time is that of its record.

        Raises:
            UserError: when it is missing or damaged.
        """
        found = report.document()
        record = report.record
        when = record.finished if record is not None and record.finished else found.finished
        return cls(found, report.file("comparison.json"), when)

    @classmethod
    def read(cls, file: Path) -> Evaluation:
        """From a file that `publius eval --out` wrote.

        Raises:
            UserError: when it cannot be read, or is something else.
        """
        try:
            found = Comparison.model_validate_json(file.read_bytes())
        except OSError as error:
            raise UserError(
                f"cannot read this evidence: {error.strerror or error}", where=str(file),
                fix="give an artifact's folder, or a file that `publius eval --out` wrote",
            ) from None  # fmt: skip
        except ValidationError as error:
            told = error.errors()[0]
            place = ".".join(str(part) for part in told["loc"]) or "the whole"
            raise UserError(
                f"this is no evaluation, at {place}: {told['msg']}", where=str(file),
                fix="give a file that `publius eval --out` wrote, as it wrote it",
            ) from None  # fmt: skip
        return cls(found, file, found.finished)

    def measures(self, model: str) -> dict[str, Measure]:
        """`SUITE.METRIC` -> its number on the weights with this fingerprint; none where they were not asked.

        Raises:
            UserError: when a suite was put to these weights twice, under two names (either could be the
                better), or gives what is no number of a suite.
        """
        found: dict[str, Measure] = {}
        for result in self.comparison.results:
            for report in result.reports:
                if report.model != model:
                    continue
                twice = sorted(set(found) & set(report.metrics))
                if twice:
                    raise UserError(
                        f"two measurements of {', '.join(twice[:3])}", where=str(self.file),
                        fix="evaluate each model under one name",
                    )  # fmt: skip
                strange = [name for name in report.metrics if not name.startswith(f"{result.suite}.")]
                if strange:
                    raise UserError(
                        f"{strange[0]!r} is no number of the suite {result.suite!r}", where=str(self.file),
                        fix="give the file as `publius eval --out` wrote it",
                    )  # fmt: skip
                found |= report.metrics
        return found
