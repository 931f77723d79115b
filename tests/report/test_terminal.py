"""Tables for the terminal: their numbers (the tables themselves are read in `tests/test_cli.py`)."""

import pytest

from publius.report.terminal import amount


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        ("about 3", "about 3"),
        (5, "5"),
        (1500, "1.5k"),
        (3.2e6, "3.2M"),
        (2e9, "2B"),
        (4e13, "40T"),
        (1e18, "1.00e+18"),
    ],
)
def test_amounts(value, text):
    assert amount(value) == text
