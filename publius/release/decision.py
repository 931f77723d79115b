"""The signed decision on disk: body, signatures, card and evidence, bound together and to the weights.

decision.json            the body: fingerprint, policy, metrics, safeguards, hashes of what is below, verdict
signatures/ROLE.json     Ed25519 over the hash of that body, the role, the time and who signed
overrides/NAME.json      a person's recorded word against a failed demand, signed likewise
model_card.md            rendered from the same evidence
evidence/                the reports the decision rests on
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel, ConfigDict, ValidationError

from publius.core.errors import UserError
from publius.evals import Measure
from publius.pipeline import Artifact
from publius.pipeline.store import disk_errors, write_whole
from publius.release.deciding import Context, Decision, decide
from publius.release.policy import Policy
from publius.release.safeguards import SafeguardDocument
from publius.release.signing import Signature, Trusted, canonical_bytes, sign, trusted_signers, verify

__all__ = [
    "DecisionArtifact",
    "DecisionDocument",
    "OldDecision",
    "Override",
    "Signed",
    "Standing",
    "add_signature",
    "read_decision",
    "read_standing",
    "verify_decision",
]

_M = TypeVar("_M", bound=BaseModel)
_AGAIN = "run the gate again: `publius gate decide MODEL`, or the run it was made in"


class OldDecision(UserError):
    """A decision in a format of an earlier version, which said less than is asked now."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DecisionDocument(_Frozen):
    """The signed body. `model` is the fingerprint of the only checkpoint it speaks of."""

    format: Literal[2] = 2
    model: str
    name: str = ""
    """What the card calls the model."""
    about: str = ""
    """Its shape, in a sentence."""
    policy: Policy
    policy_sha256: str
    metrics: dict[str, Measure]
    measured: dict[str, str] = {}
    """Metric -> when it was measured, where that is known."""
    elicited: tuple[str, ...] = ()
    growth: float | None = None
    """Training compute over that of the model whose capabilities were assessed."""
    safeguards: tuple[SafeguardDocument, ...] = ()
    subjects: dict[str, str] = {}
    """What each evidence test had to be about, by the safeguard's name."""
    monitors: str | None = None
    """The sha256 of the only monitors' policy it may be served with."""
    evidence: dict[str, str]
    card_sha256: str
    decision: Decision
    issued: str
    """UTC, ISO 8601."""
    expires: str

    def context(self) -> Context:
        """What was known beside the numbers when it was decided."""
        return Context(
            self.measured, self.elicited, self.growth, self.safeguards, self.subjects,
            datetime.fromisoformat(self.issued),
        )  # fmt: skip

    def sha256(self) -> str:
        """What signatures and overrides speak of."""
        return hashlib.sha256(canonical_bytes(self.model_dump(mode="json"))).hexdigest()


class Signed(_Frozen):
    """Who signed a body, and as what."""

    decision: str
    """The sha256 of the body."""
    role: str
    who: str = ""
    """A name, for people; the key is what counts."""
    when: str


class _SignedFile(_Frozen):
    body: Signed
    signature: Signature


class Override(_Frozen):
    """A person's recorded word against demands that failed, or that a person must look at."""

    decision: str
    """The sha256 of the body it speaks of."""
    overrides: tuple[str, ...]
    """Metrics and safeguards set aside; of a decision that needs a person, what was looked at."""
    who: str
    why: str
    role: str
    when: str
    expires: str
    card_sha256: str = ""
    """Of the card that tells of it."""


class _OverrideFile(_Frozen):
    body: Override
    signature: Signature


class Standing(NamedTuple):
    """A decision with everything said about it, its signatures checked; see `release.permit`."""

    document: DecisionDocument
    signatures: dict[str, Signed]
    """By role."""
    overrides: tuple[Override, ...]
    """In the order they were made, those that have expired too."""


class DecisionArtifact(Artifact):
    """A signed decision with its card and evidence."""

    def document(self) -> DecisionDocument:
        """The parsed body, no signature checked.

        Raises:
            UserError: when it is missing, damaged or of an old format.
        """
        return read_decision(self.path)

    def verify(self, trusted: Trusted | Sequence[str] | None = None) -> DecisionDocument:
        """The body, once signatures and hashes are checked; see `verify_decision`."""
        return verify_decision(self.path, trusted=trusted)


def read_decision(folder: Path) -> DecisionDocument:
    """The body of a decision, nothing checked but its form.

    Raises:
        OldDecision: for the format of an earlier version.
        UserError: when it is missing or damaged.
    """
    path = folder / "decision.json"
    try:
        raw = json.loads(path.read_bytes())
    except (OSError, ValueError):
        raw = {}
    if isinstance(raw, dict) and raw.get("policy_sha256") and "format" not in raw:
        raise OldDecision(
            "this decision is of an older format, and says nothing of monitors, roles and safeguards",
            where=str(path),
            fix="decide again: run its recipe again (only its gate and release are made anew), or "
            "`publius gate decide MODEL`",
        )
    return _parse(path, DecisionDocument)


def read_standing(folder: Path, trusted: Trusted | Sequence[str] | None = None) -> Standing:
    """A decision and everything signed about it, once signatures, card and evidence are checked.

    Args:
        trusted: whose signatures count: by role, or in any role; this machine's `trusted_signers` when None.

    Raises:
        UserError: naming what is missing, was changed, or was signed by a key that is not trusted.
    """
    document = read_decision(folder)
    sha256 = document.sha256()
    roles = trusted_signers() if trusted is None else trusted
    signatures = _signatures(folder, sha256, roles)
    overrides = _overrides(folder, document, roles)
    card = overrides[-1].card_sha256 if overrides else document.card_sha256
    hashes = {f"evidence/{name}": digest for name, digest in document.evidence.items()}
    for name, expected in {"model_card.md": card, **hashes}.items():
        file = folder / name
        if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != expected:
            raise UserError(f"{name} was changed after the decision was signed", where=str(file), fix=_AGAIN)
    if document.policy.fingerprint() != document.policy_sha256:
        raise UserError("the policy in the decision was changed", where=str(folder), fix=_AGAIN)
    _follows(document, folder)
    return Standing(document, signatures, overrides)


def _follows(document: DecisionDocument, folder: Path) -> None:
    """A signature says who decided; that the verdict follows from the evidence can be computed."""
    again, said = decide(document.metrics, document.policy, document.context()), document.decision
    for name in ("verdict", "level", "needed", "requires"):
        if getattr(again, name) != getattr(said, name):
            raise UserError(
                f"its evidence gives {name} {getattr(again, name)!r}, not {getattr(said, name)!r}",
                where=str(folder), fix=_AGAIN,
            )  # fmt: skip


def verify_decision(
    folder: Path,
    *,
    model: str | None = None,
    trusted: Trusted | Sequence[str] | None = None,
    now: datetime | None = None,
) -> DecisionDocument:
    """Check a decision folder: signatures, card, evidence, expiry, and which weights it speaks of.

    Whether it *allows* anything is for `release.permit` to say.

    Args:
        model: the fingerprint it must be about, None for any.
        trusted: as `read_standing`.
        now: the time it must still be valid at.

    Raises:
        UserError: naming what was changed, expired or belongs to another model.
    """
    document = read_standing(folder, trusted).document
    check_about(document, folder, model=model, now=now)
    return document


def check_about(document: DecisionDocument, folder: Path, *, model: str | None, now: datetime | None) -> None:
    """A decision must be about these weights, and still hold.

    Raises:
        UserError: when it is not, or does not.
    """
    path = str(folder / "decision.json")
    if model is not None and document.model != model:
        raise UserError(
            f"this decision is about other weights ({document.model[:16]}..., not {model[:16]}...)",
            where=path,
            fix="gate the very checkpoint that is to be released",
        )
    if read_time(document.expires, path) < (now or datetime.now(UTC)):
        raise UserError(
            f"this decision expired on {document.expires}", where=path, fix="evaluate and gate again"
        )


def read_time(text: str, where: str) -> datetime:
    """A time of ours; one without a zone is UTC.

    Raises:
        UserError: when it is none.
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UserError(f"{text!r} is no time", where=where, fix=_AGAIN) from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def add_signature(
    folder: Path, role: str, key: Ed25519PrivateKey, *, who: str = "", now: datetime | None = None
) -> Signed:
    """Sign the decision in `folder` in a role.

    Raises:
        UserError: for a decision that is not whole, a role its policy does not ask for, or a key that signed
            it in another role.
    """
    document = read_decision(folder)
    if role not in document.policy.signatures:
        raise UserError(
            f"policy {document.policy.id} asks for no signature of a {role}",
            where=str(folder), fix=f"its roles are: {', '.join(document.policy.signatures)}",
        )  # fmt: skip
    body = Signed(
        decision=document.sha256(), role=role, who=who,
        when=(now or datetime.now(UTC)).replace(microsecond=0).isoformat(),
    )  # fmt: skip
    made = _SignedFile(body=body, signature=sign(body.model_dump(mode="json"), key))
    others = {
        path.stem: _parse(path, _SignedFile).signature.public_key
        for path in (folder / "signatures").glob("*.json")
        if path.stem != role
    }
    for other, used in others.items():
        if used == made.signature.public_key:
            raise UserError(
                f"this key signed as {other} already", where=str(folder),
                fix="two roles need two people, each with a key of their own",
            )  # fmt: skip
    _write(folder / "signatures" / f"{role}.json", made)
    return body


def write_override(folder: Path, override: Override, key: Ed25519PrivateKey, card: str) -> None:
    """Sign an override into a decision folder, with the card that tells of it."""
    body = override.model_copy(update={"card_sha256": hashlib.sha256(card.encode()).hexdigest()})
    made = _OverrideFile(body=body, signature=sign(body.model_dump(mode="json"), key))
    place = folder / "overrides"
    number = 1 + len(list(place.glob("*.json")))
    path = place / f"{number:04d}.json"
    _write(path, made)
    try:
        with disk_errors(str(folder)):
            write_whole(folder / "model_card.md", card.encode())
    except BaseException:
        path.unlink()  # without its card it would have changed the decision
        raise


def _signatures(folder: Path, sha256: str, trusted: Trusted | Sequence[str]) -> dict[str, Signed]:
    found: dict[str, Signed] = {}
    keys: dict[str, str] = {}
    for path in sorted((folder / "signatures").glob("*.json")):
        made = _parse(path, _SignedFile)
        if made.body.role != path.stem or made.body.decision != sha256:
            raise UserError(
                "the signature does not fit: the document was changed after signing",
                where=str(path), fix=_AGAIN,
            )  # fmt: skip
        verify(made.body.model_dump(mode="json"), made.signature, _of(trusted, path.stem), where=str(path))
        other = keys.setdefault(made.signature.public_key, path.stem)
        if other != path.stem:
            raise UserError(
                f"one key signed as {other} and as {path.stem}", where=str(folder),
                fix="two roles need two people, each with a key of their own",
            )  # fmt: skip
        found[path.stem] = made.body
    if not found:
        raise UserError("nobody signed this decision", where=str(folder), fix=_AGAIN)
    return found


def _overrides(
    folder: Path, document: DecisionDocument, trusted: Trusted | Sequence[str]
) -> tuple[Override, ...]:
    found: list[Override] = []
    for number, path in enumerate(sorted((folder / "overrides").glob("*.json")), 1):
        made = _parse(path, _OverrideFile)
        body, where = made.body, str(path)
        verify(body.model_dump(mode="json"), made.signature, _of(trusted, body.role), where=where)
        if body.decision != document.sha256() or path.stem != f"{number:04d}":
            raise UserError(
                "this override is of another decision, or one before it is missing", where=where, fix=_AGAIN
            )
        if body.role not in document.policy.overriders():
            raise UserError(
                f"a {body.role} may not override by policy {document.policy.id}", where=where,
                fix=f"these may: {', '.join(document.policy.overriders())}",
            )  # fmt: skip
        longest = timedelta(days=document.policy.override_days, minutes=1)
        if read_time(body.expires, where) - read_time(body.when, where) > longest:
            raise UserError(
                f"this override holds for more than {document.policy.override_days} days", where=where,
                fix="make a shorter one",
            )  # fmt: skip
        found.append(body)
    return tuple(found)


def _of(trusted: Trusted | Sequence[str], role: str) -> Sequence[str]:
    return trusted.get(role, ()) if isinstance(trusted, Mapping) else trusted


def _write(path: Path, document: BaseModel) -> None:
    with disk_errors(str(path)):
        path.parent.mkdir(exist_ok=True)
        write_whole(path, (document.model_dump_json(indent=1) + "\n").encode())


def _parse(path: Path, kind: type[_M]) -> _M:
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError:
        raise UserError(
            f"there is no {path.name} here", where=str(path.parent), fix="run the gate first"
        ) from None
    except ValidationError as error:
        told: Any = error.errors()[0]["msg"]
        raise UserError(f"{path.name} is damaged: {told}", where=str(path), fix=_AGAIN) from None
