"""Cleaning deletes what nothing points at, and nothing else."""

import os
import time

import pytest

from publius.core.errors import UserError
from publius.pipeline import clean, clean_home, plan_recipe, run_recipe
from publius.pipeline.store import claim
from tests.pipeline.toy import toy


def folders(home):
    return {p.name for p in (home / "artifacts").iterdir()}


@pytest.fixture
def home(tmp_path):
    run_recipe(toy(), "toy", tmp_path)
    return tmp_path


def test_aliased_artifacts_stay(home):
    assert clean_home(home) == []
    assert len(folders(home)) == 3


def test_artifacts_that_lost_their_alias_go(home):
    before = folders(home)
    run_recipe(toy(seed=1), "toy", home)
    removed = clean_home(home, dry_run=True)
    assert len(folders(home)) == 5
    assert clean_home(home) == removed
    assert {item.path.name for item in removed} == before - {"other"} - folders(home)
    assert len(removed) == 2 and all(item.bytes > 0 for item in removed)
    assert {p.name for p in (home / "runs/toy").iterdir()} >= {"numbers", "other", "total"}


def test_older_than_spares_the_new(home):
    run_recipe(toy(seed=1), "toy", home)
    assert clean_home(home, older_than=1) == []
    old = time.time() - 2 * 86400
    for path in (home / "artifacts").iterdir():
        os.utime(path, (old, old))
    assert len(clean_home(home, older_than=1)) == 2


@pytest.mark.parametrize("days", [float("nan"), float("inf"), -1])
def test_days_that_are_none_spare_all_by_an_error(home, days):
    run_recipe(toy(seed=1), "toy", home)
    with pytest.raises(UserError, match=f"{days:g} days cannot be"):
        clean_home(home, older_than=days)
    assert len(folders(home)) == 5 and len(clean_home(home, older_than=0, dry_run=True)) == 2


def test_stale_partial_goes_and_a_live_one_stays(home):
    stale, live = home / "artifacts/x-1.partial", home / "artifacts/x-2.partial"
    stale.mkdir()
    trash = home / "artifacts/.y-1.77-1.trash"
    trash.mkdir()
    with claim(live):
        assert [item.path for item in clean_home(home)] == [stale]
        assert live.exists() and not stale.exists() and not trash.exists()


def test_forgetting_a_run_spares_what_others_share(home):
    run_recipe(toy(seed=1), "second", home)
    orphan = home / "artifacts/orphan-1"
    orphan.mkdir()
    before = folders(home)
    removed = {item.path.name for item in clean_home(home, run="second")}
    assert len(removed) == 2
    assert folders(home) == before - removed
    assert not (home / "runs/second").exists()
    assert {row.state for row in plan_recipe(toy(), home)} == {"cached"}


def test_unknown_run(home):
    with pytest.raises(UserError, match="no run 'tos'") as caught:
        clean_home(home, run="tos")
    assert caught.value.fix == "did you mean 'toy'?"
    for name in ("../artifacts", "..", ".", "", "toy/../toy"):
        with pytest.raises(UserError, match="cannot name a run"):
            clean_home(home, run=name)
    assert len(folders(home)) == 3 and (home / "runs/toy").is_dir()


def test_an_empty_home(tmp_path):
    assert clean_home(tmp_path) == []


def stopped(home, seed, saved=True):
    """A run that was stopped in the middle of its first stage."""
    run_recipe(toy(seed=seed), "stopped", home)
    link = home / "runs/stopped/numbers"
    folder = home / "artifacts" / link.readlink().name
    partial = folder.with_name(f"{folder.name}.partial")
    folder.rename(partial)
    (partial / "record.json").unlink()
    if saved:
        (partial / "resume/00000001").mkdir(parents=True)
    link.unlink()
    return partial


def test_what_a_stopped_run_will_go_on_from_stays(home):
    partial = stopped(home, 5)
    assert clean_home(home) == [] and partial.is_dir()
    run_recipe(toy(seed=6), "stopped", home)  # nobody wants it any more
    assert partial in [item.path for item in clean_home(home)]


def test_what_was_begun_and_not_saved_goes(home):
    partial = stopped(home, 5, saved=False)
    assert [item.path for item in clean_home(home)] == [partial]


def test_what_a_run_takes_up_meanwhile_stays(home, monkeypatch):
    run_recipe(toy(seed=1), "toy", home)
    sizes = clean._size

    def slow(path):
        if not (home / "runs/second").exists():
            run_recipe(toy(), "second", home)
        return sizes(path)

    monkeypatch.setattr(clean, "_size", slow)
    assert clean_home(home) == []
    assert all(link.exists() for link in (home / "runs/second").iterdir())
