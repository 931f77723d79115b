"""`publius show`: the stages of a run and every number they measured."""

from __future__ import annotations

import math
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from publius.core.errors import UserError
from publius.pipeline.artifact import Record, read_record
from publius.pipeline.books import Wired, Wiring, read_executions, read_wiring
from publius.pipeline.names import did_you_mean
from publius.pipeline.store import Store

__all__ = ["RunView", "StageView", "list_runs", "show_run"]


class StageView(NamedTuple):
    """One stage of a run. `state` is `outdated` when the alias still points at an older identity."""

    name: str
    state: Literal["done", "outdated", "missing"]
    artifact: str
    path: Path
    record: Record | None

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        values: dict[str, Any] = {"name": self.name, "state": self.state, "artifact": self.artifact}
        if self.record is not None:
            names = ("wall_seconds", "tokens", "flops", "energy_kwh", "hardware", "finished")
            values |= {key: getattr(self.record, key) for key in names}
        return values


class RunView(NamedTuple):
    """A run as it stands.

    Attributes:
        metrics: name -> `{"value", "n", "low", "high"}` or a list of such; only of stages that are `done`.
        published: the names the recipe publishes, in its order.
    """

    name: str
    recipe: str
    settings: dict[str, str]
    stages: list[StageView]
    metrics: dict[str, Any]
    published: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For `--json`: `{"metrics": {...}, "stages": [...], ...}`."""
        return {
            "run": self.name,
            "recipe": self.recipe,
            "settings": self.settings,
            "metrics": self.metrics,
            "stages": [stage.as_dict() for stage in self.stages],
        }


def list_runs(home: Path) -> list[str]:
    """Names of the runs under `home`."""
    return Store(home).run_names()


def show_run(name: str, home: Path) -> RunView:
    """Collect run `name`.

    A metric is shown under its own name when that holds a dot or is its stage's name, else as
    `<stage>.<name>`; a name that two stages record, or that is also the name of another number, is shown
    once for each, as `<stage>.<name>`.
    Names the recipe publishes come on top. `wall_minutes` is the measured time of the last
    execution that made every stage itself, else the time in which any stage was being made.

    Raises:
        UserError: for an unknown run, with a suggestion; for one whose records are damaged.
    """
    store = Store(home)
    if not store.has_run(name):
        fix = (
            did_you_mean(name, store.run_names())
            if store.run_names()
            else "start one with `publius run quickstart`"
        )
        raise UserError(f"there is no run {name!r}", where=str(store.runs), fix=fix)
    recipe = read_wiring(store.run(name) / "recipe.json")
    stages = [_view(store, name, entry) for entry in recipe.stages]
    metrics = _metrics(recipe, stages)
    metrics.update(_published(recipe, stages))
    minutes = _wall_minutes(store, name, stages)
    if minutes is not None:
        metrics["wall_minutes"] = _full({"value": minutes})
    return RunView(name, recipe.recipe, recipe.settings, stages, metrics, tuple(recipe.published))


def _view(store: Store, run: str, entry: Wired) -> StageView:
    wanted = entry.artifact
    present = store.aliased(run, entry.name)
    folder = store.final(present or wanted)
    if present is None or not folder.exists():
        return StageView(entry.name, "missing", wanted, store.final(wanted), None)
    state = "done" if present == wanted else "outdated"
    return StageView(entry.name, state, present, folder, read_record(folder))


def _full(metric: Any) -> Any:
    if isinstance(metric, list):
        return [_full(item) for item in metric]
    return {key: metric.get(key) for key in ("value", "n", "low", "high")}


def _metrics(recipe: Wiring, stages: list[StageView]) -> dict[str, Any]:
    found = [
        (stage.name, metric, value)
        for stage in stages
        if stage.state == "done" and stage.record is not None
        for metric, value in stage.record.metrics.items()
    ]
    counts = Counter(metric for _, metric, _ in found)
    own = {(s, m) for s, m, _ in found if m == s or ("." in m and counts[m] == 1)}
    # b.c of one stage and c of stage b would be one name; so would what the recipe publishes of another
    taken = {f"{s}.{m}" for s, m, _ in found if (s, m) not in own}
    shown: dict[str, Any] = {}
    for stage, metric, value in found:
        entry = recipe.published.get(metric)
        published = entry is not None and (entry.metric != metric or stage not in entry.stages)
        plain = (stage, metric) in own and metric not in taken and not published
        shown[metric if plain else f"{stage}.{metric}"] = _full(value)
    return shown


def _published(recipe: Wiring, stages: list[StageView]) -> dict[str, Any]:
    records = {
        stage.name: stage.record for stage in stages if stage.state == "done" and stage.record is not None
    }
    shown: dict[str, Any] = {}
    for name, entry in recipe.published.items():
        values = [
            records[s].metrics[entry.metric]
            for s in entry.stages
            if s in records and entry.metric in records[s].metrics
        ]
        if values:
            shown[name] = _full(values if entry.many else values[0])
    return shown


def _wall_minutes(store: Store, name: str, stages: list[StageView]) -> float | None:
    wanted = {stage.name: stage.artifact for stage in stages if stage.state == "done"}
    executions, _ = read_executions(store.run(name) / "run.json")
    for execution in reversed(executions):
        made = {key: value.artifact for key, value in execution.stages.items() if value.outcome == "ran"}
        if execution.finished and made == wanted and len(made) == len(stages):
            return execution.wall_seconds / 60
    spans = [
        (_seconds(stage.record.finished) - stage.record.wall_seconds, _seconds(stage.record.finished))
        for stage in stages
        if stage.state == "done" and stage.record is not None
    ]
    return _covered(spans) / 60 if spans else None


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def _covered(spans: list[tuple[float, float]]) -> float:
    """Seconds that lie in at least one of the spans (start, end): stages run side by side."""
    total, reached = 0.0, -math.inf
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
