"""Fixtures: the storyboard, run once, and its page."""

from __future__ import annotations

from pathlib import Path

import pytest

from publius.pipeline import run_recipe
from publius.report import write_report
from publius.report.collect import Gathered, collect
from tests.report.storyboard import storyboard


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    run_recipe(storyboard(), "story", folder)
    return folder


@pytest.fixture(scope="session")
def gathered(home: Path) -> Gathered:
    return collect(home, "story")


@pytest.fixture(scope="session")
def page(home: Path) -> str:
    return write_report(home, "story").read_text("utf-8")
