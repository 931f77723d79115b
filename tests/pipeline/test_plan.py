"""Plans: state, reason, prediction."""

import pytest

from publius.core.errors import UserError
from publius.pipeline import hardware_named, plan_recipe, plan_totals, run_recipe
from publius.pipeline.clean import clean_home
from tests.pipeline.toy import toy


def test_plan_says_what_and_why(tmp_path, monkeypatch):
    assert [(r.stage, r.state, r.changed) for r in plan_recipe(toy(), tmp_path)] == [
        ("numbers", "run", []),
        ("other", "run", []),
        ("total", "run", []),
    ]
    assert list(tmp_path.iterdir()) == []
    run_recipe(toy(), "toy", tmp_path)
    assert {r.state for r in plan_recipe(toy(), tmp_path)} == {"cached"}

    moved = toy()
    moved.override("numbers.count", "9")
    moved.override("numbers.workers", "3")
    rows = plan_recipe(moved, tmp_path)
    assert [(r.state, r.changed) for r in rows] == [
        ("run", ["count: 4 -> 9"]),
        ("cached", []),
        ("run", ["input numbers"]),
    ]
    assert plan_recipe(moved, tmp_path, name="unknown")[0].changed == []

    monkeypatch.setenv("TOY_BUG", "add_up:2")
    with pytest.raises(ZeroDivisionError):
        run_recipe(moved, "toy", tmp_path)
    assert plan_recipe(moved, tmp_path)[2].state == "resume"
    assert [r.stage for r in plan_recipe(moved, tmp_path, until="numbers")] == ["numbers"]


def test_alias_to_a_deleted_artifact_gives_no_reason(tmp_path):
    run_recipe(toy(), "toy", tmp_path)
    for link in (tmp_path / "runs/toy").iterdir():
        if link.is_symlink():
            link.rename(link.with_name(f"{link.name}-moved"))
    clean_home(tmp_path)
    assert {r.state for r in plan_recipe(toy(), tmp_path)} == {"cached"}


def test_cost_is_flops_over_the_table(tmp_path):
    rows = plan_recipe(toy(), tmp_path)
    cpu, h100 = hardware_named("cpu"), hardware_named("h100")
    hours = 7.2e14 / 2e11 / 3600
    spent = rows[0].cost(cpu)
    assert spent is not None
    assert spent == pytest.approx((hours, hours * 0.030, hours * 0.10))
    assert rows[2].cost(cpu) is None
    assert plan_totals(rows, cpu) == pytest.approx([2 * value for value in spent])
    assert plan_totals(rows, h100).hours == pytest.approx(2 * 7.2e14 / 4e14 / 3600)
    assert rows[2].as_dict(cpu)["cost"] is None
    assert rows[0].as_dict(cpu)["cost"]["hours"] == pytest.approx(1.0)
    run_recipe(toy(), "toy", tmp_path)
    assert plan_totals(plan_recipe(toy(), tmp_path), cpu).hours == 0


@pytest.mark.parametrize("name", ["a/b", "../x", "a" * 201])
def test_a_name_that_no_run_can_have_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="cannot name a run"):
        plan_recipe(toy(), tmp_path, name=name)
