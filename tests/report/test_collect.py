import json

import pytest

from publius.core.errors import UserError
from publius.pipeline import Artifact, Recipe, Run, run_recipe, stage
from publius.report import write_report
from publius.report.collect import collect
from tests.pipeline.toy import NumbersConfig, make_numbers
from tests.report.storyboard import storyboard


def test_stages_are_known_by_what_they_left(gathered):
    names = {kind: [entry.name for entry, _ in getattr(gathered, kind)()] for kind in
             ("reports", "needles", "budgets", "findings", "regressions", "scans", "revisions", "judges",
              "decisions")}  # fmt: skip
    assert names == {
        "reports": ["baselines", "exam0", "exam1", "exam2", "difference", "exam_planted"],
        "needles": ["haystack"],
        "budgets": ["thought0", "thought1"],
        "regressions": ["old_holes"],
        "findings": ["attack0", "attack2", "hunt"],
        "scans": ["scan"],
        "revisions": ["second_thoughts"],
        "judges": ["judge_graded"],
        "decisions": ["verdict", "refuse_obliging"],  # the one the release rests on comes first
    }
    assert [entry.name for entry in gathered.labels()] == ["verdicts"]
    assert [entry.name for entry in gathered.rewards()] == ["taste"]


def test_models_and_controls(gathered):
    reports = {entry.name: entry for entry, _ in gathered.reports()}
    assert gathered.model(reports["exam2"]) == "polished"
    assert gathered.model(reports["baselines"]) == ""
    # the helpful-only model is an ancestor of the released one through its revisions; the planted one is none
    assert {name: gathered.is_control(entry) for name, entry in reports.items()} == {
        "baselines": False, "exam0": False, "exam1": False, "exam2": False,
        "difference": False, "exam_planted": True,
    }  # fmt: skip


def test_logs_and_metrics(gathered):
    entry = next(e for e in gathered.entries if e.name == "taste")
    assert [line["step"] for line in entry.log()[:3]] == [1, 2, 3]
    assert list(entry.metrics("reward.ece")) == ["reward.ece"]
    assert next(e for e in gathered.entries if e.name == "verdict").log() == []
    assert gathered.published == ["helpful.start", "gates"]


def test_without_a_gate_nothing_is_a_control(tmp_path):
    run_recipe(storyboard(), "story", tmp_path, until="exam1")
    some = collect(tmp_path, "story")
    assert not any(some.is_control(entry) for entry, _ in some.reports())


@stage(version=1)
def own_files(run: Run, config: NumbersConfig) -> Artifact:
    """A user's stage whose files happen to be called what ours are."""
    for name in ("report.json", "findings.json", "study.json", "judge.json", "scan.json", "monitors.json"):
        (run.output / name).write_text('{"mine": 1}')
    (run.output / "needle.json").write_text("[1, 2]")
    (run.output / "transcripts.jsonl").write_text('{"speaker": "a"}\n{"speaker": "b"}\n')
    return Artifact(run.output)


def test_files_of_other_stages_with_our_names_are_left_alone(tmp_path):
    recipe = Recipe("own")
    recipe.stage("own", own_files, NumbersConfig())
    run_recipe(recipe, "own", tmp_path)
    g = collect(tmp_path, "own")
    assert not any((g.reports(), g.findings(), g.studies(), g.judges(), g.scans(), g.monitors(), g.needles()))
    assert not g.revisions() and write_report(tmp_path, "own").exists()


def test_an_empty_run_says_so(tmp_path):
    run_recipe(storyboard(), "story", tmp_path, until="base")
    (tmp_path / "runs/story/base").unlink()
    with pytest.raises(UserError, match="no finished stage") as caught:
        collect(tmp_path, "story")
    assert "publius run storyboard --name story" in caught.value.fix


def test_an_unknown_run_gets_a_suggestion(home):
    with pytest.raises(UserError, match="there is no run 'stori'") as caught:
        collect(home, "stori")
    assert "story" in caught.value.fix


def test_outdated_stages_are_not_read(tmp_path):
    def recipe(seed):
        r = Recipe("r")
        r.stage("kept", make_numbers, NumbersConfig())
        r.stage("moved", make_numbers, NumbersConfig(seed=seed))
        return r

    run_recipe(recipe(1), "r", tmp_path)
    path = tmp_path / "runs/r/recipe.json"
    stored = json.loads(path.read_text())
    stored["stages"][1]["artifact"] = "make_numbers-000000000000"
    path.write_text(json.dumps(stored))
    assert [entry.name for entry in collect(tmp_path, "r").entries] == ["kept"]


def test_a_shared_artifact_is_counted_once_under_all_its_names(tmp_path):
    recipe = Recipe("r")
    recipe.stage("one", make_numbers, NumbersConfig())
    recipe.stage("two", make_numbers, NumbersConfig())
    recipe.stage("other", make_numbers, NumbersConfig(seed=1))
    run_recipe(recipe, "r", tmp_path)
    gathered = collect(tmp_path, "r")
    assert [entry.name for entry in gathered.made()] == ["one, two", "other"]
    assert [entry.name for entry in gathered.entries] == ["one", "two", "other"]
