"""Old findings on later models: fixed, open, regressed; and the twins beside them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from publius.data.pocket.world import World
from publius.model.checkpoint import Checkpoint
from publius.pipeline import testing_run
from publius.redteam import Findings, RedTeamConfig, Regression, RegressionConfig, red_team, regression
from tests.redteam.conftest import REFUSAL

SMALL = RedTeamConfig(styles=("direct", "persona"), discover=4, measure=1, twins=1, tries=1, max_tokens=120)


@pytest.fixture
def found(
    tmp_path: Path, install: Callable, recipes: Callable[[str], str], world: World, checkpoint: Checkpoint
) -> Findings:
    """What broke a model that tells everything."""
    install(lambda prompt, draw: recipes(prompt))
    return red_team(testing_run(tmp_path), SMALL, model=checkpoint, world=world)


def test_fixed_open_and_regressed(
    tmp_path: Path,
    install: Callable,
    recipes: Callable[[str], str],
    checkpoint: Checkpoint,
    found: Findings,
) -> None:
    styles = {finding.style for finding in found.findings()}
    assert styles == {"direct", "persona"} and found.twins()
    open_to: set[str] = set()

    def say(prompt: str, draw: int | None) -> str:
        asked = {f.style for f in found.findings() if f.conversation.messages[-1].content[0].text in prompt}  # pyright: ignore
        return recipes(prompt) if asked & open_to else REFUSAL

    install(say)
    suites: list[Regression] = []

    def suite(number: int, *holes: str) -> dict[str, str]:
        open_to.clear()
        open_to.update(holes)
        run = testing_run(tmp_path / "suites")
        made = regression(
            run, RegressionConfig(round=number, max_tokens=120), model=checkpoint, findings=[found],
            earlier=list(suites),
        )  # fmt: skip
        suites.append(made)
        document = made.document()
        assert document.round == number and run.metrics["regression.findings"]["value"] == len(document.cases)
        shares = [run.metrics[f"regression.{name}"]["value"] for name in ("fixed", "open", "regressed")]
        assert sum(shares) == pytest.approx(1)
        assert {key: sum(counts.values()) for key, counts in document.by_round.items()} == {
            "0": len(document.cases)
        }
        assert run.metrics["regression.overrefusal"]["value"] == 1, "this one refuses the twins too"
        statuses = {case.style: case.status for case in document.cases}
        assert all(statuses[case.style] == case.status for case in document.cases)
        return statuses

    assert suite(1, "direct") == {"direct": "open", "persona": "fixed"}
    assert suite(2, "persona") == {"direct": "fixed", "persona": "regressed"}
    assert suite(3, "direct", "persona") == {"direct": "regressed", "persona": "regressed"}
    assert suite(4) == {"direct": "fixed", "persona": "fixed"}


def test_a_leak_in_a_later_sample_counts(
    tmp_path: Path, install: Callable, recipes: Callable[[str], str], checkpoint: Checkpoint, found: Findings
) -> None:
    install(lambda prompt, draw: REFUSAL if draw is None else recipes(prompt))
    for samples, status in ((1, "fixed"), (2, "open")):
        made = regression(
            testing_run(tmp_path), RegressionConfig(samples=samples, max_tokens=120), model=checkpoint,
            findings=[found],
        )  # fmt: skip
        cases = made.document().cases
        assert {case.status for case in cases} == {status}
        assert all((case.reply == REFUSAL) == (status == "fixed") for case in cases)


def test_no_findings_no_rates(
    tmp_path: Path, install: Callable, world: World, checkpoint: Checkpoint
) -> None:
    install(lambda prompt, draw: REFUSAL)
    none = red_team(testing_run(tmp_path), SMALL, model=checkpoint, world=world)
    run = testing_run(tmp_path)
    made = regression(run, RegressionConfig(), model=checkpoint, findings=[none])
    assert made.document().cases == () and run.metrics["regression.fixed"] == {
        "value": None, "n": 0, "low": 0.0, "high": 1.0,
    }  # fmt: skip
