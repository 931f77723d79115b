"""Which models may be served: what the gate decided on weights *and* on the monitors in front of them.

A decision speaks of one checkpoint, one monitors' policy (or none), and what must be at work beside. Served
with anything else it is a decision on something else. `--unreleased` serves what nobody decided on, to this
machine only.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from publius.core.errors import UserError
from publius.model.checkpoint import Checkpoint, fingerprint
from publius.release.book import decision_of, newest
from publius.release.decision import OldDecision, read_standing
from publius.release.gate import Release
from publius.release.monitors import policy_sha256
from publius.release.permit import Permit, permit
from publius.release.policy import load_policy

__all__ = ["Admission", "Admitted"]

_UNDECIDED = "serve a run's release, or add --unreleased (this machine only)"


class Admitted(NamedTuple):
    """That a model may be served, and on what grounds."""

    permit: Permit | None
    """None for one that nobody decided on, served to this machine only."""
    monitors: str | None
    """The sha256 of the monitors' policy in front of it."""

    def expired(self, now: datetime | None = None) -> bool:
        """Whether what permitted it holds no more."""
        return self.permit is not None and self.permit.until < (now or datetime.now(UTC))

    def warnings(self) -> list[str]:
        """What everyone who starts the server should see: the overrides it rests on."""
        overrides = () if self.permit is None else self.permit.overrides
        return [
            f"OVERRIDE: {', '.join(o.overrides)} set aside by {o.who} ({o.role}): {o.why}; until {o.expires}"
            for o in overrides
        ]


class Admission:
    """Asks the gate's decisions.

    Args:
        unreleased: models without a decision that permits them are let in.
        monitors: the monitors' policy file that is in force; None for none.
        policy: the only release policy that counts, as `load_policy` takes it; empty for any.
        keyed: whether callers need a key.
        audited: whether an audit log is written.
    """

    def __init__(
        self,
        *,
        unreleased: bool = False,
        monitors: Path | None = None,
        policy: str = "",
        keyed: bool = True,
        audited: bool = True,
    ) -> None:
        self._unreleased, self._monitors = unreleased, monitors
        self._keyed, self._audited = keyed, audited
        self._policy = load_policy(policy).fingerprint() if policy else None

    def admit(self, checkpoint: Path, home: Path) -> Admitted:
        """Check that a checkpoint may be served now, under the monitors in force now.

        Raises:
            UserError: for a decision that is damaged or was changed, always; for one that is missing, old,
                expired, or does not permit this, unless models are served unreleased.
        """
        sha256 = None if self._monitors is None else policy_sha256(self._monitors)
        if not self._unreleased:
            return self._permitted(checkpoint, home, sha256)
        own = decision_of(checkpoint, home)
        try:
            if own is not None:
                read_standing(own)  # what was changed by somebody is not served, released or not
        except OldDecision:
            return Admitted(None, sha256)
        try:
            return self._permitted(checkpoint, home, sha256)
        except UserError:
            return Admitted(None, sha256)

    def _permitted(self, checkpoint: Path, home: Path, sha256: str | None) -> Admitted:
        folder = newest(checkpoint, home)  # a gate of a run may have denied since
        if folder is None:
            raise UserError("no gate has decided on this model", where=str(checkpoint), fix=_UNDECIDED)
        if folder == checkpoint / "decision":
            Release(checkpoint).verify()
        found = permit(folder, model=fingerprint(Checkpoint(checkpoint)), policy=self._policy)
        document, where = found.document, str(folder / "decision.json")
        requires = document.decision.requires
        if sha256 is None and "monitors" in requires:
            raise UserError(
                "the decision on this model requires monitors, and none are in force", where=where,
                fix=f"serve with --monitors POLICY, the policy {(document.monitors or '')[:16]}...",
            )  # fmt: skip
        if sha256 is not None and sha256 != document.monitors:
            named = f"{document.monitors[:16]}..." if document.monitors else "none"
            raise UserError(
                f"no gate has decided on these monitors ({sha256[:16]}...); the decision names {named}",
                where=str(self._monitors),
                fix="decide on model and monitors together: publius gate decide MODEL --monitors POLICY",
            )
        if "access_control" in requires and not self._keyed:
            raise UserError(
                "the decision on this model requires access control, and this server asks for no key",
                where=where, fix="set PUBLIUS_API_KEY, or make a key: publius keys create",
            )  # fmt: skip
        if "audit_log" in requires and not self._audited:
            raise UserError(
                "the decision on this model requires an audit log, and none is written", where=where,
                fix="serve with --audit FILE",
            )  # fmt: skip
        return Admitted(found, sha256)

    def check_monitors(self, admitted: Admitted, *, watching: bool) -> None:
        """Once the monitors are loaded: they must be those that were admitted, not changed in between.

        Raises:
            UserError: for monitors without a policy, or with another by now, in front of a released model.
        """
        now = None if self._monitors is None else policy_sha256(self._monitors)
        if admitted.permit is not None and (now != admitted.monitors or watching != (now is not None)):
            raise UserError(
                "no gate has decided on these monitors", where=str(self._monitors or "monitors"),
                fix="decide on model and monitors together: publius gate decide MODEL --monitors POLICY",
            )  # fmt: skip
