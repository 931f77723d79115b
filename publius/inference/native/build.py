"""Builds `forward.cpp` for this machine, once, and loads it.

The library is kept in the user's cache folder under a hash of the sources, the compiler and the CPU's
features, so it is made once (some ten seconds) and never used where it does not fit. Without a compiler the
engine computes with PyTorch: slower, and as correct. `PUBLIUS_NATIVE=0` asks for that.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from publius.core.console import console
from publius.core.device import cpu_flags

__all__ = ["library", "why_not"]

_FLAGS = ("-O3", "-std=c++17", "-fPIC", "-shared", "-pthread", "-Wno-psabi")
_SECONDS = 300.0


def library() -> ctypes.CDLL | None:
    """The library, or None where there is none: `why_not` tells the reason."""
    return _load()[0]


def why_not() -> str:
    """Why `library` is None, in a line; empty when it is there."""
    return _load()[1]


@functools.cache
def _load() -> tuple[ctypes.CDLL | None, str]:
    if os.environ.get("PUBLIUS_NATIVE") == "0":
        return None, "PUBLIUS_NATIVE=0"
    compiler = next(
        (c for c in (os.environ.get("CXX"), "c++", "g++", "clang++") if c and shutil.which(c)), None
    )
    if compiler is None:
        return None, "no C++ compiler (set CXX, or install g++ or clang++)"
    try:
        path = _built(compiler)
        try:
            return ctypes.CDLL(str(path)), ""
        except OSError:  # a disk that was full, a file that was cut: once more
            path.unlink()
            return ctypes.CDLL(str(_built(compiler))), ""
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:  # RuntimeError: there is no home
        told = getattr(error, "stderr", None) or str(error)
        return None, f"{compiler} could not build it: {str(told).strip()[:500]}"


def _built(compiler: str) -> Path:
    """The library's path, built when it is not there yet. Builders side by side each make their own copy."""
    here = Path(__file__).parent
    sources = sorted([*here.glob("*.cpp"), *here.glob("*.h")])
    target = "-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native"
    version = subprocess.run(
        [compiler, "--version"], capture_output=True, text=True, check=True, timeout=_SECONDS
    ).stdout
    parts = [*_FLAGS, target, version, platform.machine(), *sorted(cpu_flags())]
    digest = hashlib.sha256("\0".join(parts).encode())
    for source in sources:
        digest.update(source.read_bytes())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "publius" / "native"
    path = cache / f"forward-{digest.hexdigest()[:20]}.so"
    if path.exists():
        return path
    cache.mkdir(parents=True, exist_ok=True)
    console.print("building the engine for this CPU (once, some ten seconds)", markup=False)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        made = Path(scratch) / "forward.so"
        command = [compiler, *_FLAGS, target, str(here / "forward.cpp"), "-o", str(made)]
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=_SECONDS)
        made.replace(path)
    return path
