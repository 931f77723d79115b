"""Curves of overoptimisation, read off what PPO logged."""

import json

import pytest

from publius.core.errors import UserError
from publius.model.checkpoint import Checkpoint
from publius.pipeline import Run
from publius.rl.overoptimisation import OveroptimisationConfig, curve_of, overoptimisation


def lines(rewards, checks, stopped=""):
    steps = [
        {"step": i, "reward": reward, "check_reward": check, "sqrt_kl": float(i)}
        for i, (reward, check) in enumerate(zip(rewards, checks, strict=True))
    ]
    return [*steps, {"step": len(steps), "stopped": stopped}] if stopped else steps


def test_a_point_is_the_mean_of_the_last_steps():
    curve = curve_of(lines([0, 2, 4, 6], [0, 3, 3, 0]), 2)
    assert curve.reward == [0, 1, 3, 5]
    assert curve.check == [0, 1.5, 3, 1.5] and curve.peak == 2
    assert curve.sqrt_kl == [0, 0.5, 1.5, 2.5] and curve.stopped == ""


def test_a_run_without_a_second_model_is_refused():
    with pytest.raises(UserError, match="second preference model"):
        curve_of([{"step": 0, "reward": 1.0, "check_reward": None, "sqrt_kl": 0.0}], 3)


def test_what_the_second_model_says_of_both_runs(tmp_path):
    logs = {
        "unwatched": lines([0, 1, 2, 3], [0, 2, 1, -1]),
        "watched": lines([0, 1, 2], [0, 2, 1], "the second reward model fell while the first rose"),
    }
    for name, log in logs.items():
        (tmp_path / name / "files").mkdir(parents=True)
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    run = Run(tmp_path / "stage", "over")
    given = {name: Checkpoint(tmp_path / name / "files") for name in logs}
    made = overoptimisation(run, OveroptimisationConfig(smooth=1), **given)
    found = {name: value["value"] for name, value in run.metrics.items()}
    assert found == {
        "over.climbed": 2, "over.fell": -3, "over.kept": 2, "over.worse": 0, "over.stopped": 1,
        "over.steps": 3, "over.sqrt_kl.peak": 1, "over.sqrt_kl.end": 3, "over.sqrt_kl.stop": 2,
    }  # fmt: skip
    curves = json.loads((made.path / "curves.json").read_text())
    assert curves["watched"]["stopped"].startswith("the second")


def test_a_policy_without_a_log_is_refused(tmp_path):
    (tmp_path / "files").mkdir()
    run, bare = Run(tmp_path / "stage", "over"), Checkpoint(tmp_path / "files")
    with pytest.raises(UserError, match="no step of PPO"):
        overoptimisation(run, OveroptimisationConfig(), unwatched=bare, watched=bare)
