"""The npm package `@anthropic-ai/sdk`, newest, against a real server."""

from __future__ import annotations

import pytest

from tests.clients.conftest import checks, report


@pytest.mark.parametrize(
    ("program", "name"), checks("npm_checks.mjs"), ids=lambda w: w.removeprefix("check_")
)
def test_npm(run_program, program, name):
    error = run_program("npm", program)[name]
    report(error)
