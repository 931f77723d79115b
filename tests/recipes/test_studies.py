"""Studies on the bundled world, as small as they go: every stage runs, every claim gets a outcome."""

import pytest

from publius.core.errors import UserError
from publius.evals.study import StudyReport
from publius.pipeline import Recipe, load_recipe, plan_recipe, run_recipe, show_run
from publius.recipes.quickstart import quickstart
from publius.recipes.smoke import SMALLEST
from publius.recipes.studies import (
    critiques,
    frontier,
    labels,
    overoptimisation,
    principles,
    revisions,
    rewards,
)
from tests.slow import slow

STUDIES = ("critiques", "frontier", "labels", "overoptimisation", "principles", "revisions", "rewards")
LONG = ("critiques",)
SMALL = {
    "revisions": lambda: revisions.wire(SMALLEST, 1, steps=2),
    "critiques": lambda: critiques.wire(SMALLEST, 1, critics=((64, 2), (96, 2))),
    "principles": lambda: principles.wire(SMALLEST, 1, counts=(1, 16), pairs_of_words=10),
    "frontier": lambda: frontier.wire(SMALLEST, 1),
    "labels": lambda: labels.wire(SMALLEST, 1),
    "overoptimisation": lambda: overoptimisation.wire(SMALLEST, 1),
    "rewards": lambda: rewards.wire(SMALLEST, 1),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [pytest.param(n, marks=slow) if n in LONG else n for n in STUDIES])
def test_a_study_runs_whole(home, name):
    recipe = SMALL[name]()
    run_recipe(recipe, name, home, jobs=1)
    document = StudyReport(show_run(name, home).stages[-1].path / "files").document()
    assert len(document.results) == len(document.config.claims) > 1
    assert {value.seed for value in document.values} == {0}
    assert all(result.n == 1 and result.low is None for result in document.results)
    record = show_run(name, home).stages[-1].record
    assert record is not None
    assert "study.as_published" in record.metrics and "study.claim.1" in record.metrics


@pytest.mark.parametrize("name", STUDIES)
def test_what_a_quickstart_has_made_is_not_made_again(tmp_path, name):
    def identities(recipe: Recipe) -> dict[str, str]:
        return {plan.stage: plan.id for plan in plan_recipe(recipe, tmp_path)}

    known, mine = identities(quickstart(seed=1)), identities(load_recipe(f"studies/{name}"))
    shared = {"s1-world": "world", "s1-haiku": "haiku", "s1-sft": "sft", "s1-prompts": "prompts"}
    shared |= {"s1-opus": "opus"} if name != "critiques" else {"s1-critic224": "opus"}
    shared |= {"s1-rlcai": "rlcai"} if name in ("frontier", "rewards") else {}
    assert {key: mine[key] for key in shared} == {key: known[value] for key, value in shared.items()}


def test_no_seed_measures_nothing():
    with pytest.raises(UserError, match="0 seeds"):
        load_recipe("studies/principles", {"seeds": "0"})
