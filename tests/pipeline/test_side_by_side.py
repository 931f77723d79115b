"""Which stages run where: in workers, in the runner, on how many cores."""

from __future__ import annotations

import json
import os

from publius.core.device import usable_cores
from publius.pipeline import Recipe, Run, run_recipe, stage
from publius.pipeline.workers import Spares
from tests.pipeline.toy import Numbers, NumbersConfig, make_numbers, threads


def test_independent_stages_run_side_by_side_and_share_the_cores(tmp_path, monkeypatch):
    (tmp_path / "meeting").mkdir()
    monkeypatch.setenv("TOY_MEETING", str(tmp_path / "meeting"))
    recipe = Recipe("pair", jobs=2)
    for seed in (1, 2):
        recipe.stage(f"s{seed}", threads, NumbersConfig(seed=seed))
    made = run_recipe(recipe, "pair", tmp_path)
    records = [artifact.record for artifact in made.values()]
    assert all(r is not None and r.metrics["met"]["value"] == 2 for r in records)
    assert len({r.metrics["pid"]["value"] for r in records if r} | {os.getpid()}) == 3
    cores = usable_cores()
    share = max(1, len(cores) // 2)
    told = [a.values() for a in made.values() if isinstance(a, Numbers)]
    assert [numbers[0] for numbers in told] == [share, share]
    if len(cores) > 1:  # each keeps to cores of its own
        first, second = (set(numbers[1:]) for numbers in told)
        assert len(first) == len(second) == share and not first & second and first | second <= set(cores)


def where(run: Run) -> Numbers:
    run.metric("pid", os.getpid())
    (run.output / "numbers.json").write_text("[]")
    return Numbers(run.output)


@stage(version=1, light=True)
def light(run: Run, config: NumbersConfig) -> Numbers:
    return where(run)


@stage(version=1, wide=True)
def wide(run: Run, config: NumbersConfig) -> Numbers:
    return where(run)


def test_light_stages_run_in_the_runners_own_process(tmp_path):
    recipe = Recipe("pair", jobs=2)
    for seed in (1, 2):
        recipe.stage(f"s{seed}", light, NumbersConfig(seed=seed))
    made = run_recipe(recipe, "pair", tmp_path)
    assert [a.record.metrics["pid"]["value"] for a in made.values() if a.record] == [os.getpid()] * 2


def test_a_lone_wide_stage_waits_for_all_cores_and_two_share_them(tmp_path):
    recipe = Recipe("mixed", jobs=2)
    recipe.stage("training", wide, NumbersConfig(seed=1))
    for seed in (2, 3, 4):
        recipe.stage(f"short{seed}", make_numbers, NumbersConfig(seed=seed))
    made = run_recipe(recipe, "mixed", tmp_path)
    record = made["training"].record
    assert record is not None and record.metrics["pid"]["value"] == os.getpid()  # here, so on all cores
    order = list(json.loads((tmp_path / "runs/mixed/run.json").read_text())["executions"][0]["stages"])
    assert order[-1] == "training"

    pair = Recipe("pair", jobs=2)
    for seed in (5, 6):
        pair.stage(f"training{seed}", wide, NumbersConfig(seed=seed))
    pids = {a.record.metrics["pid"]["value"] for a in run_recipe(pair, "pair", tmp_path).values() if a.record}
    assert len(pids) == 2 and os.getpid() not in pids

    alone = Recipe("alone")  # one at a time: in the recipe's order
    alone.stage("training", wide, NumbersConfig(seed=7))
    alone.stage("short", make_numbers, NumbersConfig(seed=8))
    assert list(run_recipe(alone, "alone", tmp_path)) == ["training", "short"]


@stage(version=1, wide=True)
def wide_after(run: Run, config: NumbersConfig, *, numbers: Numbers) -> Numbers:
    return where(run)


def test_what_most_waits_on_comes_first_and_a_wide_stage_then_has_all_cores(tmp_path):
    recipe = Recipe("chain", jobs=2)
    for seed in range(1, 8):
        recipe.stage(f"short{seed}", make_numbers, NumbersConfig(seed=seed))
    first = recipe.stage("first", make_numbers, NumbersConfig(seed=8))
    training = recipe.stage("training", wide_after, NumbersConfig(seed=9), numbers=first)
    recipe.stage("second", wide_after, NumbersConfig(seed=10), numbers=training)
    made = run_recipe(recipe, "chain", tmp_path)
    order = list(json.loads((tmp_path / "runs/chain/run.json").read_text())["executions"][0]["stages"])
    assert order.index("first") < order.index("training") < order.index("short7")
    record = made["training"].record
    assert record is not None and record.metrics["pid"]["value"] == os.getpid()


def test_spare_workers_wait_for_a_job_and_end_when_there_is_none(tmp_path):
    with Spares(1, {"publius.core.config", "tests.pipeline.toy"}) as spares:
        spares.keep(2)
        spares.keep(2)
        dead, alive = spares._waiting
        dead.kill()
        dead.wait()
        taken = spares.take()
        assert taken is alive and taken.poll() is None
        fresh = spares.take()  # none is left
        assert fresh not in (dead, alive)
        spares.keep(1)
        [unused] = spares._waiting
        for process in (taken, fresh):
            out, _ = process.communicate(b"", timeout=60)  # the pipe closes: nobody needs it
            assert process.returncode == 0 and out == b""
    assert unused.returncode is not None and unused.returncode < 0
