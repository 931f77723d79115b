"""The section on monitors, on a run of its own."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from publius.core.config import Config
from publius.core.stats import wilson
from publius.pipeline import Recipe, Run, run_recipe, stage
from publius.report import write_report
from publius.safety import MonitorReport


class Nothing(Config):
    """No settings."""


@stage(version=1)
def measured(run: Run, config: Nothing) -> MonitorReport:
    """Numbers as `measure_monitors` leaves them."""
    success = {"without": 80, "with": 2, "probe": 30, "cascade": 9, "words": 12}
    found = {f"monitor.success.{name}": wilson(count, 100).as_dict() for name, count in success.items()}
    found |= {f"style.direct.{name}": wilson(count, 100).as_dict() for name, count in success.items()}
    for part in ("", ".plain", ".near_miss", ".probe", ".cascade", ".words"):
        found[f"monitor.false_positives{part}"] = wilson(4, 1000).as_dict()
        found[f"monitor.stopped_benign{part}"] = wilson(7, 1000).as_dict()
    found["monitor.false_positives.upper"] = {"value": 0.0091}
    points = [[0.0, 0.5], [0.001, 0.9], [0.01, 0.99], [0.2, 1.0]]
    found["curves"] = {
        name: {"points": points, "at": {}, "leaks": 70, "benign": 1000} for name in ("probe", "cascade")
    }
    (run.output / "monitors.json").write_text(json.dumps(found), "utf-8")
    return MonitorReport(run.output)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    home: Path = tmp_path_factory.mktemp("home")
    r = Recipe("watched")
    r.stage("monitored", measured, Nothing())
    run_recipe(r, "x", home)
    return write_report(home, "x").read_text("utf-8")


def test_each_set_of_layers_has_its_bar_and_its_false_positives(page: str) -> None:
    text = re.sub(r"<[^>]+>", " ", page)
    for words in ("no monitor", "a list of words", "the probe alone", "both"):
        assert words in text
    assert "80" in text and 'id="monitors"' in page and "0.0091" in text
    assert "talk about a hazard" in text and "another world" not in text  # what was not measured is not shown


def test_the_curve_shows_its_left_end(page: str) -> None:
    assert "70 leaks, 1000 benign" in page and page.count("<polyline") >= 2
