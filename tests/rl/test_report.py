"""What the stages leave behind is what the report reads."""

from __future__ import annotations

from pathlib import Path

from publius.pipeline import run_recipe
from publius.report.collect import collect
from publius.report.training import losses, reinforcement
from tests.rl.recipe import preference_recipe


def test_every_way_of_learning_from_preferences_is_reported(tmp_path: Path) -> None:
    run_recipe(preference_recipe(), "run", tmp_path)
    gathered = collect(tmp_path, "run")
    told, curves = str(reinforcement(gathered)), str(losses(gathered))
    for name in ("gae", "grpo", "dpo"):
        assert f"<h3>{name}</h3>" in told
    assert told.count("Every step (2)") == 2
    assert told.count("value loss") == 1, "grpo has no critic, so it has no loss of one"
    assert "right on held-out pairs" in told and "implicit reward of the better reply" in told
    assert "dpo" in curves and "gae" not in curves
