"""Running: cached, resumed after a real `kill -9`, cleaned up after every kind of failure."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from publius.core.errors import UserError
from publius.pipeline import Artifact, Recipe, Run, StageCrash, execute, run_recipe, stage
from publius.pipeline.identity import identify
from publius.pipeline.store import claim
from tests.pipeline.toy import Numbers, NumbersConfig, SumConfig, Total, add_up, make_numbers, toy

ROOT = Path(__file__).parents[2]


def command_line(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", "from publius.cli import main; main()", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def leftovers(home: Path) -> list[str]:
    return sorted(p.name for p in (home / "artifacts").iterdir())


def payload(home: Path) -> dict[str, str]:
    """Everything a finished home holds that must not depend on how it was made."""
    found = {}
    for path in sorted((home / "artifacts").rglob("*")):
        if path.is_file() and path.name != "record.json":
            text = path.read_text()
            if path.name == "metrics.jsonl":
                text = str(
                    [{k: v for k, v in json.loads(x).items() if k != "wall"} for x in text.splitlines()]
                )
            found[str(path.relative_to(home))] = text
    return found


@pytest.fixture
def unbroken(tmp_path):
    run_recipe(toy(), "toy", tmp_path / "unbroken")
    return payload(tmp_path / "unbroken")


def test_a_run_makes_artifacts_records_and_aliases(tmp_path):
    made = run_recipe(toy(), "mine", tmp_path)
    total = made["total"]
    assert isinstance(total, Total)
    # 0+1+2+3 and 100, times 0+1+2+3
    assert total.value() == (6 + 100) * 6
    record = total.record
    assert record is not None
    assert record.id == identify(toy())[-1].id
    assert record.config == {"steps": 4, "scale": 1.0}
    assert record.metrics["total"] == {"value": 636}
    assert record.tokens == 4 and record.flops == 0
    assert record.wall_seconds >= 0 and record.energy_kwh >= 0 and record.hardware
    assert record.started <= record.finished
    assert record.versions["python"].startswith("3.")
    assert record.commit is None or len(record.commit) >= 40
    assert (tmp_path / "runs/mine/total/files/total.txt").read_text() == "636"
    assert len(leftovers(tmp_path)) == 3
    assert sorted(p.name for p in total.path.parent.iterdir()) == ["files", "metrics.jsonl", "record.json"]


def test_a_second_run_computes_nothing(tmp_path, capfd, monkeypatch):
    run_recipe(toy(), "toy", tmp_path)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file() and "artifacts" in str(p)}
    monkeypatch.setenv("TOY_BUG", "add_up:0")
    run_recipe(toy(), "again", tmp_path)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert "[3/3] total: cached" in capfd.readouterr().err
    journal = json.loads((tmp_path / "runs/again/run.json").read_text())
    assert {v["outcome"] for v in journal["executions"][0]["stages"].values()} == {"cached"}


def test_until_asks_nothing_of_what_comes_after(tmp_path):
    """A file that a later stage reads need not be there yet."""

    def absent(config):
        raise UserError("there is no such folder", where="later", fix="make it")

    @stage(version=1, fingerprint=absent)
    def later(run: Run, config: SumConfig) -> Numbers:
        return Numbers(run.output)

    recipe = toy()
    recipe.stage("later", later, SumConfig())
    assert list(run_recipe(recipe, "toy", tmp_path, until="other")) == ["other"]
    with pytest.raises(UserError, match="no such folder"):
        run_recipe(recipe, "toy", tmp_path)


def test_until_runs_what_it_needs_only(tmp_path):
    assert list(run_recipe(toy(), "toy", tmp_path, until="other")) == ["other"]
    assert len(leftovers(tmp_path)) == 1


def test_aliases_of_stages_that_left_the_recipe_go(tmp_path):
    run_recipe(toy(), "toy", tmp_path)
    recipe = Recipe("toy")
    recipe.stage("numbers", make_numbers, NumbersConfig())
    run_recipe(recipe, "toy", tmp_path)
    assert sorted(p.name for p in (tmp_path / "runs/toy").iterdir()) == ["numbers", "recipe.json", "run.json"]


@pytest.mark.parametrize("kill", ["make_numbers:0", "add_up:0", "add_up:2"])
def test_kill_9_then_the_same_command_ends_as_if_unbroken(tmp_path, unbroken, kill):
    home = tmp_path / "home"
    arguments = ("run", "tests/pipeline/toy.py:toy", "--home", home)
    with command_line(*arguments, TOY_KILL=kill) as killed:
        killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert any(name.endswith(".partial") for name in leftovers(home))
    made = run_recipe(toy(), "toy", home)
    assert payload(home) == unbroken
    record = made["total"].record
    assert record is not None and record.tokens == 4
    outcome = json.loads((home / "runs/toy/run.json").read_text())["executions"][-1]["stages"]["total"][
        "outcome"
    ]
    assert outcome == ("resumed" if kill == "add_up:2" else "ran")


def test_user_error_names_the_stage_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("TOY_USER_ERROR", "make_numbers:0")
    with pytest.raises(UserError) as caught:
        run_recipe(toy(), "toy", tmp_path)
    assert caught.value.what == "stage numbers: the numbers are odd"
    assert (caught.value.where, caught.value.fix) == ("toy", "use even ones")
    assert leftovers(tmp_path) == []


def test_failure_after_a_save_keeps_only_the_state(tmp_path, monkeypatch, unbroken):
    home = tmp_path / "home"
    monkeypatch.setenv("TOY_BUG", "add_up:2")
    with pytest.raises(ZeroDivisionError) as caught:
        run_recipe(toy(), "toy", home)
    assert "in stage total (add_up-" in caught.value.__notes__[0]
    (partial,) = (home / "artifacts").glob("*.partial")
    assert sorted(p.name for p in partial.iterdir()) == ["lock", "metrics.jsonl", "resume"]
    monkeypatch.delenv("TOY_BUG")
    run_recipe(toy(), "toy", home)
    assert payload(home) == unbroken


def test_failure_after_the_last_step_keeps_the_state(tmp_path, monkeypatch, unbroken):
    home = tmp_path / "home"

    def full(folder):
        if "add_up" in folder.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(execute, "fsync_tree", full)
        with pytest.raises(UserError, match="the disk is full"):
            run_recipe(toy(), "toy", home)
    (partial,) = (home / "artifacts").glob("*.partial")
    assert sorted(p.name for p in partial.iterdir()) == ["lock", "metrics.jsonl", "resume"]
    run_recipe(toy(), "toy", home)
    assert payload(home) == unbroken


def test_what_a_kill_after_the_rename_left_goes(tmp_path, unbroken):
    home = tmp_path / "home"
    made = run_recipe(toy(), "toy", home)
    folder = made["total"].path.parent
    (folder / "lock").write_text("1")
    (folder / "resume/00000001/files").mkdir(parents=True)
    run_recipe(toy(), "toy", home)
    assert payload(home) == unbroken and not (folder / "resume").exists()


def test_interrupt_tidies_up(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("TOY_INTERRUPT", "add_up:0")
    with pytest.raises(KeyboardInterrupt):
        run_recipe(toy(), "toy", tmp_path)
    assert len(leftovers(tmp_path)) == 2
    assert "total: stopped" in capfd.readouterr().err
    assert json.loads((tmp_path / "runs/toy/run.json").read_text())["executions"][0]["finished"] is False


def test_sigterm_tidies_up(tmp_path):
    ready, home = tmp_path / "ready", tmp_path / "home"
    arguments = ("run", "tests/pipeline/toy.py:toy", "--home", home)
    with command_line(*arguments, TOY_WAIT="make_numbers:0", TOY_READY=str(ready)) as process:
        wait_for(ready.exists)
        process.terminate()
        errors = process.communicate(timeout=30)[1]
    assert process.returncode == 0
    assert "Traceback" not in errors and "the same command goes on" in errors
    assert leftovers(home) == []


def wait_for(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_two_runners_at_once(tmp_path):
    identity = identify(toy())[0]
    partial = tmp_path / "artifacts" / f"{identity.folder}.partial"
    with claim(partial), pytest.raises(UserError, match="another runner") as caught:
        run_recipe(toy(), "toy", tmp_path)
    assert identity.folder in str(caught.value)
    assert partial.exists()
    run_recipe(toy(), "toy", tmp_path)


@stage(version=1)
def meanwhile(run: Run, config: NumbersConfig) -> Numbers:
    run_recipe(toy(), "r", run.folder.parents[1])
    return Numbers(run.output)


def test_executions_of_one_run_at_once_are_all_kept(tmp_path):
    recipe = Recipe("r")
    recipe.stage("meanwhile", meanwhile, NumbersConfig())
    run_recipe(recipe, "r", tmp_path)
    kept = json.loads((tmp_path / "runs/r/run.json").read_text())["executions"]
    assert [list(one["stages"]) for one in kept] == [["numbers", "other", "total"], ["meanwhile"]]


@stage(version=1)
def fill(run: Run, config: NumbersConfig) -> Numbers:
    (run.output / "numbers.json").write_text("half")
    raise OSError(errno.ENOSPC, "No space left on device")


@stage(version=1)
def wrong(run: Run, config: NumbersConfig) -> Numbers:
    return Artifact(run.output)  # pyright: ignore


def test_disk_full_leaves_nothing(tmp_path):
    recipe = Recipe("r")
    recipe.stage("fill", fill, NumbersConfig())
    with pytest.raises(UserError, match="the disk is full") as caught:
        run_recipe(recipe, "r", tmp_path)
    assert "stage fill" in caught.value.where
    assert leftovers(tmp_path) == []


def test_read_only_home(tmp_path, monkeypatch):
    real = Path.mkdir

    def refuse(self, *args, **kwargs):
        if "home" in self.parts:
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UserError, match=r"cannot use .*artifacts: Permission denied"):
        run_recipe(toy(), "toy", tmp_path / "home")


def test_a_stage_must_return_what_it_declares(tmp_path):
    recipe = Recipe("r")
    recipe.stage("wrong", wrong, NumbersConfig())
    with pytest.raises(TypeError, match="stage wrong returned"):
        run_recipe(recipe, "r", tmp_path)
    assert leftovers(tmp_path) == []


def test_bad_arguments(tmp_path):
    with pytest.raises(UserError, match="cannot name a run"):
        run_recipe(toy(), "../x", tmp_path)
    with pytest.raises(UserError, match="jobs is 0"):
        run_recipe(toy(), "toy", tmp_path, jobs=0)
    with pytest.raises(UserError, match="no stages"):
        run_recipe(Recipe("empty"), "empty", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_another_identity_is_refused(tmp_path):
    made = run_recipe(toy(), "toy", tmp_path)
    path = made["numbers"].path.parent / "record.json"
    path.write_text(path.read_text().replace('"id": "', '"id": "f'))
    with pytest.raises(UserError, match="belongs to another identity"):
        run_recipe(toy(), "toy", tmp_path)


# Workers


def test_jobs_give_the_same_artifacts(tmp_path, unbroken):
    home = tmp_path / "home"
    run_recipe(toy(), "toy", home, jobs=2)
    assert payload(home) == unbroken


def test_same_identity_twice_is_made_once(tmp_path):
    recipe = Recipe("twins", jobs=2)
    a = recipe.stage("a", make_numbers, NumbersConfig())
    b = recipe.stage("b", make_numbers, NumbersConfig())
    recipe.stage("c", make_numbers, NumbersConfig(seed=9))
    recipe.stage("t", add_up, SumConfig(), numbers=a, more=[b])
    run_recipe(recipe, "twins", tmp_path)
    stages = json.loads((tmp_path / "runs/twins/run.json").read_text())["executions"][0]["stages"]
    assert sorted(v["outcome"] for v in stages.values()) == ["cached", "ran", "ran", "ran"]


def test_worker_user_error_reaches_the_parent(tmp_path, monkeypatch):
    monkeypatch.setenv("TOY_USER_ERROR", "make_numbers:0")
    with pytest.raises(UserError) as caught:
        run_recipe(toy(), "toy", tmp_path, jobs=2)
    assert "the numbers are odd" in caught.value.what and caught.value.fix == "use even ones"
    assert leftovers(tmp_path) == []


def test_worker_bug_reaches_the_parent_with_its_traceback(tmp_path, monkeypatch):
    monkeypatch.setenv("TOY_BUG", "make_numbers:0")
    with pytest.raises(StageCrash, match=r"(?s)stage .* failed in its worker.*ZeroDivisionError: a bug"):
        run_recipe(toy(), "toy", tmp_path, jobs=2)


def test_worker_killed_from_outside(tmp_path, monkeypatch):
    monkeypatch.setenv("TOY_KILL", "make_numbers:0")
    with pytest.raises(UserError, match=r"its worker process ended with code -9"):
        run_recipe(toy(), "toy", tmp_path, jobs=2)
    monkeypatch.delenv("TOY_KILL")
    run_recipe(toy(), "toy", tmp_path, jobs=2)


def test_a_stage_inside_a_function_cannot_go_to_a_worker(tmp_path):
    @stage(version=1)
    def local(run: Run, config: NumbersConfig) -> Numbers:
        return Numbers(run.output)

    recipe = Recipe("r", jobs=2)
    recipe.stage("a", local, NumbersConfig(seed=1))
    recipe.stage("b", local, NumbersConfig(seed=2))
    with pytest.raises(UserError, match="defined inside a function"):
        run_recipe(recipe, "r", tmp_path)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_stopping_the_parent_stops_its_workers(tmp_path, how):
    ready, home = tmp_path / "ready", tmp_path / "home"
    arguments = ("run", "tests/pipeline/toy.py:toy", "--jobs", 2, "--home", home)
    with command_line(*arguments, TOY_WAIT="make_numbers:0", TOY_READY=str(ready)) as parent:
        wait_for(lambda: ready.exists() and ready.read_text())
        worker = int(ready.read_text())
        assert worker != parent.pid
        parent.send_signal(how)
        errors = parent.communicate(timeout=30)[1]
    wait_for(lambda: not alive(worker))
    if how != signal.SIGKILL:
        assert "Traceback" not in errors
        assert leftovers(home) == []


def alive(process: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
