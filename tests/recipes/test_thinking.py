"""The thinking recipe at its smallest, and what its wiring promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from publius.core.errors import UserError
from publius.pipeline import load_recipe, plan_recipe, run_recipe, show_run
from publius.pipeline.identity import identify
from publius.report import write_report


def test_every_stage_finishes_and_the_curve_is_drawn(tmp_path: Path) -> None:
    recipe = load_recipe("thinking", {"size": "tiny"})
    run_recipe(recipe, "thinking", tmp_path)
    view = show_run("thinking", tmp_path)
    assert all(stage.state == "done" for stage in view.stages)
    for prefix in ("sft", "thinking"):
        for name in ("off", "on", "gain"):
            measured = view.metrics[f"{prefix}.{name}"]
            assert measured["n"] == 9 and measured["low"] <= measured["value"] <= measured["high"]
    assert abs(view.metrics["ppo.ratio"]["value"] - 1) <= 1e-3
    again = load_recipe("thinking", {"size": "tiny"})
    assert {row.state for row in plan_recipe(again, tmp_path, name="thinking")} == {"cached"}
    assert "Accuracy by thinking budget" in write_report(tmp_path, "thinking").read_text("utf-8")


def test_its_base_is_the_quickstarts(tmp_path: Path) -> None:
    mine, theirs = (
        {each.node.name: each.id for each in identify(load_recipe(name, {"seed": "3"}), until="haiku")}
        for name in ("thinking", "quickstart")
    )
    assert mine == theirs and set(mine) == {"world", "tokenizer", "shards", "haiku"}


def test_both_ways_are_practised_on_the_same_sums_and_tested_on_sealed_ones() -> None:
    nodes = load_recipe("thinking").nodes
    on, off = nodes["sums_on"].config, nodes["sums_off"].config
    assert (on.thinking, off.thinking) == (True, False)
    assert on.model_copy(update={"thinking": False}) == off
    assert nodes["test_sums"].config.split == "test" and nodes["test_sums"].config.train == 0
    assert nodes["worked_sums"].config.modes == ("on", "off")
    assert [node.name for node in nodes["rl"].inputs["prompts"]] == ["sums_on", "sums_off"]


def test_a_size_that_is_not_there_is_an_error() -> None:
    with pytest.raises(UserError, match="size"):
        load_recipe("thinking", {"size": "huge"})
