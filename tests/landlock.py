"""Whether this kernel can contain a program: tests of the sandbox skip where it cannot, and say so."""

from __future__ import annotations

import ctypes
import sys

import pytest

__all__ = ["CONTAINED"]

_CREATE_RULESET, _ASK_VERSION = 444, 1


def _missing() -> str:
    """Asked of the kernel, not of the sandbox: a sandbox that breaks must fail its tests."""
    if sys.platform != "linux":
        return "Landlock and seccomp are Linux's"
    version = ctypes.CDLL(None, use_errno=True).syscall(_CREATE_RULESET, None, 0, _ASK_VERSION)
    return "" if version >= 1 else "this kernel has no Landlock, or something forbids it"


CONTAINED = pytest.mark.skipif(bool(_missing()), reason=_missing() or "contained")
