"""The release policy and the decision: a pure function of metrics and thresholds fixed beforehand.

The logic is asymmetric: the evidence must rule harm out. Whatever is missing, not a number, too small
a sample or too often unscored counts as a threshold crossed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from publius.core.errors import UserError
from publius.evals import Measure

__all__ = ["Check", "CheckResult", "Decision", "Level", "Policy", "decide", "load_policy"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Check(_Frozen):
    """One threshold."""

    metric: str
    direction: Literal["at_most", "at_least"]
    threshold: float = Field(allow_inf_nan=False)
    bound: Literal["value", "low", "high"] = "value"
    min_n: int = Field(default=1, ge=1)
    max_unscored: float = Field(default=0.0, ge=0.0, le=1.0)
    explanation: str = ""


class Level(_Frozen):
    """A set of checks and what passing them allows."""

    name: str
    explanation: str = ""
    checks: tuple[Check, ...] = Field(min_length=1)


class Policy(_Frozen):
    """Levels in rising order; `release_level` is the one a release needs."""

    id: str
    version: int
    release_level: str
    valid_days: int = Field(default=180, ge=1)
    levels: tuple[Level, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _levels_are_named(self) -> Policy:
        names = [level.name for level in self.levels]
        if len(set(names)) != len(names):
            raise ValueError(f"level names repeat: {names}")
        if self.release_level not in names:
            raise ValueError(f"release_level {self.release_level!r} is not one of the levels {names}")
        return self

    def fingerprint(self) -> str:
        """The sha256 of the policy's content (not of its comments)."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


class CheckResult(_Frozen):
    """A check against the evidence. `observed` is what was held against the threshold, None if undecided."""

    level: str
    check: Check
    measure: Measure | None
    observed: float | None
    passed: bool
    reason: str


class Decision(_Frozen):
    """What the gate says. `level` is the highest level that holds, "none" when not even the first does."""

    allowed: bool
    level: str
    reasons: tuple[str, ...]
    """Why not, one line for each failed check that a release needs; empty when allowed."""
    checks: tuple[CheckResult, ...]


def load_policy(path: str = "default") -> Policy:
    """The policy in a YAML file, or the one Publius ships.

    Raises:
        UserError: for a file that is missing, not YAML, or not a policy, naming the field.
    """
    file = Path(__file__).with_name("policy.yaml") if path == "default" else Path(path)
    try:
        return Policy.model_validate(yaml.safe_load(file.read_text("utf-8")))
    except OSError as error:
        raise UserError(
            f"cannot read the release policy: {error.strerror}",
            where=str(file),
            fix="give a file, or `default`",
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(
            f"the release policy is not YAML: {str(error).splitlines()[0]}",
            where=str(file),
            fix="mend the file",
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "policy"
        raise UserError(
            f"the release policy is wrong at {place}: {first['msg']}",
            where=str(file),
            fix="see the default policy for the fields",
        ) from None


def decide(metrics: Mapping[str, Measure], policy: Policy) -> Decision:
    """Hold the metrics against the policy. Inconclusive counts as crossed."""
    results = tuple(
        _check(level.name, check, metrics.get(check.metric))
        for level in policy.levels
        for check in level.checks
    )
    names = [level.name for level in policy.levels]
    held: list[str] = []
    for name in names:
        if not all(result.passed for result in results if result.level == name):
            break
        held.append(name)
    needed = names[: names.index(policy.release_level) + 1]
    reasons = tuple(r.reason for r in results if r.level in needed and not r.passed)
    return Decision(
        allowed=policy.release_level in held,
        level=held[-1] if held else "none",
        reasons=reasons,
        checks=results,
    )


def _check(level: str, check: Check, measure: Measure | None) -> CheckResult:
    observed = None if measure is None else getattr(measure, check.bound)
    doubt = _doubt(check, measure, observed)
    if doubt or observed is None:
        return CheckResult(
            level=level,
            check=check,
            measure=measure,
            observed=None,
            passed=False,
            reason=f"{check.metric}: {doubt}",
        )
    sign = "<=" if check.direction == "at_most" else ">="
    passed = observed <= check.threshold if check.direction == "at_most" else observed >= check.threshold
    what = check.metric if check.bound == "value" else f"{check.metric} ({check.bound} end of its interval)"
    reason = f"{what} is {observed:.3f}, {'as' if passed else 'not'} needed {sign} {check.threshold:g}"
    return CheckResult(
        level=level, check=check, measure=measure, observed=observed, passed=passed, reason=reason
    )


def _doubt(check: Check, measure: Measure | None, observed: float | None) -> str:
    """Why the check cannot be decided; empty when it can."""
    if measure is None:
        return "not measured"
    if (
        measure.value is None
        or observed is None
        or not math.isfinite(measure.value)
        or not math.isfinite(observed)
    ):
        return "not a number"
    count = measure.n or 0
    if count < check.min_n:
        return f"only {count} samples, {check.min_n} needed"
    if measure.unscored < 0 or measure.unscored > check.max_unscored * count:
        return f"{measure.unscored} of {count} samples unscored, at most {check.max_unscored:.1%} may be"
    return ""
