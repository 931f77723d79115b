"""Ed25519 signatures over JSON documents: who decided, and that nothing was changed since.

The private key is made on first use in the user's config folder, readable by the user alone, or taken
from `PUBLIUS_SIGNING_KEY` (a PEM file, or the PEM text itself, for machines without a home).
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from pydantic import BaseModel, ConfigDict

from publius.core.errors import UserError

__all__ = ["Signature", "canonical_bytes", "key_path", "public_key", "sign", "signing_key", "verify"]

_VARIABLE = "PUBLIUS_SIGNING_KEY"


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


def key_path() -> Path:
    """Where the key lives: `$PUBLIUS_SIGNING_KEY`, else `publius/signing_key.pem` in the config folder."""
    named = os.environ.get(_VARIABLE)
    if named:
        return Path(named)
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "publius" / "signing_key.pem"


def signing_key() -> Ed25519PrivateKey:
    """The private key, made on first use (file mode 0600).

    Raises:
        UserError: for a key that others may read, is not Ed25519, or cannot be read or made.
    """
    named = os.environ.get(_VARIABLE, "")
    if named.startswith("-----BEGIN"):
        return _parse(named.encode(), _VARIABLE)
    path = key_path()
    if not path.exists():
        if named:
            raise UserError(
                "the signing key does not exist", where=named, fix=f"unset {_VARIABLE}, or make the key"
            )
        _create(path)
    try:
        if path.stat().st_mode & 0o077:
            raise UserError("the signing key is readable by others", where=str(path), fix=f"chmod 600 {path}")
        return _parse(path.read_bytes(), str(path))
    except OSError as error:
        raise UserError(
            f"cannot read the signing key: {error.strerror}", where=str(path), fix="mend its access"
        ) from None


def public_key(key: Ed25519PrivateKey) -> str:
    """The public half, hex."""
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()


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
            fix="decide again here, or add the signer's public key to the trusted ones",
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


def _create(path: Path) -> None:
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # never readable by others, not even for a moment, and never written over an existing key
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(pem)
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
