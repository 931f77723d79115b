"""The decision: a pure function of evidence and a policy fixed beforehand.

The logic is asymmetric: the evidence must rule harm out. Whatever is missing, not a number, too small a
sample, too often unscored, too old, or not elicited as the policy asks counts as a threshold crossed: of a
check, that it does not hold; of a capability, that the model has it and needs the higher level.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from publius.evals import Measure
from publius.release.policy import Check, Level, Policy, Required
from publius.release.safeguards import SAFEGUARDS, SafeguardDocument

__all__ = ["CheckResult", "Context", "Decision", "SafeguardResult", "Verdict", "decide"]

Verdict = Literal["allow", "allow_with_safeguards", "needs_human", "deny"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Context(NamedTuple):
    """What is known about the evidence beside the numbers."""

    when: Mapping[str, str] = {}
    """Metric -> when it was measured (ISO 8601, UTC)."""
    elicited: tuple[str, ...] = ()
    """The ways in which `capability.*` was measured."""
    growth: float | None = None
    """Training compute of this model over that of the model whose capabilities were assessed."""
    safeguards: tuple[SafeguardDocument, ...] = ()
    subjects: Mapping[str, str] = {}
    """What an evidence test must have tested to count, by the safeguard's name: the sha256 of the weights, of
    the monitors' policy, of the code."""
    now: datetime | None = None
    """Ages are counted to here; None knows no ages."""


class CheckResult(_Frozen):
    """A check against the evidence. `observed` is what was held against the threshold, None if undecided."""

    level: str
    check: Check
    measure: Measure | None
    observed: float | None
    passed: bool
    reason: str
    review: bool = False
    """It holds, and so narrowly that a person must have a look."""


class SafeguardResult(_Frozen):
    """A required safeguard against its evidence test."""

    level: str
    standard: Literal["deployment", "security"]
    name: str
    passed: bool
    reason: str
    tested: str | None = None
    checks: tuple[CheckResult, ...] = ()
    overridable: bool = False


class Decision(_Frozen):
    """What the gate says."""

    verdict: Verdict
    level: str
    """The highest level that holds, "none" when not even the first does."""
    needed: str
    """The level a release needs: the policy's, or a higher one whose capabilities could not be ruled out."""
    reasons: tuple[str, ...]
    """Why not, one line for each failed demand; of `needs_human`, what a person must look at."""
    checks: tuple[CheckResult, ...]
    thresholds: tuple[CheckResult, ...] = ()
    safeguards: tuple[SafeguardResult, ...] = ()
    requires: tuple[str, ...] = ()
    """Safeguards that must be at work whenever the model is served."""

    @property
    def allowed(self) -> bool:
        """Whether it may go out without anybody's further word."""
        return self.verdict in ("allow", "allow_with_safeguards")


def decide(metrics: Mapping[str, Measure], policy: Policy, context: Context | None = None) -> Decision:
    """Hold the evidence against the policy. Inconclusive counts as crossed."""
    known = context or Context()
    names = [level.name for level in policy.levels]
    thresholds = tuple(
        _threshold(level.name, check, metrics, policy, known)
        for level in policy.levels
        for check in level.thresholds
    )
    checks = tuple(
        _check(level.name, check, metrics.get(check.metric), known)
        for level in policy.levels
        for check in level.checks
    )
    safeguards = tuple(result for level in policy.levels for result in _standards(level, known))
    crossed = {result.level for result in thresholds if not result.passed}
    needed = max(names.index(name) for name in (policy.release_level, *crossed))
    held = _held(names, (*checks, *safeguards))
    of_needed = set(names[: needed + 1])
    failed = [r for r in (*checks, *safeguards) if r.level in of_needed and not r.passed]
    looks = [_look(level) for level in policy.levels[: needed + 1] if level.human]
    looks += [r.reason for r in _reviewed(checks, safeguards, thresholds, of_needed)]
    requires = tuple(
        sorted({r.name for r in safeguards if r.level in of_needed and SAFEGUARDS[r.name].serving})
    )
    verdict: Verdict = "allow_with_safeguards" if requires else "allow"
    if failed:
        verdict = "deny"
    elif looks:
        verdict = "needs_human"
    reasons = [r.reason for r in failed] or looks
    if failed:  # why the level is needed at all
        reasons += [f"needed {names[needed]}: {r.reason}" for r in thresholds if not r.passed]
    return Decision(
        verdict=verdict, level=held, needed=names[needed], reasons=tuple(reasons), checks=checks,
        thresholds=thresholds, safeguards=safeguards, requires=requires,
    )  # fmt: skip


def _held(names: Iterable[str], results: Iterable[CheckResult | SafeguardResult]) -> str:
    failed = {result.level for result in results if not result.passed}
    held = "none"
    for name in names:
        if name in failed:
            break
        held = name
    return held


def _look(level: Level) -> str:
    return f"a release that needs level {level.name} is a person's decision"


def _reviewed(
    checks: Iterable[CheckResult], safeguards: Iterable[SafeguardResult],
    thresholds: Iterable[CheckResult], levels: set[str],
) -> list[CheckResult]:  # fmt: skip
    found = [result for result in checks if result.level in levels]
    found += [result for one in safeguards if one.level in levels for result in one.checks]
    return [result for result in (*found, *thresholds) if result.review]


def _threshold(
    level: str, check: Check, metrics: Mapping[str, Measure], policy: Policy, known: Context
) -> CheckResult:
    """A capability to be ruled out; on a model grown since it was assessed it is not."""
    result = _check(level, check, metrics.get(check.metric), known)
    limit = policy.compute_growth
    if not result.passed or limit is None:
        return result
    if known.growth is None or not math.isfinite(known.growth) or known.growth > limit:
        grown = "an unknown factor" if known.growth is None else f"{known.growth:.3g} times"
        told = f"{check.metric}: assessed before training compute grew by {grown}, at most {limit:g} counts"
        return result.model_copy(update={"passed": False, "observed": None, "reason": told, "review": False})
    return result


def _standards(level: Level, known: Context) -> Iterable[SafeguardResult]:
    for required in level.deployment:
        yield _safeguard(level.name, "deployment", required, known)
    for required in level.security:
        yield _safeguard(level.name, "security", required, known)


def _safeguard(
    level: str, standard: Literal["deployment", "security"], required: Required, known: Context
) -> SafeguardResult:
    found = [one for one in known.safeguards if one.name == required.name]
    doubt = _untested(required, found, known)
    results: tuple[CheckResult, ...] = ()
    if not doubt:
        aged = known._replace(when=dict.fromkeys(found[0].measures, found[0].when))
        results = tuple(
            _check(level, check, found[0].measures.get(check.metric), aged) for check in required.checks
        )
        doubt = "; ".join(result.reason for result in results if not result.passed)
    told = doubt or f"its evidence test passed ({len(found[0].trials)} trials)"
    return SafeguardResult(
        level=level, standard=standard, name=required.name, passed=not doubt,
        reason=f"safeguard {required.name}: {told}", tested=found[0].tested if found else None,
        checks=results, overridable=required.overridable,
    )  # fmt: skip


def _untested(required: Required, found: list[SafeguardDocument], known: Context) -> str:
    """Why the evidence test of a safeguard does not count; empty when it does."""
    if not found:
        return "not tested"
    if len(found) > 1:
        return f"{len(found)} evidence tests of it: give the gate one"
    (test,) = found
    subject = known.subjects.get(required.name)
    if subject is None or test.tested != subject:
        return f"the test was of another {SAFEGUARDS[required.name].subject} ({test.tested[:12]}...)"
    wrong = [trial.what for trial in test.trials if not trial.passed]
    if not test.passed or wrong or not test.trials:
        return f"its evidence test failed: {wrong[0]}" if wrong else "its evidence test failed"
    return _too_old(test.when, required.max_age_days, known.now)


def _check(level: str, check: Check, measure: Measure | None, known: Context) -> CheckResult:
    observed = None if measure is None else getattr(measure, check.bound)
    doubt = _doubt(check, measure, observed) or _unfit(check, known)
    if doubt or observed is None:
        return CheckResult(
            level=level, check=check, measure=measure, observed=None, passed=False,
            reason=f"{check.metric}: {doubt}",
        )  # fmt: skip
    sign, worse = ("<=", 1) if check.direction == "at_most" else (">=", -1)
    passed = worse * (observed - check.threshold) <= 0
    what = check.metric if check.bound == "value" else f"{check.metric} ({check.bound} end of its interval)"
    reason = f"{what} is {observed:.3f}, {'as' if passed else 'not'} needed {sign} {check.threshold:g}"
    review = passed and check.review is not None and worse * (observed - check.review) > 0
    if review:
        reason += f", and beyond {check.review:g}, where a person must look"
    return CheckResult(
        level=level, check=check, measure=measure, observed=observed, passed=passed, reason=reason,
        review=review,
    )  # fmt: skip


def _doubt(check: Check, measure: Measure | None, observed: float | None) -> str:
    """Why the number cannot be decided on; empty when it can."""
    if measure is None:
        return "not measured"
    if (
        measure.value is None
        or observed is None
        or not math.isfinite(measure.value)
        or not math.isfinite(observed)
    ):
        return "not a number"
    ends = [measure.low, measure.high]
    if check.bound != "value" and not all(end is not None and math.isfinite(end) for end in ends):
        return "not a number"
    if measure.low is not None and measure.high is not None:
        slack = 1e-9  # of rounding
        if not measure.low - slack <= measure.value <= measure.high + slack:
            return "its interval does not hold its value"
    count = measure.n or 0
    if count < check.min_n:
        return f"only {count} samples, {check.min_n} needed"
    if measure.unscored < 0 or measure.unscored > check.max_unscored * count:
        return f"{measure.unscored} of {count} samples unscored, at most {check.max_unscored:.1%} may be"
    return ""


def _unfit(check: Check, known: Context) -> str:
    """Why evidence with a good number does not count; empty when it does."""
    missing = [name for name in check.elicitation if name not in known.elicited]
    if missing:
        return f"not elicited by {', '.join(missing)}"
    return _too_old(known.when.get(check.metric), check.max_age_days, known.now)


def _too_old(when: str | None, days: float | None, now: datetime | None) -> str:
    if days is None:
        return ""
    measured = _read(when)
    if measured is None or now is None:
        return f"nobody knows when it was measured, at most {days:g} days ago counts"
    if measured > now + timedelta(minutes=5):
        return f"measured on {when}, which is still to come"
    return (
        "" if now - measured <= timedelta(days=days) else f"measured on {when}, more than {days:g} days ago"
    )


def _read(when: str | None) -> datetime | None:
    try:
        found = datetime.fromisoformat(when or "")
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
