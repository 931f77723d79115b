"""Release: policy, safeguards and their tests, gate, signed decisions, model cards."""

from publius.release.book import copied, decision_of, place_of
from publius.release.deciding import CheckResult, Context, Decision, SafeguardResult, decide
from publius.release.decision import (
    DecisionArtifact,
    DecisionDocument,
    OldDecision,
    Override,
    Standing,
    add_signature,
    read_standing,
    verify_decision,
)
from publius.release.evidence import Evidence, gather, subjects
from publius.release.gate import GateConfig, Release, ReleaseConfig, gate, make_decision, release
from publius.release.lineage import Lineage, lineage
from publius.release.model_card import render_card
from publius.release.monitors import MonitorFolder, make_monitor_policy, policy_sha256, prove_monitors
from publius.release.permit import Permit, add_override, overridable, permit
from publius.release.policy import Check, Level, Policy, Required, load_policy
from publius.release.proofs import (
    prove_audit_log,
    prove_rapid_response,
    prove_refusal_training,
    prove_weights_integrity,
)
from publius.release.safeguards import SAFEGUARDS, SafeguardDocument, SafeguardReport, Trial
from publius.release.signing import Signature, public_key, sign, signing_key, trust, trusted_signers, verify

__all__ = [
    "SAFEGUARDS",
    "Check",
    "CheckResult",
    "Context",
    "Decision",
    "DecisionArtifact",
    "DecisionDocument",
    "Evidence",
    "GateConfig",
    "Level",
    "Lineage",
    "MonitorFolder",
    "OldDecision",
    "Override",
    "Permit",
    "Policy",
    "Release",
    "ReleaseConfig",
    "Required",
    "SafeguardDocument",
    "SafeguardReport",
    "SafeguardResult",
    "Signature",
    "Standing",
    "Trial",
    "add_override",
    "add_signature",
    "copied",
    "decide",
    "decision_of",
    "gate",
    "gather",
    "lineage",
    "load_policy",
    "make_decision",
    "make_monitor_policy",
    "overridable",
    "permit",
    "place_of",
    "policy_sha256",
    "prove_audit_log",
    "prove_monitors",
    "prove_rapid_response",
    "prove_refusal_training",
    "prove_weights_integrity",
    "public_key",
    "read_standing",
    "release",
    "render_card",
    "sign",
    "signing_key",
    "subjects",
    "trust",
    "trusted_signers",
    "verify",
    "verify_decision",
]
