"""The whole pipeline at its smallest, once, and what users do with the result."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from publius.cli import app
from publius.core.errors import UserError
from publius.pipeline import plan_recipe, run_recipe, show_run
from publius.recipes.quickstart import quickstart
from publius.recipes.smoke import smoke
from publius.release.locate import locate


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    os.environ["XDG_CONFIG_HOME"] = str(folder / "config")  # the gate's signing key goes there
    run_recipe(smoke(), "smoke", folder)
    return folder


def test_every_stage_finishes_and_nothing_runs_twice(home: Path) -> None:
    view = show_run("smoke", home)
    assert all(stage.state == "done" for stage in view.stages)
    assert {row.state for row in plan_recipe(smoke(), home, name="smoke")} == {"cached"}


def test_it_prints_every_number_the_quickstart_promises(home: Path) -> None:
    printed = CliRunner().invoke(
        app, ["show", "smoke", "--json", "--home", str(home)], catch_exceptions=False
    )
    metrics = json.loads(printed.stdout)["metrics"]
    rates = [
        "sft.helpful",
        "sft.helpful.fact",
        "sft.helpful.craft",
        "sft.helpful.sum",
        "sft.helpful.tool",
        "sft.leak",
        "slcai.leak",
        "rlcai.leak",
        "rlcai.overrefusal",
        "helpful.loss",
        "judge.accuracy",
        "judge.inconsistency",
        "judge.haiku.accuracy",
        "reward.accuracy",
        "ppo.gain",
        "ppo.kl",
    ]
    for name in rates:
        assert metrics[name]["n"] > 0, name
        assert metrics[name]["low"] <= metrics[name]["value"] <= metrics[name]["high"], name
    for name in (
        "wall_minutes",
        "pretrain.bpb",
        "baseline.gzip_bpb",
        "baseline.ngram_bpb",
        "ppo.ratio",
        "gate",
    ):
        assert metrics[name]["value"] is not None, name
    assert abs(metrics["ppo.ratio"]["value"] - 1) <= 1e-3
    for name in ("redteam.leak.seen", "redteam.leak.sealed"):
        assert [set(each) for each in metrics[name]] == [{"value", "n", "low", "high"}] * 3


def test_the_gate_denies_models_that_learned_nothing(home: Path) -> None:
    metrics = show_run("smoke", home).metrics
    for name in ("gate_release", "gate_helpful_only", "gate_planted"):
        assert metrics[f"{name}.gate.allowed"]["value"] == 0
    assert metrics["gate"]["value"] == pytest.approx(2 / 3), "a release denied is a wrong decision of three"


def test_chat_report_and_show(home: Path) -> None:
    runner = CliRunner()
    chat = ["chat", "smoke/sft", "--message", "Who are you?", "--device", "cpu", "--home", str(home)]
    assert runner.invoke(app, chat, catch_exceptions=False).exit_code == 0
    made = runner.invoke(app, ["report", "smoke", "--home", str(home)], catch_exceptions=False)
    page = Path(made.stdout.strip()).read_text("utf-8")
    assert "http://" not in page.replace("http://www.w3.org/", "")
    assert "script" not in page.split("<body", 1)[0]
    assert runner.invoke(app, ["show", "smoke", "--home", str(home)], catch_exceptions=False).exit_code == 0


def test_locate(home: Path) -> None:
    found = locate("smoke/haiku", home)
    assert (found.checkpoint / "model.safetensors").exists()
    assert found.world is not None
    assert locate(str(found.checkpoint), home).world is None
    assert locate("smoke", home).checkpoint.exists()
    for target, words in (
        ("smok", "smoke"),
        ("smoke/haikku", "haiku"),
        ("smoke/reward", "no language model"),
    ):
        with pytest.raises(UserError, match=words):
            locate(target, home)
    with pytest.raises(UserError, match="publius run quickstart"):
        locate("anything", home / "empty")


def test_quickstart_is_the_same_wiring() -> None:
    small, real = smoke(), quickstart()
    assert set(real.nodes) - set(small.nodes) == {"release", "sampled_pairs", "judge_sampled"}
    for name, node in small.nodes.items():
        assert node.stage is real.nodes[name].stage
        assert [p.name for p in node.parents()] == [p.name for p in real.nodes[name].parents()]


def test_the_seed_reaches_every_random_stage() -> None:
    first, second = quickstart(seed=0), quickstart(seed=1)
    for name in ("world", "haiku", "sft", "revisions", "ai_labels", "rlcai", "redteam0", "reward"):
        assert first.nodes[name].config != second.nodes[name].config, name
