"""Law: told to stop, a training saves at once, ends in good order, and goes on bit-identically."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from publius.pipeline import run_recipe
from tests.laws.stopped_recipe import STEPS, two

ROOT = Path(__file__).parents[2]
RECIPE = Path(__file__).with_name("stopped_recipe.py")


def stop(home, how, function, jobs, stages):
    """Start, send `how` when every stage has made four steps, wait; (exit code, what it said).

    Slow steps, for two workers may start seconds apart and neither may end before the other begins.
    """
    marks = home / "marks"
    marks.mkdir(parents=True, exist_ok=True)
    for seed in stages:
        (marks / str(seed)).write_text("")
    arguments = ["run", f"{RECIPE}:{function}", "--home", home, "--jobs", jobs]
    arguments += ["--set", "pace=0.08", "--set", f"marks={marks}"]
    code = "from publius.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while any(len((marks / str(seed)).read_text()) < 4 for seed in stages):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(how)
    return_words = process.communicate(timeout=60)[1]
    return process.returncode, return_words


def saved_steps(home):
    """Of every unfinished stage: the step its state is of, and the steps it logged."""
    found = []
    for partial in (home / "artifacts").glob("*.partial"):
        (state,) = partial.glob("resume/*/files/state.json")
        lines = (partial / "metrics.jsonl").read_text().splitlines()
        found.append((json.loads(state.read_text())["progress"]["step"], json.loads(lines[-1])["step"]))
    return found


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    made = run_recipe(two(), "stopped", tmp_path_factory.mktemp("unbroken"))
    return {name: weights.bytes() for name, weights in made.items()}


def test_in_this_process_and_in_workers(tmp_path, unbroken):
    code, words = stop(tmp_path, signal.SIGTERM, "two", 2, [1, 2])
    assert code == 0 and words.count("the same command goes on from here") == 3, words
    ((a, logged_a), (b, logged_b)) = saved_steps(tmp_path)
    assert a == logged_a >= 4 and b == logged_b >= 4  # nothing lost: the state is of the last step

    code, words = stop(tmp_path, signal.SIGTERM, "one", 1, [1])
    assert code == 0 and "a: resumed" in words and "a: stopped; the same command" in words
    assert "stopped as asked; the same command goes on from here" in words and "Traceback" not in words
    steps = saved_steps(tmp_path)
    assert all(step == logged for step, logged in steps) and sum(step for step, _ in steps) > a + b

    code, words = stop(tmp_path, signal.SIGINT, "one", 1, [1])
    assert code == 130 and "Traceback" not in words
    assert all(4 <= step == logged < STEPS for step, logged in saved_steps(tmp_path))

    made = run_recipe(two(), "stopped", tmp_path)
    assert {name: weights.bytes() for name, weights in made.items()} == unbroken
