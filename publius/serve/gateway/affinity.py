"""Which requests belong together: those whose prompts begin alike go where that beginning has been read.

The key of a request is what stays as a conversation grows: model, tools, system text and the first message.
By rendezvous hashing (Thaler and Ravishankar 1998) every key orders the backends its own way, so that one
more or one less moves only the keys that are its own.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote

__all__ = ["Key", "key_of", "ordered", "share"]

_PREFIX = 512
"""Characters, or token ids, of a bare prompt that count."""
_BEDROCK = re.compile(r"/model/([^/]+)/[\w-]+")
_RETRIEVED = re.compile(r"/v1/models/(.+)")
_LEADING = ("system", "developer")


class Key(NamedTuple):
    """What a request is routed by."""

    model: str | None
    """The id as it was written; None where the request names none."""
    digest: bytes
    """Of what its prompt begins with."""
    bedrock: bool = False
    """Whether the id is written as Bedrock's clients do: as an ARN, with a region, a vendor, a version."""


def key_of(raw_path: str, body: bytes) -> Key:
    """The key of a request in any of the dialects; a body that is none of them counts as a whole.

    Args:
        raw_path: as it came, not decoded.
    """
    try:
        read: Any = json.loads(body) if body else {}
    except (ValueError, RecursionError):
        read = None
    if not isinstance(read, dict):
        return Key(None, _digest(body))
    bedrock = _BEDROCK.fullmatch(raw_path)
    named = bedrock or _RETRIEVED.fullmatch(raw_path)
    model = unquote(named[1]) if named else read.get("model")
    requests = read.get("requests")
    if model is None and isinstance(requests, list) and requests and isinstance(requests[0], dict):
        read = requests[0].get("params")  # a batch goes where its first request would
        read = read if isinstance(read, dict) else {}
        model = read.get("model")
    begins = [model, read.get("tools") or read.get("toolConfig") or None, *_begins(read)]
    written = json.dumps(begins, sort_keys=True, separators=(",", ":"))
    name = model if isinstance(model, str) else None
    return Key(name, _digest(written.encode()), bedrock is not None)


def _begins(body: dict[str, Any]) -> list[Any]:
    """System text and first message, or the beginning of a bare prompt."""
    prompt, messages = body.get("prompt"), body.get("messages")
    if prompt is not None:
        first = prompt[0] if isinstance(prompt, list) and prompt else prompt
        shown = first if isinstance(first, str | list) else prompt
        return [shown[:_PREFIX] if isinstance(shown, str | list) else shown]
    found: list[Any] = [body.get("system") or None]
    for message in messages if isinstance(messages, list) else ():
        found.append(message)
        if not (isinstance(message, dict) and message.get("role") in _LEADING):
            break
    return found


def _digest(value: bytes) -> bytes:
    return hashlib.blake2b(value, digest_size=16).digest()


def ordered(key: Key, names: Sequence[str]) -> list[str]:
    """`names`, the one the key belongs to first, then who takes its place, and so on."""
    return sorted(names, key=lambda name: _digest(key.digest + name.encode()), reverse=True)


def share(in_flight: int, backends: int, *, bound: float, spare: int) -> int:
    """How many requests a backend may have under way before the next one takes more (Mirrokni et al. 2018).

    Args:
        in_flight: of all backends together.
        bound: how many times the even share.
        spare: a backend has room for so many in any case.
    """
    return max(spare, math.ceil(bound * (in_flight + 1) / max(1, backends)))
