"""Signatures of thinking: opaque to clients, and all this server needs to know its own thinking again.

A signature holds the thinking, sealed (AES-GCM) under the server's secret and the model's id. It is verified
without state, and thinking that was left out of a reply (`display: omitted`) is put back when the client
returns the block.
"""

from __future__ import annotations

import base64
import binascii
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = ["seal", "unseal"]

_VERSION = "v1."
_NONCE = 12


def seal(secret: bytes, model: str, thinking: str) -> str:
    """The signature of what `model` thought.

    Args:
        secret: 32 bytes.
    """
    nonce = os.urandom(_NONCE)
    sealed = AESGCM(secret).encrypt(nonce, thinking.encode(), model.encode())
    return _VERSION + base64.urlsafe_b64encode(nonce + sealed).decode()


def unseal(secret: bytes, model: str, signature: str) -> str | None:
    """The thinking a signature seals, None for one this server did not make for `model`."""
    if not signature.startswith(_VERSION):
        return None
    try:
        raw = base64.b64decode(signature[len(_VERSION) :], altchars=b"-_", validate=True)
        return AESGCM(secret).decrypt(raw[:_NONCE], raw[_NONCE:], model.encode()).decode()
    except (binascii.Error, InvalidTag, ValueError):
        return None
