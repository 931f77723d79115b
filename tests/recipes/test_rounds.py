"""The rounds recipe at its smallest: findings pile up, and old ones are tried on every later model."""

from __future__ import annotations

from pathlib import Path

import pytest

from publius.core.errors import UserError
from publius.pipeline import load_recipe, run_recipe, show_run
from publius.recipes.rounds import rounds


def names(nodes) -> list[str]:
    return [node.name for node in nodes]


@pytest.mark.timeout(900)  # a minute, unless other work is on all cores
def test_two_rounds(tmp_path: Path) -> None:
    run_recipe(load_recipe("rounds", {"size": "tiny", "rounds": "2"}), "rounds", tmp_path)
    view = show_run("rounds", tmp_path)
    assert all(stage.state == "done" for stage in view.stages)
    assert [m["n"] for m in view.metrics["round.leak"]] == [4, 4, 4]
    assert len(view.metrics["redteam.leak.seen"]) == 3
    assert len(view.metrics["regression.findings"]) == 2
    counts = [m["value"] for m in view.metrics["regression.findings"]]
    confirmed = [m["value"] for m in view.metrics["redteam.confirmed"]]
    assert counts == [confirmed[0], confirmed[0] + confirmed[1]]


def test_findings_lessons_and_labels_pile_up() -> None:
    nodes = load_recipe("rounds", {"rounds": "3"}).nodes
    for number in (1, 2, 3):
        before = [f"redteam{i}" for i in range(number)]
        assert names(nodes[f"findings{number}"].inputs["findings"]) == before
        assert nodes[f"findings{number}"].config.limit is None
        assert names(nodes[f"regression{number}"].inputs["findings"]) == before
        assert names(nodes[f"regression{number}"].inputs["earlier"]) == [
            f"regression{i}" for i in range(1, number)
        ]
        lessons = ["harmless_demonstrations", *(f"revisions{i}" for i in range(number + 1))]
        assert names(nodes[f"slcai{number}"].inputs["chats"]) == lessons
        assert len(nodes[f"slcai{number}"].config.weights) == len(lessons)
        labels = [*(f"labels{i}" for i in range(1, number + 1)), "human_labels"]
        assert names(nodes[f"reward{number}"].inputs["preferences"]) == labels
        assert nodes[f"redteam{number}"].config.round == number
    assert nodes["slcai1"].inputs["base"].name == "haiku"
    assert nodes["slcai2"].inputs["base"].name == "rlcai1"
    assert nodes["slcai3"].inputs["base"].name == "mean2"
    assert len({nodes[f"label_prompts{i}"].config.seed for i in (1, 2, 3)}) == 3


def test_less_than_a_round_is_an_error() -> None:
    with pytest.raises(UserError, match="0 rounds"):
        rounds(rounds=0)
