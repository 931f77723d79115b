"""Ed25519 signatures over JSON documents: who decided, in which role, and that nothing was changed since.

Two roles sign: an `evaluator`, who measured, and where the policy asks for it an `approver`, who answers for
the release. A key signs in one role. The private keys lie in the user's config folder, readable by the user
alone; the evaluator's is made on first use (or taken from `PUBLIUS_SIGNING_KEY`: a PEM file, or the PEM text
itself, for machines without a home), every other one is made on purpose: `publius gate key approver`.

Whose signatures count is written in `signers.yaml` beside them, role by role; the keys that lie there
themselves count for their own role.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from pydantic import BaseModel, ConfigDict, TypeAdapter

from publius.core.errors import UserError
from publius.core.yaml_text import parse_yaml, read_text
from publius.pipeline.store import disk_errors, write_whole

__all__ = [
    "EVALUATOR",
    "Signature",
    "Trusted",
    "canonical_bytes",
    "config_folder",
    "key_path",
    "make_key",
    "public_key",
    "read_key",
    "sign",
    "signing_key",
    "trust",
    "trusted_signers",
    "verify",
]

EVALUATOR = "evaluator"
Trusted = Mapping[str, Sequence[str]]
"""Role -> public keys (hex) whose signatures count in it."""
_VARIABLE = "PUBLIUS_SIGNING_KEY"
_SIGNERS = TypeAdapter(dict[str, list[str]])


class Signature(BaseModel):
    """A signature and the public key it was made under, both hex."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    algorithm: str = "ed25519"
    public_key: str
    signature: str


def canonical_bytes(document: Any) -> bytes:
    """The one byte form of a JSON value: sorted keys, no spaces, UTF-8; NaN is refused."""
    return json.dumps(
        document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def config_folder() -> Path:
    """Where this user's keys and `signers.yaml` lie."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "publius"


def key_path(role: str = EVALUATOR) -> Path:
    """Where the key of a role lies: `$PUBLIUS_SIGNING_KEY` for the evaluator's, else in the config folder."""
    named = os.environ.get(_VARIABLE)
    if role == EVALUATOR:
        return Path(named) if named else config_folder() / "signing_key.pem"
    return config_folder() / f"{role}_key.pem"


def signing_key(role: str = EVALUATOR) -> Ed25519PrivateKey:
    """This user's private key of a role; the evaluator's is made on first use (file mode 0600).

    Raises:
        UserError: for a key that others may read, is not Ed25519, cannot be read or made, or (of another
            role) is not there.
    """
    named = os.environ.get(_VARIABLE, "") if role == EVALUATOR else ""
    if named.startswith("-----BEGIN"):
        return _parse(named.encode(), _VARIABLE)
    path = key_path(role)
    if not path.exists():
        if named:
            raise UserError(
                "the signing key does not exist", where=named, fix=f"unset {_VARIABLE}, or make the key"
            )
        if role != EVALUATOR:
            raise UserError(
                f"there is no {role}'s key here", where=str(path),
                fix=f"whoever is the {role} makes one: publius gate key {role}; or give --key FILE",
            )  # fmt: skip
        _create(path)
    return read_key(path)


def read_key(path: Path) -> Ed25519PrivateKey:
    """The private key in a PEM file that only its owner may read.

    Raises:
        UserError: for one that others may read, is not Ed25519, or cannot be read.
    """
    try:
        if path.stat().st_mode & 0o077:
            raise UserError("the signing key is readable by others", where=str(path), fix=f"chmod 600 {path}")
        return _parse(path.read_bytes(), str(path))
    except OSError as error:
        raise UserError(
            f"cannot read the signing key: {error.strerror}", where=str(path), fix="mend its access"
        ) from None


def make_key(role: str) -> Path:
    """Make this user's key of a role, unless it is there; its path.

    Raises:
        UserError: for a role that cannot name a file, or a folder that cannot be written.
    """
    _check_role(role)
    path = key_path(role)
    if not path.exists():
        _create(path)
    return path


def public_key(key: Ed25519PrivateKey) -> str:
    """The public half, hex."""
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()


def trusted_signers() -> dict[str, list[str]]:
    """Role -> public keys that count here: those of `signers.yaml`, and those that lie in the config folder.

    Raises:
        UserError: for a `signers.yaml` that is damaged, or a key that counts in two roles.
    """
    found: dict[str, list[str]] = {EVALUATOR: [public_key(signing_key())]}
    for path in sorted(config_folder().glob("*_key.pem")):
        role = path.name.removesuffix("_key.pem")
        if role != "signing":
            found.setdefault(role, []).append(public_key(read_key(path)))
    for role, keys in _signers().items():
        found.setdefault(role, []).extend(key.lower() for key in keys)
    seen: dict[str, str] = {}
    for role, keys in found.items():
        for key in keys:
            if seen.setdefault(key, role) != role:
                raise UserError(
                    f"one key is trusted as {seen[key]} and as {role} ({key[:16]}...)",
                    where=str(config_folder()), fix="two roles need two people, each with a key of their own",
                )  # fmt: skip
    return found


def trust(role: str, key: str) -> Path:
    """Let a public key count in a role, from now on, on this machine.

    Raises:
        UserError: for what cannot name a role, is no public key, or counts in another role already; and when
            the list cannot be written, which leaves it as it was.
    """
    _check_role(role)
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(key))
    except ValueError:
        raise UserError("this is no public key", where="key", fix="give its 64 hex digits") from None
    others = [name for name, keys in trusted_signers().items() if key.lower() in keys and name != role]
    if others:
        raise UserError(
            f"this key is trusted as {others[0]} already", where=str(_signers_path()),
            fix="two roles need two people, each with a key of their own",
        )  # fmt: skip
    signers = _signers()
    signers[role] = sorted({*signers.get(role, []), key.lower()})
    path = _signers_path()
    with disk_errors(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(path, yaml.safe_dump(signers).encode())
    return path


def sign(document: Any, key: Ed25519PrivateKey) -> Signature:
    """Sign a JSON value."""
    return Signature(public_key=public_key(key), signature=key.sign(canonical_bytes(document)).hex())


def verify(document: Any, signature: Signature, trusted: Sequence[str], *, where: str = "") -> None:
    """Check that `document` is what a trusted key signed.

    Args:
        trusted: public keys (hex) whose signatures count.

    Raises:
        UserError: for an unknown signer, or for a document or signature that was changed.
    """
    if signature.algorithm != "ed25519" or signature.public_key not in trusted:
        raise UserError(
            f"signed by a key that is not trusted ({signature.public_key[:16]}...)",
            where=where,
            fix="decide again here, or trust the signer's key: publius gate trust ROLE KEY",
        )
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(signature.public_key))
        key.verify(bytes.fromhex(signature.signature), canonical_bytes(document))
    except (InvalidSignature, ValueError):
        raise UserError(
            "the signature does not fit: the document was changed after signing",
            where=where,
            fix="run the gate again",
        ) from None


def _check_role(role: str) -> None:
    if not role.isidentifier():
        raise UserError(f"{role!r} cannot name a role", where="role", fix="use letters, digits and _")


def _signers_path() -> Path:
    return config_folder() / "signers.yaml"


def _signers() -> dict[str, list[str]]:
    path = _signers_path()
    try:
        return _SIGNERS.validate_python(parse_yaml(read_text(path)) or {})
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):  # no YAML, or no list of signers
        raise UserError(
            "the list of trusted signers cannot be read", where=str(path),
            fix="write ROLE: [PUBLIC_KEY, ...], or make it anew: publius gate trust ROLE KEY",
        ) from None  # fmt: skip


def _create(path: Path) -> None:
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # never readable by others, not even for a moment, and never written over an existing key
        write_whole(path, pem, mode=0o600, over=False)
    except FileExistsError:
        return  # another process made it first: use that one
    except OSError as error:
        raise UserError(
            f"cannot make a signing key: {error.strerror}",
            where=str(path),
            fix=f"set {_VARIABLE} to a key file",
        ) from None


def _parse(pem: bytes, where: str) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise UserError(
            "the signing key is not an unencrypted Ed25519 private key in PEM form",
            where=where,
            fix="make one: openssl genpkey -algorithm ed25519",
        )
    return key
