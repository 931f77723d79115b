"""Evidence: what reports, findings, scans and safeguards' tests say about one model, under a policy's names.

Prefixes go (`rlcai.leak` becomes `leak`), so that one policy gates every model of a run. Evidence about
other weights is refused, never ignored: a gate that quietly skips a report is a gate that passes on nothing.
The one exception is on purpose: dangerous capabilities are measured on the helpful-only checkpoint, and count
only where the records show that both grew from the same pretrained weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from publius.core.errors import UserError
from publius.evals import Measure, Report, ReportDocument
from publius.evals.capability import CapabilityReport
from publius.model.checkpoint import Checkpoint, fingerprint
from publius.pipeline import Artifact
from publius.redteam import Findings, TriggerReport
from publius.redteam.locks import LockReport
from publius.release.evaluations import SUITE_METRICS, Evaluation
from publius.release.lineage import growth, lineage, related
from publius.release.metrics import KNOWN
from publius.release.safeguards import SAFEGUARDS, SafeguardDocument, SafeguardReport, code_sha256

__all__ = ["Evidence", "gather", "subjects"]


class Evidence(NamedTuple):
    """Metrics by policy name, and the files (name in the evidence folder -> source) they came from."""

    metrics: dict[str, Measure]
    files: dict[str, Path]
    measured: Mapping[str, str] = MappingProxyType({})
    """Metric -> when, where the pipeline recorded it."""
    elicited: tuple[str, ...] = ()
    growth: float | None = None
    safeguards: tuple[SafeguardDocument, ...] = ()

    def hashes(self) -> dict[str, str]:
        """The sha256 of every file."""
        return {
            name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in sorted(self.files.items())
        }


class _Gathering:
    """Evidence as it comes in."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.metrics: dict[str, Measure] = {}
        self.files: dict[str, Path] = {}
        self.measured: dict[str, str] = {}

    def add(self, found: Mapping[str, Any], source: Artifact, name: str, keep: str) -> None:
        """Metrics of one file of an artifact; kept in the evidence folder as `keep`."""
        record = source.record
        self.take(found, source.file(name), keep, "" if record is None else record.finished)

    def take(self, found: Mapping[str, Any], path: Path, keep: str, when: str) -> None:
        """Metrics of a file, and when they were measured ("" is unknown)."""
        twice = sorted(set(self.metrics) & set(found))
        if twice:
            raise UserError(
                f"two measurements of {', '.join(twice[:3])}",
                where=str(path),
                fix="give the gate one report of each kind",
            )
        self.metrics |= {metric: Measure.model_validate(value) for metric, value in found.items()}
        self.files[keep] = path
        if when:
            self.measured |= dict.fromkeys(found, when)

    def about(self, measured: str | None, source: Artifact, name: str) -> None:
        """Evidence must be about the model; baselines are about none."""
        if measured is not None and measured != self.model:
            raise UserError(
                f"this evidence is about other weights ({measured[:16]}..., not {self.model[:16]}...)",
                where=str(source.file(name)),
                fix="evaluate the very checkpoint that is to be gated",
            )


def gather(
    model: str,
    reports: Sequence[Report],
    findings: Sequence[Findings] = (),
    scans: Sequence[TriggerReport | LockReport] = (),
    *,
    apart: Sequence[Findings] = (),
    safeguards: Sequence[SafeguardReport] = (),
    capabilities: Sequence[CapabilityReport] = (),
    evaluations: Sequence[Evaluation] = (),
    checkpoint: Checkpoint | None = None,
    helpful: Checkpoint | None = None,
) -> Evidence:
    """All metrics measured on the checkpoint whose fingerprint is `model`.

    Of several rounds of findings the latest counts, and earlier ones for what it did not measure. Two sources
    for one metric are refused.

    Args:
        apart: findings of no round, or that somebody named on purpose: no later round takes their place.
        scans: for triggers and for locks. How many candidates each tried is a metric too (`backdoor.tried`,
            `lock.tried`): a search that hardly looked rules nothing out.
        capabilities: measured on `helpful`, the helpful-only checkpoint that `checkpoint` was made from.
        evaluations: what `publius eval` measured, on these weights among others. Its names stay whole:
            `bbq.acc`.
        checkpoint: the model itself; with capabilities only.

    Raises:
        UserError: for evidence about another model, two measurements under one name, or capabilities of a
            model that is not known to be of this family.
    """
    held = _Gathering(model)
    for index, report in enumerate(reports):
        document = report.document()
        held.about(document.model, report, "report.json")
        held.add(_plain(document, report), report, "report.json", f"report-{index}.json")
    _findings(held, findings, apart)
    for index, scan in enumerate(scans):
        kind, file = ("lock", "locks.json") if isinstance(scan, LockReport) else ("backdoor", "scan.json")
        document = scan.document()
        held.about(document.model, scan, file)
        found = {**document.metrics, f"{kind}.tried": _count(document.candidates)}
        held.add(found, scan, file, f"scan-{index}.json")
    _evaluations(held, evaluations)
    elicited, grown = _capabilities(held, capabilities, checkpoint, helpful)
    tests = tuple(report.document() for report in safeguards)
    for index, report in enumerate(safeguards):
        held.files[f"safeguard-{index}.json"] = report.file("safeguard.json")
    return Evidence(held.metrics, held.files, held.measured, elicited, grown, tests)


def _plain(document: ReportDocument, source: Report) -> dict[str, Measure]:
    """The metrics of a report without its prefix."""
    found: dict[str, Measure] = {}
    for name, value in document.metrics.items():
        short = name.removeprefix(f"{document.prefix}.")
        if short in found:
            raise UserError(
                f"two measurements of {short}: with and without the prefix {document.prefix!r}",
                where=str(source.file("report.json")), fix="evaluate again: no report says one thing twice",
            )  # fmt: skip
        found[short] = value
    return found


def _findings(held: _Gathering, rounds: Sequence[Findings], apart: Sequence[Findings]) -> None:
    """Take in the findings of a red team: those apart whole, of rounds what no later one measured."""
    ordered = sorted(rounds, key=lambda item: item.document().round, reverse=True)
    told = [(item, item.document()) for item in (*apart, *ordered)]
    for item, document in told:
        held.about(document.model, item, "findings.json")
    later: dict[str, int] = {}
    """Metric -> the latest round that measured it."""
    for _, document in told[len(apart) :]:
        later = dict.fromkeys(document.metrics, document.round) | later
    kept = 0
    for index, (item, document) in enumerate(told):
        found = {
            name: value for name, value in document.metrics.items()
            if index < len(apart) or document.round == later[name]
        }  # fmt: skip
        if found:
            held.add(found, item, "findings.json", f"findings-{kept}.json" if kept else "findings.json")
            kept += 1


def _count(number: int) -> Measure:
    """What was counted and not drawn has no other value that it could have had."""
    return Measure(value=float(number), n=number, low=float(number), high=float(number))


def _evaluations(held: _Gathering, evaluations: Sequence[Evaluation]) -> None:
    """Take in what suites measured on the model."""
    for index, evaluation in enumerate(evaluations):
        told = evaluation.measures(held.model)
        if not told:
            raise UserError(
                f"nothing in this evaluation is about these weights ({held.model[:16]}...)",
                where=str(evaluation.file), fix="evaluate the very checkpoint that is to be gated",
            )  # fmt: skip
        others = sorted((KNOWN - SUITE_METRICS) & set(told))
        if others:  # a suite that calls itself `redteam` gives no evidence of the red team
            raise UserError(
                f"{others[0]} is measured by another kind of evidence, not by a suite",
                where=str(evaluation.file), fix="give the suite another name",
            )  # fmt: skip
        held.take(told, evaluation.file, f"evaluation-{index}.json", evaluation.when)


def _capabilities(
    held: _Gathering,
    reports: Sequence[CapabilityReport],
    model: Checkpoint | None,
    helpful: Checkpoint | None,
) -> tuple[tuple[str, ...], float | None]:
    """Take in what the helpful-only checkpoint can do; how it was elicited, and the compute since."""
    if not reports:
        return (), None
    if model is None or helpful is None:
        raise UserError(
            "capabilities were measured, and nobody says on which checkpoint",
            where=str(reports[0].path), fix="give the gate the helpful-only checkpoint as `helpful`",
        )  # fmt: skip
    identity = fingerprint(helpful)
    ours, theirs = lineage(model), lineage(helpful)
    if identity != held.model and not related(ours, theirs):
        raise UserError(
            "the capabilities are of a model that is not known to be of this family", where=str(helpful.path),
            fix="measure them on the helpful-only checkpoint of the same pretraining, in the same home",
        )  # fmt: skip
    elicited: set[str] | None = None
    for index, report in enumerate(reports):
        told = report.capability()
        for document in (report.document().model, told.model):
            if document != identity:
                raise UserError(
                    "these capabilities are about other weights than `helpful`",
                    where=str(report.file("report.json")), fix="give the checkpoint they were measured on",
                )  # fmt: skip
        held.add(report.document().metrics, report, "report.json", f"capability-{index}.json")
        held.files[f"elicitation-{index}.json"] = report.file("capability.json")
        ways = {name for name in told.elicitations if f"capability.{name}" in report.document().metrics}
        elicited = ways if elicited is None else elicited & ways
    grown = 1.0 if identity == held.model else growth(ours, theirs)
    return tuple(sorted(elicited or ())), grown


def subjects(model: str, monitors: str | None) -> dict[str, str]:
    """What the evidence test of each safeguard must be about, here and now."""
    found: dict[str, str] = {}
    for name, safeguard in SAFEGUARDS.items():
        if safeguard.subject == "weights":
            found[name] = model
        elif safeguard.subject == "code":
            found[name] = code_sha256(safeguard.code)
        elif monitors is not None:
            found[name] = monitors
    return found
