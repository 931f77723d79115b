"""Programs that a model wrote, run against their tests where they can harm nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from publius.core.sandbox import Limits, run_python

__all__ = ["LIMITS", "passes", "program_of"]

LIMITS = Limits(seconds=5.0, memory_mb=512, output_kb=64, disk_kb=0)
"""No files; a program that is right needs a small part of the time."""


def program_of(question: Mapping[str, Any], completion: str) -> str:
    """The prompt and what was written after it, then the tests of the question, and their call."""
    return f"{question['prompt']}{completion}\n{question['test']}\ncheck({question['entry_point']})\n"


def passes(question: Mapping[str, Any], completion: str, limits: Limits = LIMITS) -> tuple[bool, str]:
    """Whether every test holds, and how the program ended (`Outcome.ending`).

    Only a program that ran through its last line passes: one that leaves early, by whatever way, does not.

    Raises:
        UserError: where there is no sandbox; then nothing runs.
    """
    outcome = run_python(program_of(question, completion), limits=limits)
    return outcome.finished, outcome.ending
