"""Verifiers: programs that know whether an answer is right, as rewards (`VerifierReward`).

A verifier takes the prompt's `meta`, where its truth is, and the visible text of the reply, and gives a
number from 0 to 1. What was thought before the answer is not looked at: only the answer counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

from publius.core.errors import UserError

__all__ = ["VERIFIERS", "VerifierName", "exact", "last_number"]

VerifierName = Literal["last_number", "exact"]


def last_number(meta: Mapping[str, Any], text: str) -> float:
    """1 when the last whole number in `text` is `meta["keys"][0]`, else 0: others are on the way to it."""
    numbers = re.findall(r"-?\d+", text)
    return float(bool(numbers) and int(numbers[-1]) == int(_truth(meta)))


def exact(meta: Mapping[str, Any], text: str) -> float:
    """1 when `text` is `meta["keys"][0]`, but for spaces around and between words, else 0."""
    return float(text.split() == _truth(meta).split())


def _truth(meta: Mapping[str, Any]) -> str:
    keys = meta.get("keys")
    if not keys:
        raise UserError(
            "a prompt holds no answer to verify by",
            where='meta["keys"]',
            fix="give prompts whose meta has the right answer as its first key",
        )
    return str(keys[0])


VERIFIERS: dict[VerifierName, Callable[[Mapping[str, Any], str], float]] = {
    "last_number": last_number,
    "exact": exact,
}
