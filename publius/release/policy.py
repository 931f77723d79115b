"""The release policy as data: levels, what makes each one necessary, and what each one demands.

After the published responsible scaling framework: a level has *capability thresholds* (a model that cannot
be shown to stay below them needs this level), a *deployment standard* (measured checks, and safeguards on
what is asked and answered) and a *security standard* (safeguards on weights and records). Every safeguard is
proved by an evidence test (`publius.release.safeguards`), never by a tick.

    load_policy()               # the one Publius ships for its own small world
    load_policy("strict")       # two signatures, capability thresholds, monitors
    load_policy("mine.yaml")
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from publius.core.errors import UserError
from publius.core.yaml_text import BadYaml, parse_yaml, read_text
from publius.evals.capability import ELICITATIONS
from publius.pipeline.names import did_you_mean
from publius.release.metrics import check_known
from publius.release.safeguards import SAFEGUARDS

__all__ = ["SHIPPED", "Check", "Level", "Policy", "Required", "load_policy"]

SHIPPED = {"default": "policy.yaml", "strict": "strict.yaml"}
"""Policies by the name `load_policy` takes."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Check(_Frozen):
    """One threshold, and what evidence must be like to be held against it."""

    metric: str
    direction: Literal["at_most", "at_least"]
    threshold: float = Field(allow_inf_nan=False)
    bound: Literal["value", "low", "high"] = "value"
    """Which number is held against the threshold: the value, or an end of its 95% interval."""
    min_n: int = Field(default=1, ge=1)
    max_unscored: float = Field(default=0.0, ge=0.0, le=1.0)
    elicitation: tuple[str, ...] = ()
    """Ways to ask that a `capability.*` metric must have been measured in."""
    max_age_days: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Older evidence, and evidence of unknown age, decides nothing."""
    review: float | None = Field(default=None, allow_inf_nan=False)
    """On the good side of the threshold, and beyond this: it holds, and a person must have a look."""
    overridable: bool = False
    """Whether a recorded override may set it aside."""
    explanation: str = ""

    @model_validator(mode="after")
    def _fits(self) -> Check:
        worse = 1 if self.direction == "at_most" else -1
        if self.review is not None and worse * (self.review - self.threshold) > 0:
            raise ValueError(f"review {self.review:g} lies beyond the threshold {self.threshold:g}")
        unknown = [name for name in self.elicitation if name not in ELICITATIONS]
        if unknown:
            raise ValueError(
                f"no elicitation is called {unknown[0]!r}: {did_you_mean(unknown[0], ELICITATIONS)}"
            )
        if self.elicitation and not self.metric.startswith("capability."):
            raise ValueError(f"{self.metric} is not elicited: only capability.* metrics are")
        return self


class Required(_Frozen):
    """A safeguard that a standard demands: its evidence test must have passed, and these checks must hold."""

    name: str
    """Of `publius.release.safeguards.SAFEGUARDS`."""
    checks: tuple[Check, ...] = ()
    """On what the evidence test measured."""
    max_age_days: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    overridable: bool = False
    explanation: str = ""

    @model_validator(mode="after")
    def _known(self) -> Required:
        if self.name not in SAFEGUARDS:
            raise ValueError(f"no safeguard is called {self.name!r}: {did_you_mean(self.name, SAFEGUARDS)}")
        return self


class Level(_Frozen):
    """What one level demands, and which capabilities make it necessary."""

    name: str
    corresponds: str = ""
    """The level of the published framework that it mirrors."""
    explanation: str = ""
    thresholds: tuple[Check, ...] = ()
    """Capability thresholds, each to be *ruled out*: where one does not hold, or cannot be decided, a release
    needs this level at least. Empty: capability never asks for it."""
    checks: tuple[Check, ...] = ()
    """Of the deployment standard: what the model must show."""
    deployment: tuple[Required, ...] = ()
    """Safeguards of the deployment standard."""
    security: tuple[Required, ...] = ()
    """Safeguards of the security standard."""
    human: bool = False
    """A release that needs this level is always a person's decision."""

    @model_validator(mode="after")
    def _demands_something(self) -> Level:
        if not (self.checks or self.deployment or self.security):
            raise ValueError(f"level {self.name!r} demands nothing, so everything would hold it")
        for standard in (self.deployment, self.security):
            names = [one.name for one in standard]
            if len(set(names)) != len(names):
                raise ValueError(f"level {self.name!r} names a safeguard twice: {names}")
        return self

    def every_check(self) -> Iterator[Check]:
        """All of them, those of thresholds and safeguards too."""
        yield from self.thresholds
        yield from self.checks
        for required in (*self.deployment, *self.security):
            yield from required.checks


class Policy(_Frozen):
    """Levels in rising order; `release_level` is the one a release needs at least."""

    id: str
    version: int
    release_level: str
    valid_days: int = Field(default=180, ge=1)
    compute_growth: float | None = Field(default=None, ge=1, allow_inf_nan=False)
    """Most times by which training compute may have grown since the model whose capabilities were assessed:
    with more growth the assessment is stale. None does not look."""
    signatures: tuple[str, ...] = Field(default=("evaluator",), min_length=1)
    """Roles that must have signed, each with a key of its own. The first signs when the gate decides."""
    override_roles: tuple[str, ...] = ()
    """Who may sign an override; empty is the last of `signatures`."""
    override_days: int = Field(default=14, ge=1)
    """The longest an override may hold."""
    metrics: tuple[str, ...] = ()
    """Metrics that only reports of your own give."""
    levels: tuple[Level, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _levels_are_named(self) -> Policy:
        names = [level.name for level in self.levels]
        if len(set(names)) != len(names):
            raise ValueError(f"level names repeat: {names}")
        if self.release_level not in names:
            raise ValueError(f"release_level {self.release_level!r} is not one of the levels {names}")
        for role in (*self.signatures, *self.override_roles):
            if not role.isidentifier():
                raise ValueError(f"{role!r} cannot name a role: letters, digits and _")
        if len(set(self.signatures)) != len(self.signatures):
            raise ValueError(f"a role signs once: {list(self.signatures)}")
        return self

    def fingerprint(self) -> str:
        """The sha256 of the policy's content (not of its comments)."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def overriders(self) -> tuple[str, ...]:
        """Roles whose override counts."""
        return self.override_roles or self.signatures[-1:]


def load_policy(path: str = "default") -> Policy:
    """The policy in a YAML file, or one that Publius ships (`default`, `strict`).

    Raises:
        UserError: for a file that is missing, too large, not YAML, or not a policy, naming the field; and for
            a metric that no report gives.
    """
    file = Path(__file__).with_name(SHIPPED[path]) if path in SHIPPED else Path(path)
    try:
        policy = Policy.model_validate(parse_yaml(read_text(file)))
    except OSError as error:
        raise UserError(
            f"cannot read the release policy: {error.strerror}",
            where=str(file),
            fix=f"give a file, or one of {', '.join(f'`{name}`' for name in SHIPPED)}",
        ) from None
    except BadYaml as error:
        raise UserError(
            f"the release policy is not YAML: {error}", where=str(file), fix="mend the file"
        ) from None
    except ValidationError as error:
        told = error.errors()[0]
        place = ".".join(str(part) for part in told["loc"]) or "policy"
        raise UserError(
            f"the release policy is wrong at {place}: {told['msg']}",
            where=str(file),
            fix="see docs/policy.md for the fields",
        ) from None
    for level in policy.levels:
        for check in level.every_check():
            check_known(check.metric, f"{file}, level {level.name}", policy.metrics)
    return policy
