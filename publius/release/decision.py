"""The signed decision on disk: decision, evidence and model card, bound together and to the weights.

decision.json    the signed body: fingerprint, policy, metrics, hashes of everything below, verdict
signature.json   Ed25519 over the canonical form of that body
model_card.md    rendered from the same evidence
evidence/        the report, findings and scan files it rests on
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from publius.core.errors import UserError
from publius.evals import Measure
from publius.pipeline import Artifact
from publius.release.policy import Decision, Policy
from publius.release.signing import Signature, public_key, signing_key, verify

__all__ = ["DecisionArtifact", "DecisionDocument", "verify_decision"]

_M = TypeVar("_M", bound=BaseModel)


class DecisionDocument(BaseModel):
    """The signed body. `model` is the fingerprint of the only checkpoint it speaks of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    policy: Policy
    policy_sha256: str
    metrics: dict[str, Measure]
    evidence: dict[str, str]
    card_sha256: str
    decision: Decision
    issued: str
    """UTC, ISO 8601."""
    expires: str


class DecisionArtifact(Artifact):
    """A signed decision with its card and evidence."""

    def document(self) -> DecisionDocument:
        """The parsed body, its signature not checked.

        Raises:
            UserError: when it is missing or damaged.
        """
        return _parse(self.file("decision.json"), DecisionDocument)

    def verify(self, trusted: Sequence[str] | None = None) -> DecisionDocument:
        """The body, once signature and hashes are checked; see `verify_decision`."""
        return verify_decision(self.path, trusted=trusted)


def verify_decision(
    folder: Path,
    *,
    model: str | None = None,
    trusted: Sequence[str] | None = None,
    now: datetime | None = None,
) -> DecisionDocument:
    """Check a decision folder: signature, card, evidence, expiry, and which weights it speaks of.

    Whether it *allows* anything is for the caller to read.

    Args:
        model: the fingerprint it must be about, None for any.
        trusted: public keys (hex) that may decide; this user's own when None.
        now: the time it must still be valid at.

    Raises:
        UserError: naming what was changed, expired or belongs to another model.
    """
    path = folder / "decision.json"
    document = _parse(path, DecisionDocument)
    signature = _parse(folder / "signature.json", Signature)
    keys = [public_key(signing_key())] if trusted is None else trusted
    verify(document.model_dump(mode="json"), signature, keys, where=str(path))
    hashes = {f"evidence/{name}": digest for name, digest in document.evidence.items()}
    for name, expected in {"model_card.md": document.card_sha256, **hashes}.items():
        file = folder / name
        if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != expected:
            raise UserError(
                f"{name} was changed after the decision was signed", where=str(file), fix="run the gate again"
            )
    if model is not None and document.model != model:
        raise UserError(
            f"this decision is about other weights ({document.model[:16]}..., not {model[:16]}...)",
            where=str(path),
            fix="gate the very checkpoint that is to be released",
        )
    if datetime.fromisoformat(document.expires) < (now or datetime.now(UTC)):
        raise UserError(
            f"this decision expired on {document.expires}", where=str(path), fix="evaluate and gate again"
        )
    return document


def _parse(path: Path, kind: type[_M]) -> _M:
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise UserError(
            f"there is no {path.name} here", where=str(path.parent), fix="run the gate first"
        ) from None
    except ValidationError as error:
        raise UserError(
            f"{path.name} is damaged: {error.errors()[0]['msg']}", where=str(path), fix="run the gate again"
        ) from None
