"""LiteLLM, in an environment of its own, against a real server."""

from __future__ import annotations

import pytest

from tests.clients.conftest import checks, report


@pytest.mark.parametrize(
    ("program", "name"), checks("litellm_checks.py"), ids=lambda word: word.removeprefix("check_")
)
def test_litellm(run_program, program, name):
    error = run_program("litellm", program)[name]
    report(error)
