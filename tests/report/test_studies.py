"""The section on studies, on a run of its own."""

import re

import pytest

from publius.core.config import Config
from publius.core.stats import mean_estimate, wilson
from publius.evals.study import Claim, Place, Reading, StudyConfig, study
from publius.pipeline import Artifact, Recipe, Run, run_recipe, stage
from publius.report import write_report

NASTY = "<b>bold</b>"


class Known(Config):
    leaks: int
    score: float


@stage(version=1)
def known(run: Run, config: Known) -> Artifact:
    run.metric("leak", wilson(config.leaks, 100))
    run.metric("score", mean_estimate([config.score - 1, config.score + 1]))
    return Artifact(run.output)


def claim(measure, these, those, direction, margin=0.0):
    return Claim(
        text=f"a claim about {measure} {NASTY}", source="a paper", measure=measure, these=(these,),
        those=(those,), direction=direction, margin=margin,
    )  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    r = Recipe("studies")
    parts = [r.stage(f"part{i}", known, Known(leaks=80 - 15 * i, score=0.5 * i)) for i in range(4)]
    before, after = Place(arm="before"), Place(arm="after")
    arms = StudyConfig(
        title="Arms",
        readings=tuple(
            Reading(part=2 * seed + j, metric=metric, measure=metric, arm=arm, seed=seed)
            for seed in (0, 1)
            for j, arm in enumerate(("before", "after"))
            for metric in ("leak", "score")
        ),
        claims=(claim("leak", after, before, "lower"), claim("score", after, before, "same", 2.0)),
        units={"score": "number"},
    )  # fmt: skip
    r.stage("arms", study, arms, parts=parts)
    curve = StudyConfig(
        title="Curve",
        readings=tuple(
            Reading(part=i, metric="leak", measure="leak", arm="revised", seed=0, x=i) for i in range(4)
        ),
        claims=(claim("leak", Place(arm="revised", x=3), Place(arm="revised", x=0), "lower"),),
        x_label="revisions",
    )
    r.stage("curve", study, curve, parts=parts)
    run_recipe(r, "x", home)
    return write_report(home, "x").read_text("utf-8")


def test_claims_stand_beside_what_was_found(page):
    text = re.sub(r"<[^>]+>", " ", page)
    assert "leak lower" in text and "-15.0 points" in text and "as published" in text
    assert "score same (within 2)" in text and "+0.5" in text
    assert "n = 2 seeds" in text and "n = 1 seed " in text
    assert "direction as published, within noise" in text  # one seed has no interval


def test_values_figures_and_escapes(page):
    assert NASTY not in page and "&lt;b&gt;bold" in page
    assert "seeds: 80.0%, 50.0%" in page and "revisions" in page
    assert page.count("<polyline") >= 1
    assert "every value, by seed" in page.lower()
    assert page.index('id="studies"') < page.index('id="costs"')
