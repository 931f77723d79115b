"""The arithmetic of windows, and children that end in every way."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import harness
import pytest
import torch

WORKER = """
import json, os, signal, sys, time
def answer(payload):
    return {"twice": 2 * payload["x"], "threads": os.environ["OMP_NUM_THREADS"]}
def fail(payload):
    raise ValueError("no good")
def die(payload):
    os.kill(os.getpid(), signal.SIGKILL)
def sleep(payload):
    time.sleep(60)
name, payload = sys.argv[2], json.loads(sys.argv[3])
print("noise")
print("RESULT " + json.dumps(globals()[name](payload)))
"""


def test_windows_are_tokens_over_seconds():
    marks = [1.0, 2.0, 4.0, 6.0, 7.0, 8.0, 20.0]
    tokens = [99, 99, 10, 20, 30, 40, 50]
    found = harness.windows(marks, tokens, warm=2, per_window=2)
    assert found.tokens_per_second == [30 / 4, 70 / 2], "the seventh step is no whole window"
    assert found.median == pytest.approx((7.5 + 35) / 2)
    assert found.spread == pytest.approx(27.5 / 21.25)


@pytest.mark.parametrize("warm, per_window", [(0, 1), (1, 3)])
def test_too_few_steps_for_a_window(warm, per_window):
    with pytest.raises(ValueError, match="too few"):
        harness.windows([1.0, 2.0, 3.0], [1, 1, 1], warm, per_window)


def test_rounds_ask_everyone_in_turn_and_put_the_windows_together():
    asked: list[str] = []

    def one(name: str, *answers: dict):
        left = iter(answers)

        def ask() -> dict:
            asked.append(name)
            return next(left)

        return ask

    def line(rate: float, peak: int) -> dict:
        return {"windows": [rate, rate + 2], "tokens_per_second": rate + 1, "spread": 0.0, "peak_bytes": peak}

    a, b = harness.in_rounds(
        [one("a", line(10, 5), line(20, 7)), one("b", line(1, 1), {"error": "x"})], rounds=2
    )
    assert asked == ["a", "b", "a", "b"] and b == {"error": "x"}
    assert a["windows"] == [10, 12, 20, 22] and a["tokens_per_second"] == 16 and a["peak_bytes"] == 7
    assert harness.in_rounds([one("c", {"error": "y"})], rounds=3) == [{"error": "y"}]


def test_a_child_answers_fails_dies_or_takes_too_long(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)

    def ask(name: str, seconds: float = 30.0):
        return harness.child(script, name, {"x": 21}, seconds=seconds, threads=3)

    assert ask("answer") == {"twice": 42, "threads": "3"}
    assert ask("fail") == {"error": "ValueError: no good"}
    assert "memory" in ask("die")["error"]
    begun = time.monotonic()
    assert ask("sleep", 0.5) == {"error": "took more than 0 s"} and time.monotonic() - begun < 20


def test_memory_sees_what_is_held():
    """In a process of its own: one that has kept freed memory has room for more without growing."""
    code = (
        "import harness, torch\n"
        "memory = harness.Memory(torch.device('cpu'))\n"
        "held = torch.ones(12_000_000)\n"
        "assert held.sum() == 12_000_000\n"
        "print(memory.peak())\n"
    )
    folder = Path(harness.__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=120, check=True
    )
    assert 40e6 < int(done.stdout) < 120e6


def test_marks_are_steps_with_a_loss(tmp_path):
    run = harness.MarkedRun(tmp_path / "run")
    run.log(step=1, loss=2.5)
    run.log(step=1, val_loss=2.0)
    run.log(step=2, loss=2.25)
    assert run.losses == [2.5, 2.25] and len(run.marks) == 2 and run.marks[0] <= run.marks[1]


def test_threads_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert harness.cores() == 7
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert harness.cores() >= 1


def test_a_table():
    assert harness.markdown(["a", "b"], [["1", "2"]]) == "| a | b |\n|---|---|\n| 1 | 2 |"


def test_a_record_says_where_it_comes_from(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmarks/x.py", "--out", "a b"])
    record = harness.record_of(torch.device("cpu"), rows=[1])
    assert record["command"] == "python benchmarks/x.py --out 'a b'" and record["rows"] == [1]
    assert record["hardware"] and record["versions"]["torch"] == torch.__version__
    path = harness.write_record(tmp_path / "new", "x", record)
    assert path.name == f"{record['date']}-x.json" and path.exists()
