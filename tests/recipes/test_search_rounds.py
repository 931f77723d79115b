"""Rounds that search, and rounds fed with random prompts: wired as their studies compare them."""

from __future__ import annotations

import pytest

from publius.pipeline import load_recipe, plan_recipe, run_recipe, show_run
from publius.recipes.quickstart import quickstart
from publius.recipes.smoke import SMALLEST
from publius.recipes.studies import feedback, search
from tests.slow import slow


def names(nodes) -> list[str]:
    return [node.name for node in nodes]


@pytest.mark.timeout(900)
def test_a_round_that_searches_trains_on_what_the_search_found(tmp_path):
    settings = {"size": "tiny", "rounds": "1", "find": "search"}
    run_recipe(load_recipe("rounds", settings), "rounds", tmp_path)
    view = show_run("rounds", tmp_path)
    assert all(stage.state == "done" for stage in view.stages)
    nodes = load_recipe("rounds", settings).nodes
    assert names(nodes["findings1"].inputs["findings"]) == ["search0"]
    assert nodes["redteam0"].config.discover == 0  # it measures only
    assert view.metrics["regression.findings"][0]["value"] == view.metrics["redteam.confirmed"][0]["value"]
    spent = {stage.name: stage.record.metrics for stage in view.stages if stage.record is not None}
    assert spent["search1"]["search.replies"]["value"] == 24


def test_the_control_differs_in_what_is_fed_back_only():
    nodes = load_recipe("studies/feedback", {"seeds": "1", "rounds": "2"}).nodes
    for number in (1, 2):
        fed, control = nodes[f"s0-slcai{number}"], nodes[f"s0-random-slcai{number}"]
        assert fed.config == control.config and len(fed.inputs["chats"]) == len(control.inputs["chats"])
        drawn = nodes[f"s0-random-random{number}"]
        assert names([drawn.inputs["like"]]) == [f"s0-random-findings{number}"]
        assert names([nodes[f"s0-random-revisions{number}"].inputs["prompts"]]) == [drawn.name]
        assert drawn in nodes[f"s0-random-rlcai{number}"].inputs["prompts"]
        assert names([nodes[f"s0-revisions{number}"].inputs["prompts"]]) == [f"s0-findings{number}"]
    assert nodes["s0-random-slcai1"].inputs["base"] is nodes["s0-slcai1"].inputs["base"]
    assert names(nodes["s0-random-findings2"].inputs["findings"]) == ["s0-redteam0", "s0-random-redteam1"]


@slow
@pytest.mark.timeout(900)
def test_the_studies_run_whole(tmp_path):
    budgets = {"sft": 12, "final": 12}
    for name, recipe in (
        ("search", search.wire(SMALLEST, 1, budgets=budgets, ablation=True)),
        ("feedback", feedback.wire(SMALLEST, 1, rounds=1)),
    ):
        run_recipe(recipe, name, tmp_path, jobs=1)
        view = show_run(name, tmp_path)
        assert all(stage.state == "done" for stage in view.stages)
        assert "study.as_published" in view.metrics


def test_the_study_of_searches_makes_nothing_again_that_a_quickstart_has_made(tmp_path):
    known = {plan.stage: plan.id for plan in plan_recipe(quickstart(), tmp_path)}
    mine = {plan.stage: plan.id for plan in plan_recipe(load_recipe("studies/search"), tmp_path)}
    shared = set(known) & set(mine)
    assert {"sft", "final", "world"} <= shared and all(known[name] == mine[name] for name in shared)
    assert "test_release" not in mine and len([name for name in mine if name.startswith("s0-")]) == 8
    fresh = load_recipe("studies/search", {"first": "7", "seeds": "1"}).nodes
    assert fresh["s7-final-random_prompts"].config.plan == "bare"
    assert {node.config.seed for name, node in fresh.items() if name.startswith("s7-")} == {7}
