"""A recipe of toy stages, at module level so that workers and `file.py:function` can find them.

Behaviour that must not enter the identity (dying at a step, waiting) comes from the environment.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

from publius.core.config import Config, execution
from publius.core.device import usable_cores
from publius.core.errors import UserError
from publius.core.stats import wilson
from publius.pipeline import Artifact, Recipe, Run, stage


class Numbers(Artifact):
    def values(self) -> list[int]:
        return json.loads(self.file("numbers.json").read_text())


class Primes(Numbers):
    pass


class Total(Artifact):
    def value(self) -> int:
        return int(self.file("total.txt").read_text())


class NumbersConfig(Config):
    count: int = 4
    seed: int = 0
    workers: int = execution(1)


class SumConfig(Config):
    steps: int = 4
    scale: float = 1.0


def _obey(name: str, step: int) -> None:
    """Do what the test put into the environment: `TOY_<what>=<stage>:<step>`."""
    here = f"{name}:{step}"
    if os.environ.get("TOY_KILL") == here:
        os.kill(os.getpid(), signal.SIGKILL)
    if os.environ.get("TOY_USER_ERROR") == here:
        raise UserError("the numbers are odd", where="toy", fix="use even ones")
    if os.environ.get("TOY_BUG") == here:
        raise ZeroDivisionError("a bug")
    if os.environ.get("TOY_INTERRUPT") == here:
        raise KeyboardInterrupt
    if os.environ.get("TOY_WAIT") == here:
        Path(os.environ["TOY_READY"]).write_text(str(os.getpid()))
        time.sleep(60)


@stage(version=1, predict=lambda config: {"tokens": config.count, "flops": 7.2e14})
def make_numbers(run: Run, config: NumbersConfig) -> Numbers:
    (run.output / "numbers.json").write_text(json.dumps([config.seed + i for i in range(config.count)]))
    _obey("make_numbers", 0)
    run.count(tokens=config.count, flops=10)
    run.metric("even", wilson(1, 2))
    return Numbers(run.output)


@stage(version=1)
def add_up(run: Run, config: SumConfig, *, numbers: Numbers, more: list[Numbers] | None = None) -> Total:
    """Adds `sum(numbers) * step` at each step, saving as it goes."""
    step, total = 0, 0
    saved = run.restore()
    if saved is not None:
        step, total = json.loads((saved / "state.json").read_text())
    one = sum(numbers.values()) + sum(sum(each.values()) for each in more or [])
    with run.progress("adding", config.steps) as ticker:
        while step < config.steps:
            _obey("add_up", step)
            total += one * step
            step += 1
            run.log(step=step, total=total)
            run.count(tokens=1)
            state = json.dumps([step, total])
            run.save(lambda folder, state=state: (folder / "state.json").write_text(state))
            ticker.advance(1, f"total {total}")
    (run.output / "total.txt").write_text(str(total))
    run.metric("total", total)
    run.metric("toy.rounds", [1.0, wilson(3, 4)])
    return Total(run.output)


@stage(version=1)
def threads(run: Run, config: NumbersConfig) -> Numbers:
    """Notes the process and its thread setting, and that another such stage was alive at the same time."""
    meeting = Path(os.environ["TOY_MEETING"])
    (meeting / f"{config.seed}").write_text("")
    deadline = time.monotonic() + 20
    while len(list(meeting.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    run.metric("met", len(list(meeting.iterdir())))
    run.metric("pid", os.getpid())
    (run.output / "numbers.json").write_text(
        json.dumps([int(os.environ["OMP_NUM_THREADS"]), *usable_cores()])
    )
    return Numbers(run.output)


def toy(seed: int = 0, count: int = 4) -> Recipe:
    recipe = Recipe("toy")
    numbers = recipe.stage("numbers", make_numbers, NumbersConfig(seed=seed, count=count))
    other = recipe.stage("other", make_numbers, NumbersConfig(seed=100, count=1))
    total = recipe.stage("total", add_up, SumConfig(), numbers=numbers, more=[other])
    recipe.publish("toy.total", total, "total")
    recipe.publish("toy.even", [numbers, other], "even")
    return recipe


def not_a_recipe() -> int:
    return 3


def needs(path: str) -> Recipe:
    recipe = Recipe("needs")
    recipe.stage(path, make_numbers, NumbersConfig())
    return recipe
