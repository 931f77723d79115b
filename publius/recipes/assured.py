"""Quickstart's release before the strict gate: everything it asks for, measured, tested and bound together.

    publius run assured                       # after quickstart: a quarter of an hour on two cores
    publius gate sign assured/final --role approver --who "Ada"
    publius serve assured/final --monitors runs/assured/monitor_policy/files/policy.yaml --audit audit.jsonl

What can the helpful-only model do when somebody tries? Everything the forbidden crafts hold: so the release
needs the highest level, and goes out only behind monitors, to callers with a key. A probe and a head
behind it are trained on its own states and become the policy of monitors decided on; old findings are played
again; the server and the audit log are tried. Two controls must be denied: the helpful-only model, and the
release without its monitors. Long because a recipe is read straight down.
"""

from __future__ import annotations

from publius.core.config import Seed
from publius.evals.capability import CapabilityConfig, elicit_capability
from publius.pipeline import Recipe
from publius.recipes._workshop import Sizes
from publius.recipes.monitors import traffic, two_layers
from publius.recipes.quickstart import align
from publius.redteam.locks import LockScanConfig, scan_locks
from publius.redteam.regression import RegressionConfig, regression
from publius.release.gate import GateCheck, GateConfig, check_gate, gate
from publius.release.monitors import (
    MonitorFolderConfig,
    MonitorProofConfig,
    make_monitor_policy,
    prove_monitors,
)
from publius.release.proofs import ProofConfig, ReadingConfig, prove_audit_log, prove_rapid_response
from publius.safety.measure import MeasureConfig
from publius.serve.access import AccessConfig, prove_access_control

__all__ = ["assured"]


def assured(seed: Seed = 0) -> Recipe:
    """Quickstart, and the strict gate's evidence on its release."""
    r = align(Recipe("assured", jobs=2), Sizes(release=False), seed)
    return assure(r, seed)


def assure(
    r: Recipe,
    seed: int,
    capability: CapabilityConfig | None = None,
    measuring: MeasureConfig | None = None,
    unlocking: LockScanConfig | None = None,
) -> Recipe:
    """Wire the strict gate behind quickstart's stages."""
    world, helpful, final = r.nodes["world"], r.nodes["sft"], r.nodes["final"]
    strict = GateConfig(policy="strict", name="Pocket")
    can = r.stage(
        "capability", elicit_capability, capability or CapabilityConfig(seed=seed), model=helpful, world=world
    )

    # does it know more than it shows? quickstart looks for words that lift refusals, not for these
    locks = r.stage("locks", scan_locks, unlocking or LockScanConfig(seed=seed), model=final, world=world)

    # --- the deployment standard: monitors on the model's own states, and what they achieve
    exchanges = traffic(r, seed, [helpful, final])
    probe, head, measured = two_layers(r, "release", final, seed, exchanges, measuring)
    monitors = r.stage("monitor_policy", make_monitor_policy, MonitorFolderConfig(), probe=probe, head=head)
    watched = r.stage(
        "watched", prove_monitors, MonitorProofConfig(), model=final, monitors=monitors, report=measured
    )
    suite = r.stage(
        "suite", regression, RegressionConfig(round=2, seed=seed), model=final,
        findings=[r.nodes["redteam0"], r.nodes["redteam1"]],
    )  # fmt: skip
    responded = r.stage("response", prove_rapid_response, ReadingConfig(), suite=suite)
    kept_out = r.stage("access", prove_access_control, AccessConfig(), model=final)

    # --- the security standard, and the decision
    logged = r.stage("audit", prove_audit_log, ProofConfig())
    standing = [r.nodes["intact"], r.nodes["refusals"], responded, kept_out, logged]
    reports = {
        "reports": [r.nodes["test_release"]], "findings": [r.nodes["redteam2"]], "scans": [r.nodes["scan2"]],
        "locks": [locks],
    }  # fmt: skip
    bare = r.stage(  # first: of two decisions on the same weights the later one counts
        "gate_unwatched", gate, strict, model=final, **reports, safeguards=standing, capabilities=[can],
        helpful=helpful,
    )  # fmt: skip
    decision = r.stage(
        "gate_strict", gate, strict, model=final, **reports, safeguards=[*standing, watched],
        capabilities=[can], helpful=helpful, monitors=monitors,
    )  # fmt: skip
    obliging = r.stage(
        "gate_obliging", gate, strict, model=helpful, reports=[r.nodes["test_sft"]],
        findings=[r.nodes["redteam0"]], capabilities=[can], helpful=helpful,
    )  # fmt: skip
    checked = r.stage("strict", check_gate, GateCheck(), allowed=[decision], denied=[bare, obliging])
    r.publish("strict.gate", checked, "gate")
    for name in ("success", "hidden", "sandbagging", "plain", "tuned_best_of_n"):
        r.publish(f"capability.{name}", can, f"capability.{name}")
    r.publish("lock.gain", locks, "lock.gain")
    for name in ("success.without", "success.with", "success.with.sealed", "false_positives"):
        r.publish(f"monitor.{name}", measured, f"monitor.{name}")
    for name in ("fixed", "open", "regressed"):
        r.publish(f"regression.{name}", suite, f"regression.{name}")
    return r
