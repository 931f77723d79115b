"""Evidence as it lies about: what of a run's artifacts, or of folders, is about one model.

A gate in a recipe is told its evidence port by port. At the command line a person names a model, and what is
about it is found: reports on other weights, safeguards' tests of other code or other monitors are left out,
so the metrics they would have given are missing, and what is missing never passes.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from publius.core.errors import UserError
from publius.evals import Report
from publius.evals.capability import CapabilityReport
from publius.evals.suites.stage import SuiteReport
from publius.model.checkpoint import Checkpoint, fingerprint
from publius.pipeline import show_run
from publius.redteam import Findings, TriggerReport
from publius.redteam.locks import LockReport
from publius.release.evaluations import Evaluation
from publius.release.evidence import Evidence, gather, subjects
from publius.release.safeguards import SafeguardReport

__all__ = ["collect", "run_folders"]


def run_folders(name: str, home: Path) -> list[Path]:
    """The payload folders of a run's finished stages."""
    return [s.path / "files" for s in show_run(name, home).stages if s.state != "missing"]


def collect(
    model: Checkpoint,
    folders: Iterable[Path],
    *,
    named: Iterable[Path] = (),
    helpful: Checkpoint | None = None,
    monitors: str | None = None,
) -> Evidence:
    """Gather what is about a model.

    Args:
        folders: of artifacts, or the folders that hold their files; a file is one that `publius eval --out`
            wrote. Who names a file means this model: one that says nothing of it is an error.
        named: of these, folders that somebody named on purpose: no later round of findings takes their place.
        helpful: the helpful-only checkpoint that capabilities were measured on; without it none count.
        monitors: the sha256 of the monitors' policy to be decided on.

    Raises:
        UserError: for damaged files, two measurements of one thing, and a file that is about other weights.
    """
    identity = fingerprint(model)
    assessed = None if helpful is None else fingerprint(helpful)
    expected = subjects(identity, monitors)
    reports: list[Report] = []
    capabilities: list[CapabilityReport] = []
    findings, safeguards = list[Findings](), list[SafeguardReport]()
    scans: list[TriggerReport | LockReport] = []
    evaluations: list[Evaluation] = []
    for folder in dict.fromkeys(_payload(one).resolve() for one in folders):
        if folder.is_file():
            evaluations.append(Evaluation.read(folder))
        elif (folder / "comparison.json").exists():
            suites = Evaluation.of(SuiteReport(folder))
            if suites.measures(identity):
                evaluations.append(suites)
        elif (folder / "capability.json").exists():
            told = CapabilityReport(folder)
            if assessed is not None and told.capability().model == assessed:
                capabilities.append(told)
        elif (folder / "report.json").exists():
            report = Report(folder)
            if report.document().model == identity:
                reports.append(report)
        elif (folder / "findings.json").exists():
            found = Findings(folder)
            if found.document().model == identity:
                findings.append(found)
        elif (folder / "scan.json").exists() or (folder / "locks.json").exists():
            scan = TriggerReport(folder) if (folder / "scan.json").exists() else LockReport(folder)
            if scan.document().model == identity:
                scans.append(scan)
        elif (folder / "safeguard.json").exists():
            test = SafeguardReport(folder)
            if expected.get(test.document().name) == test.document().tested:
                safeguards.append(test)
    rounds, apart = _rounds(findings, named)
    return gather(
        identity, reports, rounds, scans, apart=apart, safeguards=safeguards, capabilities=capabilities,
        evaluations=evaluations, checkpoint=model, helpful=helpful,
    )  # fmt: skip


def _rounds(findings: Iterable[Findings], named: Iterable[Path]) -> tuple[list[Findings], list[Findings]]:
    """Those of a run's rounds, and those apart: what no stage made (`publius redteam`) is of no round."""
    chosen = {_payload(one).resolve() for one in named}
    rounds, apart = list[Findings](), list[Findings]()
    for found in findings:
        (apart if found.record is None or found.path in chosen else rounds).append(found)
    return rounds, apart


def _payload(folder: Path) -> Path:
    if folder.is_file():
        return folder
    if not folder.is_dir():
        raise UserError(
            "there is no such folder of evidence, and no such file", where=str(folder),
            fix="give an artifact's folder, or a file that `publius eval --out` wrote",
        )  # fmt: skip
    return folder / "files" if (folder / "record.json").exists() else folder
