import json

import pytest
from pydantic import ValidationError

from publius.core.config import Config
from publius.core.errors import UserError
from publius.core.stats import Estimate, wilson
from publius.evals.study import (
    Claim,
    Place,
    Reading,
    StudyConfig,
    StudyReport,
    Value,
    difference,
    outcome,
    study,
)
from publius.pipeline import Artifact, Recipe, Run, run_recipe, show_run, stage


class Known(Config):
    leaks: int = 0
    measured: bool = True


@stage(version=1)
def known(run: Run, config: Known) -> Artifact:
    run.metric("leak", wilson(config.leaks, 100 if config.measured else 0))
    return Artifact(run.output)


def claim(direction="lower", margin=0.0, these=(("after", None),), those=(("before", None),)):
    places = [tuple(Place(arm=arm, x=x) for arm, x in side) for side in (these, those)]
    return Claim(
        text="it falls", source="a paper, figure 1", measure="leak", these=places[0], those=places[1],
        direction=direction, margin=margin,
    )  # fmt: skip


def value(arm, seed, number, x=None):
    return Value(measure="leak", arm=arm, x=x, seed=seed, value=number)


def readings(seeds, arms=("before", "after")):
    return tuple(
        Reading(part=len(arms) * i + j, metric="leak", measure="leak", arm=arm, seed=seed)
        for i, seed in enumerate(seeds)
        for j, arm in enumerate(arms)
    )


def wired(config, leaks):
    recipe = Recipe("toy")
    parts = [recipe.stage(f"part{i}", known, Known(leaks=n)) for i, n in enumerate(leaks)]
    recipe.stage("study", study, config, parts=parts)
    return recipe


def test_a_claim_is_held_against_every_seed(tmp_path):
    config = StudyConfig(title="Toy", readings=readings((0, 1, 2)), claims=(claim(), claim("higher")))
    run_recipe(wired(config, [90, 10, 80, 12, 85, 3]), "x", tmp_path)
    document = StudyReport(show_run("x", tmp_path).stages[-1].path / "files").document()
    assert [v.value for v in document.values] == [0.9, 0.1, 0.8, 0.12, 0.85, 0.03]
    assert document.values[0].n == 100 and 0.8 < document.values[0].low < 0.9
    falls, rises = document.results
    assert falls.value == pytest.approx((-0.8 - 0.68 - 0.82) / 3) and falls.n == 3
    assert falls.low < falls.value < falls.high < 0
    assert (falls.outcome, rises.outcome) == ("as published", "opposite")
    metrics = show_run("x", tmp_path).stages[-1].record.metrics
    assert metrics["study.as_published"]["value"] == 1 and metrics["study.claim.1"]["n"] == 3


def test_one_seed_has_no_interval(tmp_path):
    config = StudyConfig(title="Toy", readings=readings((0,)), claims=(claim(),))
    run_recipe(wired(config, [90, 10]), "x", tmp_path)
    path = show_run("x", tmp_path).stages[-1].path / "files"
    (found,) = StudyReport(path).document().results
    assert (found.low, found.high, found.n) == (None, None, 1)
    assert found.outcome == "direction as published, within noise"
    assert json.loads((path / "study.json").read_text())["results"][0]["low"] is None


def test_a_contrast_is_the_difference_of_means_seed_by_seed():
    values = [value(arm, seed, number + seed, x) for seed in (0, 10) for arm, number, x in
              (("a", 3.0, 1.0), ("a", 5.0, 2.0), ("b", 1.0, 1.0))]  # fmt: skip
    found = difference(claim(these=(("a", 1.0), ("a", 2.0)), those=(("b", 1.0),)), values)
    assert (found.value, found.n, found.low, found.high) == (3.0, 2, 3.0, 3.0)
    incomplete = [*values, value("a", 20, 100.0, 1.0)]
    assert difference(claim(these=(("a", 1.0), ("a", 2.0)), those=(("b", 1.0),)), incomplete) == found
    with pytest.raises(UserError, match="no seed measured every arm"):
        difference(claim(), values)


@pytest.mark.parametrize(
    ("direction", "found", "words"),
    [
        ("lower", (-1.0, -2.0, -0.1), "as published"),
        ("lower", (-1.0, -2.0, 0.1), "direction as published, within noise"),
        ("lower", (1.0, -0.5, 2.5), "not shown"),
        ("lower", (1.0, 0.5, 1.5), "opposite"),
        ("higher", (1.0, 0.5, 1.5), "as published"),
        ("higher", (-1.0, -1.5, -0.5), "opposite"),
        ("same", (0.01, -0.04, 0.05), "as published"),
        ("same", (0.01, -0.2, 0.2), "direction as published, within noise"),
        ("same", (0.3, -0.2, 0.8), "not shown"),
        ("same", (0.3, 0.2, 0.4), "opposite"),
        ("same", (-0.3, -0.4, -0.2), "opposite"),
    ],
)
def test_verdicts(direction, found, words):
    mean, low, high = found
    assert outcome(claim(direction, margin=0.05), Estimate(mean, 3, low, high)) == words


def test_shuffled_arms_are_not_as_published():
    """The check can fail: with the arms exchanged the same numbers say the opposite."""
    seen = [
        value(arm, seed, number) for seed in range(3) for arm, number in (("before", 0.1), ("after", 0.9))
    ]
    assert outcome(claim(), difference(claim(), seen)) == "opposite"


def test_what_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(ValidationError, match="which no reading measures"):
        StudyConfig(title="Toy", readings=readings((0,)), claims=(claim(those=(("nobody", None),)),))
    missing = StudyConfig(
        title="Toy", readings=(Reading(part=0, metric="lek", measure="leak", arm="a", seed=0),)
    )
    with pytest.raises(UserError, match="no metric 'lek'"):
        run_recipe(wired(missing, [1]), "x", tmp_path)
    far = StudyConfig(
        title="Toy", readings=(Reading(part=3, metric="leak", measure="leak", arm="a", seed=0),)
    )
    with pytest.raises(UserError, match="no part 3, only 1"):
        run_recipe(wired(far, [1]), "y", tmp_path)
    recipe = Recipe("toy")
    nothing = recipe.stage("part", known, Known(measured=False))
    config = StudyConfig(
        title="Toy", readings=(Reading(part=0, metric="leak", measure="leak", arm="a", seed=0),)
    )
    recipe.stage("study", study, config, parts=[nothing])
    with pytest.raises(UserError, match="could not be measured"):
        run_recipe(recipe, "z", tmp_path)
