"""lm-eval's tasks beside our suites. `publius.evals.lm` needs an extra, so it is looked up when asked for."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from publius.core.errors import UserError
from publius.core.stats import clustered_rate, clustered_ratio
from publius.evals.registry import HarnessTask
from publius.evals.report import Measure, ReportDocument
from publius.evals.suites.compare import SuiteResult, Tested, join
from publius.evals.suites.measures import Readings, bounded
from publius.model.checkpoint import Checkpoint

__all__ = ["harness_here", "harness_result", "run_harness"]

_MODULE, _PACKAGE = "publius.evals.lm", "lm_eval"


def harness_here() -> bool:
    """Whether lm-eval is installed."""
    return all(importlib.util.find_spec(name) is not None for name in (_MODULE, _PACKAGE))


def run_harness(
    tasks: Sequence[tuple[HarnessTask, Sequence[str]]],
    models: Sequence[tuple[str, Checkpoint]],
    *,
    limit: int | None = None,
    shots: int | None = None,
    chat: bool = False,
    device: str = "auto",
    max_tokens: int | None = None,
    extra_files: Mapping[str, str] | None = None,
) -> list[Tested]:
    """Each task on each model.

    Args:
        tasks: with their files: one, or none for those that bring their own questions.
        models: name and checkpoint.
        max_tokens: of what is written; None is what the task says.
        extra_files: of examples, by `TASK_dev`.

    Raises:
        UserError: when lm-eval is not installed, a task has more than one file, and as `evaluate_lm`.
    """
    if not harness_here():
        raise UserError(
            "this evaluation needs lm-eval, which is not installed",
            where=", ".join(task.name for task, _ in tasks),
            fix="pip install 'publius[eval]'",
        )
    lm: Any = importlib.import_module(_MODULE)
    given = dict(extra_files or {})
    for task, files in tasks:
        if len(files) > 1:
            raise UserError(f"{task.name} reads one file", where=", ".join(files), fix="name one with --file")
        if files:
            given[task.task] = files[0]
    found: list[Tested] = []
    for name, checkpoint in models:
        [result] = lm.evaluate_lm(
            [task.task for task, _ in tasks], [checkpoint], files=given, limit=limit, shots=shots,
            chat=chat, device=device, max_gen_toks=max_tokens,
        )  # fmt: skip
        found += [_tested(task, name, result) for task, _ in tasks]
    return found


def _tested(task: HarnessTask, model: str, result: Any) -> Tested:
    """One task's part of what lm-eval gave, its intervals made anew so that they know groups."""
    items = [item for item in result.items if item.task == task.task]
    readings = {
        name: _readings([item for item in items if name in item.values], name)
        for name in dict.fromkeys(name for item in items for name in item.values)
    }
    document: ReportDocument = result.document
    told = {f"{task.name}.{name}": _measure(one) for name, one in readings.items()}
    prefix = f"lm.{task.task}."
    for name, measure in document.metrics.items():
        if name.startswith(prefix):
            told.setdefault(f"{task.name}.{name.removeprefix(prefix)}", measure)
    update = {"prefix": task.name, "metrics": told, "config": {**document.config, "model": model}}
    return Tested(task.name, model, document.model_copy(update=update), readings, [])


def _readings(items: Sequence[Any], name: str) -> Readings:
    values = [float(item.values[name]) for item in items]
    clusters: list[object] = [item.group or item.id for item in items]
    return Readings(values, [1.0] * len(values), clusters, [str(item.id) for item in items], 0)


def _measure(found: Readings) -> Measure:
    if set(found.above) <= {0.0, 1.0}:
        return bounded(clustered_rate(found.above, found.clusters))
    return bounded(clustered_ratio(found.above, found.below, found.clusters))


def harness_result(task: HarnessTask, files: dict[str, str], tested: Sequence[Tested]) -> SuiteResult:
    """What one task says of all models."""
    mine = [t for t in tested if t.suite == task.name]
    readings = [r for t in mine[:1] for r in t.readings.values()]
    return SuiteResult(
        suite=task.name,
        about=task.about,
        n=max((len(r.ids) for r in readings), default=0),
        clusters=max((len(set(r.clusters)) for r in readings), default=0),
        files=files,
        reports=[t.document for t in mine],
        differences=join(mine, {}),
    )
