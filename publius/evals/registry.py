"""Every suite by its name, and where its files are found.

`SUITES` are ours; `HARNESS` are tasks of lm-eval that read a file of the user's, and `lm:NAME` is any task of
lm-eval: they are run through `publius.evals.lm`, which needs the extra `[eval]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from publius.core.errors import UserError
from publius.data.files import format_of
from publius.evals.suites.base import Suite
from publius.evals.suites.behaviour import BEHAVIOUR
from publius.evals.suites.character import CHARACTER
from publius.evals.suites.knowledge import KNOWLEDGE
from publius.evals.suites.pairs import PAIRS
from publius.pipeline.names import did_you_mean

__all__ = ["DATA_VARIABLE", "HARNESS", "SUITES", "HarnessTask", "files_of", "named"]

DATA_VARIABLE = "PUBLIUS_EVAL_DATA"
"""Environment variable that names the folder of benchmark files."""

SUITES: dict[str, Suite] = {suite.name: suite for suite in (*KNOWLEDGE, *CHARACTER, *BEHAVIOUR, *PAIRS)}


@dataclass(frozen=True)
class HarnessTask:
    """A task of lm-eval.

    Args:
        name: as it is asked for here.
        task: as lm-eval, or `publius.evals.lm`, calls it.
        files: what its file is called in a folder of data; none of a task that brings its own questions.
    """

    name: str
    task: str
    about: str
    files: tuple[str, ...] = ()


HARNESS: dict[str, HarnessTask] = {
    "humaneval": HarnessTask(
        "humaneval", "humaneval", "programs run in our sandbox (Chen et al. 2021)", ("humaneval*.jsonl*",)
    )
}

_SHARED = {"truthfulqa_mc1": "truthfulqa", "truthfulqa_mc2": "truthfulqa"}


def named(name: str) -> Suite | HarnessTask:
    """The suite of a name, or the lm-eval task of `lm:NAME`.

    Raises:
        UserError: for an unknown name, with a suggestion.
    """
    if name in SUITES:
        return SUITES[name]
    if name in HARNESS:
        return HARNESS[name]
    prefix, colon, task = name.partition(":")
    if prefix == "lm" and colon and task:
        own = HARNESS.get(task) or SUITES.get(_SHARED.get(task, task))
        return HarnessTask(name, task, f"lm-eval's {task}", own.files if own else ())
    raise UserError(
        f"there is no evaluation called {name!r}",
        where="publius eval",
        fix=f"{did_you_mean(name, [*SUITES, *HARNESS])}; publius eval list tells them all",
    )


def files_of(
    suite: Suite | HarnessTask, given: Mapping[str, Sequence[str]], folder: Path | None
) -> list[str]:
    """The files of a suite: those given by name, else those in the folder that are called as it expects.

    Empty for a task of lm-eval that has none there: it brings its own questions.

    Raises:
        UserError: when a suite has no file, or the folder is none.
    """
    if found := given.get(suite.name) or given.get(suite.name.removeprefix("lm:")):
        return list(found)
    if folder is not None and not folder.is_dir():
        raise UserError("no such folder of benchmark files", where=str(folder), fix="check --data")
    for pattern in suite.files:
        if folder is None:
            break
        found = sorted(str(path) for path in folder.rglob(pattern) if format_of(str(path))[0])
        if found:
            return found
    if isinstance(suite, HarnessTask) and suite.name.startswith("lm:"):
        return []
    raise UserError(
        f"no file of {suite.name}" + (f" (called like {' or '.join(suite.files)})" if suite.files else ""),
        where=str(folder) if folder else "publius eval",
        fix=f"name it with --file {suite.name}=PATH, or a folder with --data or ${DATA_VARIABLE}",
    )
