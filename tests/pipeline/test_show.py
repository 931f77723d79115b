"""Collecting a run."""

import json

import pytest

from publius.core.config import Config
from publius.core.errors import UserError
from publius.pipeline import Recipe, Run, list_runs, run_recipe, show_run, stage
from tests.pipeline.toy import Numbers, toy


def test_metrics_of_all_stages(tmp_path):
    run_recipe(toy(), "mine", tmp_path)
    view = show_run("mine", tmp_path)
    half = {
        "value": 0.5,
        "n": 2,
        "low": pytest.approx(0.0945, abs=1e-3),
        "high": pytest.approx(0.9055, abs=1e-3),
    }
    plain = {"n": None, "low": None, "high": None}
    minutes = view.metrics.pop("wall_minutes")
    rounds = view.metrics.pop("toy.rounds")
    assert view.metrics == {
        "numbers.even": half,
        "other.even": half,
        "total": {"value": 636} | plain,
        "toy.total": {"value": 636} | plain,
        "toy.even": [half, half],
    }
    assert [r["value"] for r in rounds] == [1.0, 0.75] and rounds[1]["n"] == 4
    journal = json.loads((tmp_path / "runs/mine/run.json").read_text())
    assert minutes["value"] == journal["executions"][0]["wall_seconds"] / 60
    assert [s.state for s in view.stages] == ["done"] * 3
    shown = json.loads(json.dumps(view.as_dict(), allow_nan=False))
    assert shown["stages"][0]["tokens"] == 4 and shown["recipe"] == "toy" and shown["settings"] == {}
    assert list_runs(tmp_path) == ["mine"]


def test_wall_minutes_outlives_a_cached_run(tmp_path):
    run_recipe(toy(), "toy", tmp_path)
    fresh = show_run("toy", tmp_path).metrics["wall_minutes"]
    run_recipe(toy(), "toy", tmp_path)
    assert show_run("toy", tmp_path).metrics["wall_minutes"] == fresh


def test_wall_minutes_of_a_patchwork_count_what_ran_side_by_side_once(tmp_path):
    run_recipe(toy(), "toy", tmp_path)
    run_recipe(toy(), "other", tmp_path)  # made by another run
    times = [("12:00:10", 10.0), ("12:00:15", 10.0), ("12:01:00", 4.0)]
    for stage_view, (finished, seconds) in zip(show_run("other", tmp_path).stages, times, strict=True):
        path = stage_view.path / "record.json"
        record = json.loads(path.read_text()) | {
            "finished": f"2026-01-01T{finished}+00:00",
            "wall_seconds": seconds,
        }
        path.write_text(json.dumps(record))
    assert show_run("other", tmp_path).metrics["wall_minutes"]["value"] * 60 == pytest.approx(15 + 4)


def test_numbers_of_an_older_identity_are_not_shown(tmp_path, monkeypatch):
    run_recipe(toy(), "toy", tmp_path)
    moved = toy()
    moved.override("total.steps", "5")
    monkeypatch.setenv("TOY_USER_ERROR", "add_up:0")
    with pytest.raises(UserError):
        run_recipe(moved, "toy", tmp_path)
    view = show_run("toy", tmp_path)
    assert [s.state for s in view.stages] == ["done", "done", "outdated"]
    assert "total" not in view.metrics and "toy.total" not in view.metrics
    assert view.settings == {"total.steps": "5"}


def test_missing_stages(tmp_path):
    run_recipe(toy(), "toy", tmp_path, until="numbers")
    view = show_run("toy", tmp_path)
    assert [s.state for s in view.stages] == ["done", "missing", "missing"]
    assert "tokens" not in view.stages[1].as_dict()
    assert list(view.metrics) == ["numbers.even", "toy.even", "wall_minutes"]


class Named(Config):
    metric: str
    value: float


@stage(version=1)
def measure(run: Run, config: Named) -> Numbers:
    run.metric(config.metric, config.value)
    return Numbers(run.output)


def test_names_of_metrics(tmp_path):
    recipe = Recipe("r")
    for name, metric, value in [
        ("gate", "gate", 1),
        ("a", "x.y", 2),
        ("b", "x.y", 3),
        ("c", "z.y", 4),
        ("d", "q", 5),
    ]:
        recipe.stage(name, measure, Named(metric=metric, value=value))
    run_recipe(recipe, "r", tmp_path)
    metrics = show_run("r", tmp_path).metrics
    del metrics["wall_minutes"]
    assert {k: v["value"] for k, v in metrics.items()} == {
        "gate": 1,
        "a.x.y": 2,
        "b.x.y": 3,
        "z.y": 4,
        "d.q": 5,
    }


def test_two_numbers_are_never_one_name(tmp_path):
    recipe = Recipe("r")
    nodes = {
        name: recipe.stage(name, measure, Named(metric=metric, value=value))
        for name, metric, value in [("a", "b.c", 1), ("b", "c", 2), ("d", "e.f", 3), ("g", "h", 4)]
    }
    recipe.publish("e.f", nodes["g"], "h")
    run_recipe(recipe, "r", tmp_path)
    metrics = show_run("r", tmp_path).metrics
    del metrics["wall_minutes"]
    shown = {k: v["value"] for k, v in metrics.items()}
    assert shown == {"a.b.c": 1, "b.c": 2, "d.e.f": 3, "g.h": 4, "e.f": 4}


def test_unknown_run(tmp_path):
    with pytest.raises(UserError, match="there is no run 'toy'") as caught:
        show_run("toy", tmp_path)
    assert "publius run" in caught.value.fix
    run_recipe(toy(), "toys", tmp_path, until="other")
    with pytest.raises(UserError) as caught:
        show_run("toy", tmp_path)
    assert caught.value.fix == "did you mean 'toys'?"
