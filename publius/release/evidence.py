"""Evidence: what reports, findings and scans say about one model, under the names a policy uses.

Prefixes go (`rlcai.leak` becomes `leak`), so that one policy gates every model of a run. Evidence about
other weights is refused, never ignored: a gate that quietly skips a report is a gate that passes on nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from publius.core.errors import UserError
from publius.evals import Measure, Report
from publius.redteam import Findings, TriggerReport

__all__ = ["Evidence", "gather"]


class Evidence(NamedTuple):
    """Metrics by policy name, and the files (name in the evidence folder -> source) they came from."""

    metrics: dict[str, Measure]
    files: dict[str, Path]

    def hashes(self) -> dict[str, str]:
        """The sha256 of every file."""
        return {
            name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in sorted(self.files.items())
        }


def gather(
    model: str,
    reports: Sequence[Report],
    findings: Sequence[Findings] = (),
    scans: Sequence[TriggerReport] = (),
) -> Evidence:
    """All metrics measured on the checkpoint whose fingerprint is `model`.

    Of several rounds of findings the latest counts. Two sources for one metric are refused.

    Raises:
        UserError: for evidence about another model, or two measurements under one name.
    """
    metrics: dict[str, Measure] = {}
    files: dict[str, Path] = {}
    for index, report in enumerate(reports):
        document, path = report.document(), report.file("report.json")
        if document.model is not None:  # baselines measure no model
            _same(document.model, model, path)
        named = {name.removeprefix(f"{document.prefix}."): value for name, value in document.metrics.items()}
        _add(metrics, named, path)
        files[f"report-{index}.json"] = path
    if findings:
        latest = max(findings, key=lambda item: item.document().round)
        for item in findings:
            _same(item.document().model, model, item.file("findings.json"))
        measured = {name: Measure.model_validate(value) for name, value in latest.document().metrics.items()}
        _add(metrics, measured, latest.file("findings.json"))
        files["findings.json"] = latest.file("findings.json")
    for index, scan in enumerate(scans):
        path = scan.file("scan.json")
        _same(scan.document().model, model, path)
        found = {name: Measure.model_validate(value) for name, value in scan.document().metrics.items()}
        _add(metrics, found, path)
        files[f"scan-{index}.json"] = path
    return Evidence(metrics, files)


def _same(measured: str, model: str, path: Path) -> None:
    if measured != model:
        raise UserError(
            f"this evidence is about other weights ({measured[:16]}..., not {model[:16]}...)",
            where=str(path),
            fix="evaluate the very checkpoint that is to be gated",
        )


def _add(metrics: dict[str, Measure], more: dict[str, Measure], path: Path) -> None:
    twice = sorted(set(metrics) & set(more))
    if twice:
        raise UserError(
            f"two measurements of {', '.join(twice[:3])}",
            where=str(path),
            fix="give the gate one report of each kind",
        )
    metrics.update(more)
