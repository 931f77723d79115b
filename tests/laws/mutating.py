"""Putting a mistake in on purpose, and running the test that must notice.

A mutation changes one place in the source of a function that is in use; the function keeps its identity, so
everyone who has imported it runs the mutant. The guard is an ordinary test of this suite, called as it is.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest


class Mutation(NamedTuple):
    name: str
    function: Callable[..., Any]
    before: str
    after: str
    guard: Callable[..., object]


def mutant(mutation: Mutation) -> Any:
    """The code of the function with its one place changed."""
    function = inspect.unwrap(mutation.function)
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(mutation.before) == 1, (
        f"{mutation.before!r} is not in one place: the source has moved on"
    )
    names: dict[str, Any] = {}
    lines = source.replace(mutation.before, mutation.after).splitlines(keepends=True)
    while lines[0].startswith("@"):
        del lines[0]
    changed = compile("from __future__ import annotations\n" + "".join(lines), "<mutant>", "exec")
    exec(changed, dict(vars(sys.modules[function.__module__])), names)
    return names[function.__name__].__code__


def run_guard(guard: Callable[..., object], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fixtures = {"tmp_path": folder, "monkeypatch": monkeypatch}
    takes = inspect.signature(guard).parameters
    guard(**{name: value for name, value in fixtures.items() if name in takes})


def check_caught(mutation: Mutation, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Its guard fails on the mutant."""
    monkeypatch.setattr(inspect.unwrap(mutation.function), "__code__", mutant(mutation))
    with pytest.raises((AssertionError, RuntimeError, pytest.fail.Exception)):
        run_guard(mutation.guard, folder, monkeypatch)
