"""The family recipe at its smallest: both arms, and the ways of teaching by demonstration."""

from __future__ import annotations

from pathlib import Path

import pytest

from publius.pipeline import load_recipe, run_recipe, show_run
from publius.pipeline.identity import identify
from tests.slow import slow


@slow
@pytest.mark.timeout(900)  # a minute, unless other work is on all cores
def test_both_arms_are_reported_side_by_side(tmp_path: Path) -> None:
    run_recipe(load_recipe("family", {"size": "tiny"}), "family", tmp_path)
    view = show_run("family", tmp_path)
    assert all(stage.state == "done" for stage in view.stages)
    for arm in ("sft", "opus", "self", "taught"):
        for name in ("leak", "helpful", "overrefusal"):
            measured = view.metrics[f"{arm}.{name}"]
            assert measured["n"] > 0 and measured["low"] <= measured["value"] <= measured["high"]
    for name in ("leak", "helpful"):
        apart = view.metrics[f"opus.{name}"]["value"] - view.metrics[f"self.{name}"]["value"]
        assert abs(view.metrics[f"taught.{name}"]["value"] - apart) < 1e-9
    for name in ("teacher.helpful.fact", "written.helpful.craft", "written.gain", "distilled.gain"):
        assert view.metrics[name]["n"] > 0
    assert view.metrics["distilled.kl"]["value"] > 0


def test_the_arms_differ_in_the_teacher_alone() -> None:
    nodes = load_recipe("family").nodes
    for part, port in (("revisions", "critic"), ("labels", "judge")):
        opus, own = nodes[f"opus_{part}"], nodes[f"self_{part}"]
        assert (opus.inputs[port].name, own.inputs[port].name) == ("opus", "haiku")
        assert opus.config == own.config
    for part in ("slcai", "reward", "check", "rlcai"):
        assert nodes[f"opus_{part}"].config == nodes[f"self_{part}"].config
    tokens = {nodes[name].config.tokens for name in ("sft", "written", "distilled")}
    assert len(tokens) == 1, "the ways of teaching are of equal length"


def test_the_taught_arm_is_the_quickstarts() -> None:
    """So it is not made again where that was run."""
    mine, theirs = (
        {each.node.name: each.id for each in identify(load_recipe(name))} for name in ("family", "quickstart")
    )
    assert mine["opus_revisions"] == theirs["revisions"] and mine["opus_rlcai"] == theirs["rlcai"]
