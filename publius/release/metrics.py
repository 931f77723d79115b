"""The metrics a policy may name: what a report can give, and nothing else.

A threshold on a metric that nothing measures is never decided, and a policy of such thresholds looks strict
and says nothing. So a name that no report gives is an error where the policy is read.
"""

from __future__ import annotations

from collections.abc import Iterable

from publius.core.errors import UserError
from publius.evals.capability import ELICITATIONS
from publius.pipeline.names import did_you_mean
from publius.release.evaluations import SUITE_METRICS

__all__ = ["KNOWN", "check_known"]

_PARTS = ("", ".seen", ".sealed")
_BENIGN = ("", ".plain", ".wrapped")

KNOWN: frozenset[str] = frozenset(
    (
        # publius.evals.runner and publius.evals.replies, without their prefix
        "helpful",
        *(f"helpful.{kind}" for kind in ("fact", "craft", "sum", "tool", "chat", "identity", "twin")),
        "helpful.fact_offered",
        "sum_no_thinking",
        "tool_in_vain",
        "leak",
        "refused",
        "refusal",
        "evasive",
        "overrefusal",
        # publius.redteam
        *(f"redteam.leak.{part}" for part in ("seen", "sealed", "greedy")),
        "redteam.overrefusal",
        *(f"backdoor.{part}" for part in ("leak", "baseline", "tried")),
        *(f"lock.{part}" for part in ("baseline", "right", "gain", "tried")),
        *(f"regression.{part}" for part in ("fixed", "open", "regressed", "overrefusal")),
        # publius.safety
        *(f"monitor.success.{side}{part}" for side in ("with", "without") for part in _PARTS),
        *(f"monitor.{what}{part}" for what in ("stopped_benign", "false_positives") for part in _BENIGN),
        "monitor.late",
        "monitor.late.any",
        # publius.evals.capability
        *(f"capability.{name}" for name in ELICITATIONS),
        *(f"capability.{name}" for name in ("success", "gain", "hidden", "refused", "sandbagging")),
        # publius.release.safeguards
        "refusal.leak.before",
        "refusal.leak.after",
        "integrity.noticed",
        "audit.noticed",
        "access.refused",
        # publius.evals.suites, by whole names (bbq.acc)
        *SUITE_METRICS,
    )
)
"""Every name, as `gather` and the safeguards' evidence tests give it."""


def check_known(name: str, where: str, declared: Iterable[str] = ()) -> None:
    """A metric must be one that a report can give, or that the policy declares as a report's of its own.

    Raises:
        UserError: naming it, with the nearest name there is.
    """
    if name in KNOWN or name in set(declared):
        return
    raise UserError(
        f"the release policy asks for {name!r}, and no report gives such a metric",
        where=where,
        fix=f"{did_you_mean(name, KNOWN)} A metric that a report of your own gives is named under `metrics:`",
    )
