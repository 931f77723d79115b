"""The gate and the release: weights go out only with a signed decision that permits them.

The gate never fails on a bad model, it records the verdict: so one run can gate the helpful-only, the
planted and the release model side by side. `release` is what refuses.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from publius.core.config import Config
from publius.core.errors import UserError
from publius.core.stats import wilson
from publius.evals import Report
from publius.evals.capability import CapabilityReport
from publius.evals.suites.stage import SuiteReport
from publius.model.checkpoint import Checkpoint, fingerprint
from publius.model.checkpoint import verify as verify_checksums
from publius.model.transfer import whole_or_nothing
from publius.pipeline import Artifact, Run, stage
from publius.pipeline.store import disk_errors, fsync_tree, whole_folder
from publius.redteam import Findings, TriggerReport
from publius.redteam.locks import LockReport
from publius.release.deciding import Context, Decision, decide
from publius.release.decision import DecisionArtifact, DecisionDocument, add_signature
from publius.release.evaluations import Evaluation
from publius.release.evidence import Evidence, gather, subjects
from publius.release.model_card import render_card
from publius.release.monitors import MonitorFolder
from publius.release.permit import permit
from publius.release.policy import Policy, load_policy
from publius.release.safeguards import SafeguardReport
from publius.release.signing import Trusted, signing_key

__all__ = [
    "GateCheck",
    "GateConfig",
    "Release",
    "ReleaseConfig",
    "check_gate",
    "gate",
    "make_decision",
    "pack",
    "release",
]


class GateConfig(Config):
    """Which policy, and what the card calls the model."""

    policy: str = "default"
    """A YAML file, or one that Publius ships: `default`, `strict`."""
    name: str = "publius"


class ReleaseConfig(Config):
    """What a release carries beside the weights: nothing to set yet."""


class Release(Checkpoint):
    """A checkpoint with its card (`README.md`) and its signed decision (`decision/`)."""

    def verify(self, trusted: Trusted | Sequence[str] | None = None) -> DecisionDocument:
        """Check that these weights are the ones decided on, and permitted.

        Raises:
            UserError: when weights, decision, card or evidence were changed, or the decision does not permit.
        """
        document = _permitted(self, self.path / "decision", trusted)
        card = (self.path / "decision" / "model_card.md").read_bytes()
        readme = self.path / "README.md"
        if readme.exists() and readme.read_bytes() != card:
            raise UserError(
                "the model card was changed after the decision was signed", where=str(readme),
                fix="copy decision/model_card.md over it: cards are rendered, never written",
            )  # fmt: skip
        return document


def _policy_content(config: GateConfig) -> Any:
    """A policy file's content enters the stage's identity: an edited policy decides anew."""
    return load_policy(config.policy).fingerprint()


@stage(version=2, fingerprint=_policy_content, light=True)
def gate(
    run: Run,
    config: GateConfig,
    *,
    model: Checkpoint,
    reports: list[Report],
    findings: list[Findings] = [],  # noqa: B006 - never changed; the pipeline reads the annotation and default
    scans: list[TriggerReport] = [],  # noqa: B006
    locks: list[LockReport] = [],  # noqa: B006
    safeguards: list[SafeguardReport] = [],  # noqa: B006
    capabilities: list[CapabilityReport] = [],  # noqa: B006
    evaluations: list[SuiteReport] = [],  # noqa: B006
    helpful: Checkpoint | None = None,
    monitors: MonitorFolder | None = None,
) -> DecisionArtifact:
    """Decide whether a model may be released, and sign the decision as the policy's first role.

    `capabilities` are those of the `helpful`-only checkpoint; `monitors` is what it will be served with.

    Metrics: `gate.allowed` 1 or 0 (0 too where a person must decide), `gate.failed` number of failed demands.

    Raises:
        UserError: for damaged weights, evidence about other weights, or an unusable policy or key.
    """
    policy = load_policy(config.policy)
    verify_checksums(model.path)
    evidence = gather(
        fingerprint(model), reports, findings, [*scans, *locks], safeguards=safeguards,
        capabilities=capabilities, evaluations=[Evaluation.of(each) for each in evaluations],
        checkpoint=model, helpful=helpful,
    )  # fmt: skip
    sha256 = None if monitors is None else monitors.sha256
    document = make_decision(run.output, model, policy, evidence, name=config.name, monitors=sha256)
    decision = document.decision
    run.metric("gate.allowed", int(decision.allowed))
    run.metric("gate.failed", sum(not r.passed for r in (*decision.checks, *decision.safeguards)))
    return DecisionArtifact(run.output)


def make_decision(
    folder: Path, model: Checkpoint, policy: Policy, evidence: Evidence, *, name: str,
    monitors: str | None = None, now: datetime | None = None,
) -> DecisionDocument:  # fmt: skip
    """Decide, write body, card and evidence into `folder`, and sign as the policy's first role.

    Args:
        name: what the card calls the model.
        monitors: the sha256 of the monitors' policy it will be served with.

    Raises:
        UserError: for a full disk or an unusable key; a folder that was not there before is gone again.
    """
    identity = fingerprint(model)
    issued = now or datetime.now(UTC)  # whole: of two gates of one run the later one counts
    tested = subjects(identity, monitors)
    context = Context(
        evidence.measured, evidence.elicited, evidence.growth, evidence.safeguards, tested, issued
    )
    config = model.config()
    draft = DecisionDocument(
        model=identity,
        name=name,
        about=f"A decoder-only transformer: {config.parameters():,} parameters, {config.layers} layers of "
        f"width {config.hidden_size}, vocabulary {config.vocab_size:,}, context {config.max_position:,} "
        "tokens.",
        policy=policy,
        policy_sha256=policy.fingerprint(),
        metrics=evidence.metrics,
        measured=dict(evidence.measured),
        elicited=evidence.elicited,
        growth=evidence.growth,
        safeguards=evidence.safeguards,
        subjects=tested,
        monitors=monitors,
        evidence=evidence.hashes(),
        card_sha256="",
        decision=decide(evidence.metrics, policy, context),
        issued=issued.isoformat(),
        expires=(issued + timedelta(days=policy.valid_days)).isoformat(),
    )
    with whole_folder(folder):
        return _written(folder, draft, evidence, issued)


def _written(folder: Path, draft: DecisionDocument, evidence: Evidence, issued: datetime) -> DecisionDocument:
    """The decision as it lies in `folder`, with its card, evidence and first signature."""
    card = render_card(draft)
    document = draft.model_copy(update={"card_sha256": hashlib.sha256(card.encode()).hexdigest()})
    (folder / "evidence").mkdir(parents=True)
    for file, source in evidence.files.items():
        shutil.copyfile(source, folder / "evidence" / file)
    (folder / "model_card.md").write_text(card, "utf-8")
    (folder / "decision.json").write_text(document.model_dump_json(indent=1) + "\n", "utf-8")
    role = document.policy.signatures[0]
    add_signature(folder, role, signing_key(role), now=issued)
    return document


class GateCheck(Config):
    """Nothing to set: what should have been allowed and denied is wired."""


@stage(version=2, light=True)
def check_gate(
    run: Run, config: GateCheck, *, allowed: list[DecisionArtifact], denied: list[DecisionArtifact]
) -> Artifact:
    """Hold the gate's own decisions against what they should have been.

    Metrics: `gate`, the share of decisions that are right; one wrong one makes it less than 1.
    `gate.denied_by_measurement`, the share of `denied` in which a measured number crossed its threshold:
    a model denied only because something was not measured shows nothing about the gate.
    """
    refused = [d.document().decision for d in denied]
    verdicts = [d.document().decision.allowed for d in allowed]
    verdicts += [not decision.allowed for decision in refused]
    run.metric("gate", wilson(sum(verdicts), len(verdicts)))
    measured = [_crossed(decision) for decision in refused]
    if measured:
        run.metric("gate.denied_by_measurement", wilson(sum(map(bool, measured)), len(measured)))
    body = {"right": verdicts, "denied_by_measurement": measured}
    (run.output / "verdicts.json").write_text(json.dumps(body), "utf-8")
    return Artifact(run.output)


def _crossed(decision: Decision) -> list[str]:
    """The metrics that were measured and crossed a threshold a release needs."""
    if decision.allowed:
        return []
    return [r.check.metric for r in decision.checks if not r.passed and r.observed is not None]


@stage(version=2, light=True)
def release(run: Run, config: ReleaseConfig, *, model: Checkpoint, decision: DecisionArtifact) -> Release:
    """Copy a permitted checkpoint together with its decision and card.

    Raises:
        UserError: when the decision does not permit, was changed, has expired, or is about other weights.
    """
    _permitted(model, decision.path)
    return pack(run.output, model, decision.path)


def pack(folder: Path, model: Checkpoint, decision: Path) -> Release:
    """Weights, decision and card in one folder, nothing checked; it is there as a whole, or not at all.

    Raises:
        UserError: for a folder that holds anything, a full disk and a refused write.
    """
    with disk_errors(str(folder)), whole_or_nothing(folder) as fresh:
        shutil.copytree(
            model.path, fresh, dirs_exist_ok=True, ignore=shutil.ignore_patterns("decision", "README.md")
        )
        shutil.copytree(decision, fresh / "decision")
        shutil.copyfile(decision / "model_card.md", fresh / "README.md")
        fsync_tree(fresh)
    return Release(folder)


def _permitted(
    model: Checkpoint, decision: Path, trusted: Trusted | Sequence[str] | None = None
) -> DecisionDocument:
    verify_checksums(model.path)
    return permit(decision, model=fingerprint(model), trusted=trusted).document
