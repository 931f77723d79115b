"""Release: policy, gate, signed decisions, model cards."""

from publius.release.decision import DecisionArtifact, DecisionDocument, verify_decision
from publius.release.evidence import Evidence, gather
from publius.release.gate import GateConfig, Release, ReleaseConfig, gate, release
from publius.release.model_card import render_card
from publius.release.policy import Check, Decision, Level, Policy, decide, load_policy
from publius.release.signing import Signature, public_key, sign, signing_key, verify

__all__ = [
    "Check",
    "Decision",
    "DecisionArtifact",
    "DecisionDocument",
    "Evidence",
    "GateConfig",
    "Level",
    "Policy",
    "Release",
    "ReleaseConfig",
    "Signature",
    "decide",
    "gate",
    "gather",
    "load_policy",
    "public_key",
    "release",
    "render_card",
    "sign",
    "signing_key",
    "verify",
    "verify_decision",
]
