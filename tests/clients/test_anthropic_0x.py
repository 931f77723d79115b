"""The 0.x line of the `anthropic` package, in an environment of its own, against a real server."""

from __future__ import annotations

import pytest

from tests.clients.conftest import checks, report

PROGRAMS = (
    "anthropic_text.py",
    "anthropic_tools.py",
    "anthropic_thinking.py",
    "anthropic_errors.py",
    "anthropic_0x.py",
)


@pytest.mark.parametrize(("program", "name"), checks(*PROGRAMS), ids=lambda word: word.removeprefix("check_"))
def test_anthropic_0x(run_program, program, name):
    error = run_program("anthropic-0x", program)[name]
    report(error)
