"""langchain-anthropic, in an environment of its own, against a real server."""

from __future__ import annotations

import pytest

from tests.clients.conftest import checks, report


@pytest.mark.parametrize(
    ("program", "name"), checks("langchain_checks.py"), ids=lambda word: word.removeprefix("check_")
)
def test_langchain(run_program, program, name):
    error = run_program("langchain", program)[name]
    report(error)
