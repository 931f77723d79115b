"""inspect_ai, in an environment of its own, against a real server."""

from __future__ import annotations

import pytest

from tests.clients.conftest import checks, report


@pytest.mark.parametrize(
    ("program", "name"), checks("inspect_checks.py"), ids=lambda word: word.removeprefix("check_")
)
def test_inspect(run_program, program, name):
    error = run_program("inspect", program)[name]
    report(error)
