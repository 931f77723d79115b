"""What a decision permits: by verdict, signatures, overrides, time, and what the model is served with.

Everything here says no unless it is shown that it may. A decision that denies is not permitted by leaving
something out: the one way past a failed demand is an override, by name, signed, and where the policy says
that this demand may be overridden at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from publius.core.errors import UserError
from publius.release.deciding import CheckResult, SafeguardResult
from publius.release.decision import (
    DecisionDocument,
    Override,
    Standing,
    check_about,
    read_decision,
    read_standing,
    read_time,
    write_override,
)
from publius.release.model_card import render_card
from publius.release.signing import Trusted, public_key, trusted_signers

__all__ = ["Permit", "add_override", "overridable", "permit"]


class Permit(NamedTuple):
    """That a model may go out."""

    document: DecisionDocument
    overrides: tuple[Override, ...]
    """Those it rests on."""
    until: datetime
    """Decision and overrides hold until then."""


def permit(
    folder: Path,
    *,
    model: str | None = None,
    trusted: Trusted | Sequence[str] | None = None,
    now: datetime | None = None,
    policy: str | None = None,
) -> Permit:
    """Check that the decision in `folder` lets its model go out.

    Args:
        model: the fingerprint it must be about, None for any.
        trusted: as `read_standing`.
        now: the time it must hold at; the present when None.
        policy: the sha256 of the only policy that counts; None takes any a trusted key signed under.

    Raises:
        UserError: for whatever is changed, missing, expired, unsigned, of other weights or another policy,
            and when the decision denies.
    """
    standing = read_standing(folder, trusted)
    document, at = standing.document, now or datetime.now(UTC)
    check_about(document, folder, model=model, now=at)
    if policy is not None and document.policy_sha256 != policy:
        raise UserError(
            f"this decision is by another policy ({document.policy.id} version {document.policy.version})",
            where=str(folder), fix="decide by that one: publius gate decide --policy P MODEL",
        )  # fmt: skip
    missing = [role for role in document.policy.signatures if role not in standing.signatures]
    if missing:
        raise UserError(
            f"the decision is not signed by: {', '.join(missing)}", where=str(folder),
            fix=f"whoever is that signs it: publius gate sign MODEL --role {missing[0]}",
        )  # fmt: skip
    used = _used(standing, folder, at)
    ends = [read_time(document.expires, str(folder)), *(read_time(o.expires, str(folder)) for o in used)]
    return Permit(document, used, min(ends))


def _used(standing: Standing, folder: Path, now: datetime) -> tuple[Override, ...]:
    """The overrides without which it would not be permitted; an error where they do not reach."""
    document = standing.document
    if document.decision.allowed:
        return ()
    needed = overridable(document)
    alive = [o for o in standing.overrides if read_time(o.expires, str(folder)) >= now]
    said = {name for override in alive for name in override.overrides}
    left = [name for name, may in needed.items() if not may or name not in said]
    if not needed or left:
        late = [o for o in standing.overrides if o not in alive and set(o.overrides) & set(left)]
        if late:
            raise UserError(
                f"the override of {', '.join(late[-1].overrides)} expired on {late[-1].expires}",
                where=str(folder), fix="mend what it set aside, or let a person look again",
            )  # fmt: skip
        human = document.decision.verdict == "needs_human"
        what = "a person must decide on this model" if human else "the gate refuses this model"
        fix = "train and evaluate until the policy holds; thresholds are fixed beforehand"
        if human or all(needed.get(name) for name in left):
            fix = "publius gate override MODEL, by whoever may: publius gate show MODEL tells what and who"
        raise UserError(
            f"{what}: {'; '.join(document.decision.reasons)}", where=str(folder / "decision.json"), fix=fix
        )
    return tuple(o for o in alive if set(o.overrides) & set(needed))


def overridable(document: DecisionDocument) -> dict[str, bool]:
    """What stands between a decision and its release, by name, and whether an override may set it aside."""
    decision = document.decision
    names = [level.name for level in document.policy.levels]
    levels = set(names[: names.index(decision.needed) + 1])
    found: dict[str, bool] = {}

    def add(name: str, may: bool) -> None:
        found[name] = found.get(name, True) and may

    for level in document.policy.levels:
        if level.name in levels and level.human:
            add(f"level.{level.name}", True)
    within = [r for r in decision.checks if r.level in levels]
    within += [r for one in decision.safeguards if one.level in levels for r in one.checks]
    for result in (*within, *decision.thresholds):
        if result.review:
            add(result.check.metric, True)
    results: list[CheckResult | SafeguardResult] = [*decision.checks, *decision.safeguards]
    for result in results:
        if result.level in levels and not result.passed:
            if isinstance(result, SafeguardResult):
                add(result.name, result.overridable)
            else:
                add(result.check.metric, result.check.overridable)
    return found


def add_override(
    folder: Path,
    names: Sequence[str],
    *,
    role: str,
    key: Ed25519PrivateKey,
    who: str,
    why: str,
    days: float,
    now: datetime | None = None,
) -> Override:
    """Record that a person sets demands of a decision aside, and render the card that tells of it.

    Args:
        names: metrics, safeguards, or `level.NAME`, as `overridable` gives them.
        role: of the policy's `override_roles`.
        who, why: for everyone who reads the card.
        days: it holds for so long, at most the policy's `override_days`.

    Raises:
        UserError: for what is not in the way, or may not be set aside, a role that may not, no reason, or too
            many days.
    """
    document = read_decision(folder)
    _check_said(document, folder, names, role=role, key=key, said=(who, why), days=days)
    begun = (now or datetime.now(UTC)).replace(microsecond=0)
    made = Override(
        decision=document.sha256(), overrides=tuple(names), who=who.strip(), why=why.strip(), role=role,
        when=begun.isoformat(), expires=(begun + timedelta(days=days)).isoformat(),
    )  # fmt: skip
    earlier = read_standing(folder).overrides
    write_override(folder, made, key, render_card(document, (*earlier, made)))
    return made


def _check_said(
    document: DecisionDocument, folder: Path, names: Sequence[str], *, role: str, key: Ed25519PrivateKey,
    said: tuple[str, str], days: float,
) -> None:  # fmt: skip
    """An override must be possible, whole, short enough, and by somebody who may."""
    possible = overridable(document)
    may_be = ", ".join(name for name, may in possible.items() if may) or "nothing"
    for name in names:
        if not possible.get(name):
            told = "may not be set aside by this policy" if name in possible else "is not in the way"
            raise UserError(
                f"{name} {told}", where=str(folder),
                fix=f"an override may name: {may_be}",
            )  # fmt: skip
    policy = document.policy
    if role not in policy.overriders():
        raise UserError(
            f"a {role} may not override by policy {policy.id}", where="--role",
            fix=f"these may: {', '.join(policy.overriders())}",
        )  # fmt: skip
    if not (names and all(each.strip() for each in said)):
        raise UserError(
            "an override says what it sets aside, who says so and why", where=str(folder),
            fix="give all three",
        )  # fmt: skip
    if not 0 < days <= policy.override_days:
        raise UserError(
            f"an override holds for more than nothing and at most {policy.override_days} days",
            where="--days", fix="give fewer",
        )  # fmt: skip
    if public_key(key) not in trusted_signers().get(role, ()):
        raise UserError(
            f"this key is not trusted as {role} here", where=str(folder),
            fix=f"trust it first: publius gate trust {role} {public_key(key)}",
        )  # fmt: skip
