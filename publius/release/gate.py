"""The gate and the release: weights go out only with a signed decision that allows them.

The gate never fails on a bad model, it records the verdict: so one run can gate the helpful-only, the
planted and the release model side by side. `release` is what refuses.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from publius.core.config import Config
from publius.core.errors import UserError
from publius.core.stats import wilson
from publius.evals import Report, fingerprint
from publius.model.checkpoint import Checkpoint
from publius.model.checkpoint import verify as verify_checksums
from publius.pipeline import Artifact, Run, stage
from publius.redteam import Findings, TriggerReport
from publius.release.decision import DecisionArtifact, DecisionDocument, verify_decision
from publius.release.evidence import Evidence, gather
from publius.release.model_card import render_card
from publius.release.policy import Decision, Policy, decide, load_policy
from publius.release.signing import sign, signing_key

__all__ = ["GateCheck", "GateConfig", "Release", "ReleaseConfig", "check_gate", "gate", "release"]


class GateConfig(Config):
    """Which policy, and what the card calls the model."""

    policy: str = "default"
    """A YAML file, or `default` for the one Publius ships."""
    name: str = "publius"


class ReleaseConfig(Config):
    """What a release carries beside the weights: nothing to set yet."""


class Release(Checkpoint):
    """A checkpoint with its card (`README.md`) and its signed decision (`decision/`)."""

    def verify(self, trusted: list[str] | None = None) -> DecisionDocument:
        """Check that these weights are the ones decided on, and allowed.

        Raises:
            UserError: when weights, decision or evidence were changed, or the decision denies.
        """
        return _allowed(self, self.path / "decision", trusted)


def _policy_content(config: GateConfig) -> Any:
    """A policy file's content enters the stage's identity: an edited policy decides anew."""
    return load_policy(config.policy).fingerprint()


@stage(version=1, fingerprint=_policy_content, light=True)
def gate(
    run: Run,
    config: GateConfig,
    *,
    model: Checkpoint,
    reports: list[Report],
    findings: list[Findings] = [],  # noqa: B006 - never changed; the pipeline reads the annotation and default
    scans: list[TriggerReport] = [],  # noqa: B006
) -> DecisionArtifact:
    """Decide whether a model may be released, and sign the decision.

    Metrics: `gate.allowed` 1 or 0, `gate.failed` number of failed checks.

    Raises:
        UserError: for damaged weights, evidence about other weights, or an unusable policy or key.
    """
    policy = load_policy(config.policy)
    verify_checksums(model.path)
    identity = fingerprint(model)
    evidence = gather(identity, reports, findings, scans)
    decision = decide(evidence.metrics, policy)
    _write(run.output, config, model, identity, policy, evidence, decision)
    run.metric("gate.allowed", int(decision.allowed))
    run.metric("gate.failed", sum(not result.passed for result in decision.checks))
    return DecisionArtifact(run.output)


class GateCheck(Config):
    """Nothing to set: what should have been allowed and denied is wired."""


@stage(version=1, light=True)
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


@stage(version=1, light=True)
def release(run: Run, config: ReleaseConfig, *, model: Checkpoint, decision: DecisionArtifact) -> Release:
    """Copy an allowed checkpoint together with its decision and card.

    Raises:
        UserError: when the decision denies, was changed, has expired, or is about other weights.
    """
    _allowed(model, decision.path)
    shutil.copytree(model.path, run.output, dirs_exist_ok=True)
    shutil.copytree(decision.path, run.output / "decision")
    shutil.copyfile(decision.path / "model_card.md", run.output / "README.md")
    return Release(run.output)


def _allowed(model: Checkpoint, decision: Path, trusted: list[str] | None = None) -> DecisionDocument:
    verify_checksums(model.path)
    document = verify_decision(decision, model=fingerprint(model), trusted=trusted)
    if not document.decision.allowed:
        why = "; ".join(document.decision.reasons)
        raise UserError(
            f"the gate refuses this model: {why}",
            where=str(decision / "decision.json"),
            fix="train and evaluate until the policy holds; thresholds are fixed beforehand",
        )
    return document


def _write(
    folder: Path, config: GateConfig, model: Checkpoint, identity: str,
    policy: Policy, evidence: Evidence, decision: Decision,
) -> None:  # fmt: skip
    now = datetime.now(UTC).replace(microsecond=0)
    issued, expires = now.isoformat(), (now + timedelta(days=policy.valid_days)).isoformat()
    card = render_card(
        name=config.name, fingerprint=identity, config=model.config(), decision=decision, policy=policy,
        metrics=evidence.metrics, issued=issued, expires=expires,
    )  # fmt: skip
    (folder / "evidence").mkdir()
    for name, source in evidence.files.items():
        shutil.copyfile(source, folder / "evidence" / name)
    (folder / "model_card.md").write_text(card, "utf-8")
    document = DecisionDocument(
        model=identity,
        policy=policy,
        policy_sha256=policy.fingerprint(),
        metrics=evidence.metrics,
        evidence=evidence.hashes(),
        card_sha256=hashlib.sha256(card.encode()).hexdigest(),
        decision=decision,
        issued=issued,
        expires=expires,
    )
    signature = sign(document.model_dump(mode="json"), signing_key())
    (folder / "decision.json").write_text(document.model_dump_json(indent=1) + "\n", "utf-8")
    (folder / "signature.json").write_text(signature.model_dump_json(indent=1) + "\n", "utf-8")
