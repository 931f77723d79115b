"""Law: `publius run` killed with SIGKILL again and again, at any moment, ends as if never killed.

Byte for byte: the weights, every other file, the records but for clocks; and no file more than an
unbroken run leaves.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from publius.pipeline.store import is_claimed

ROOT = Path(__file__).parents[2]
RECIPE = f"{Path(__file__).with_name('killed_recipe.py')}:killed"
CLOCKS = ("wall", "tokens_per_second")
"""What depends on how fast the machine was."""


class Attempt:
    """`publius run` in a process of its own; `begun` is when it said its first word."""

    def __init__(self, home: Path, *options: str) -> None:
        code = "from publius.cli import main; main()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, "run", RECIPE, "--home", str(home), *options],
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            bufsize=0,  # what a buffered readline takes beyond its line, `communicate(timeout=)` never sees
        )
        assert self.process.stderr is not None
        self.said = self.process.stderr.readline().decode()
        self.begun = time.monotonic()

    def wait(self) -> str:
        """Until it ends by itself; all it said."""
        self.said += self.process.communicate(timeout=120)[1].decode()
        assert self.process.returncode == 0, self.said
        return self.said

    def kill(self, when: Callable[[], bool], delay: float) -> str:
        """Kill it `delay` seconds after `when` comes true, unless it ends before; all it said."""
        while not when() and self.process.poll() is None:
            time.sleep(0.005)
        time.sleep(delay)
        self.process.send_signal(signal.SIGKILL)
        self.said += self.process.communicate()[1].decode()
        assert self.process.returncode in (0, -signal.SIGKILL), self.said
        return self.said


def remains(home: Path) -> dict[str, Any]:
    """Every path under a home, with all of its content that must not depend on how it was made."""
    found: dict[str, Any] = {}
    for path in sorted(home.rglob("*")):
        name = str(path.relative_to(home))
        if path.is_symlink():
            found[name] = str(path.readlink())
        elif path.is_dir() or path.parent.parent.name == "runs":  # a run's journal and report tell the time
            found[name] = None
        elif path.name == "metrics.jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [{key: line[key] for key in line if key not in CLOCKS} for line in lines]
        elif path.name == "record.json":
            record = json.loads(path.read_text())
            kept = {key: record[key] for key in ("stage", "id", "config", "inputs", "tokens", "flops")}
            metrics = {key: value for key, value in record["metrics"].items() if key not in CLOCKS}
            found[name] = kept | {"metrics": metrics}
        else:
            found[name] = path.read_bytes()
    return found


def test_killed_at_any_moment_is_unbroken(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    first = Attempt(whole)
    first.wait()
    length = time.monotonic() - first.begun
    rng = random.Random()

    def at_once() -> bool:
        return True

    def saved(stage: str) -> Callable[[], bool]:
        return lambda: any(broken.glob(f"artifacts/{stage}-*.partial/resume/*"))

    plan = [
        (("--jobs", "2"), at_once, rng.uniform(0, 0.4 * length)),
        ((), saved("pretrain"), rng.uniform(0, 0.3)),  # before the next, which may see it finished
    ]
    said: list[str] = []
    for options, when, delay in plan:
        said.append(Attempt(broken, *options).kill(when, delay))
        wait_for_workers(broken)
    said.append(Attempt(broken).wait())
    story = "\n--- killed\n".join(said)
    assert "resumed" in story, story
    expected, got = remains(whole), remains(broken)
    assert sorted(got) == sorted(expected), story
    weights = [name for name in got if name.endswith("model.safetensors")]
    assert len(weights) == 2
    differing = [name for name in got if got[name] != expected[name]]
    assert differing == [], story


def wait_for_workers(home: Path) -> None:
    """A worker process outlives its killed parent by a moment."""
    deadline = time.monotonic() + 20
    while any(is_claimed(partial) for partial in home.glob("artifacts/*.partial")):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.02)
