"""What a run's folder says in JSON: read as it was written, or one clear error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from publius.core.errors import UserError
from publius.pipeline import run_recipe, show_run
from publius.pipeline.books import read_executions, read_wiring
from tests.pipeline.toy import toy


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run_recipe(toy(), "toy", tmp_path)
    return tmp_path / "runs/toy"


def test_what_was_written_reads_back(run: Path) -> None:
    wired = read_wiring(run / "recipe.json")
    assert [one.name for one in wired.stages] == ["numbers", "other", "total"] and wired.recipe == "toy"
    executions, raw = read_executions(run / "run.json")
    assert executions[0].finished and raw == json.loads((run / "run.json").read_text())["executions"]
    assert read_executions(run / "none.json") == ((), [])


@pytest.mark.parametrize(
    "text", ["{}", "[]", '{"executions": [{}]}', '{"executions": {"a": 1}}', "{", "null"]
)
def test_a_damaged_journal_stops_showing_and_running(run: Path, text: str) -> None:
    (run / "run.json").write_text(text)
    for begin in (lambda: show_run("toy", run.parents[1]), lambda: run_recipe(toy(), "toy", run.parents[1])):
        with pytest.raises(UserError, match="damaged") as caught:
            begin()
        assert caught.value.where == str(run / "run.json") and "delete it" in caught.value.fix
    (run / "run.json").unlink()
    run_recipe(toy(), "toy", run.parents[1])
    assert show_run("toy", run.parents[1]).metrics["wall_minutes"]


@pytest.mark.parametrize(
    "text", ["{}", "[]", '{"recipe": "toy", "settings": {}, "stages": [{}], "published": {}}']
)
def test_a_damaged_recipe_stops_showing(run: Path, text: str) -> None:
    (run / "recipe.json").write_text(text)
    with pytest.raises(UserError, match=r"recipe\.json is damaged at "):
        show_run("toy", run.parents[1])
