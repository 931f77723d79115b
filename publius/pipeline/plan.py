"""`publius plan`: what would run, why, and what it would take. Nothing is computed or written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from publius.pipeline.artifact import read_record
from publius.pipeline.hardware import Cost, Hardware, cost
from publius.pipeline.identity import Identity, changes, identify
from publius.pipeline.names import check_run_name
from publius.pipeline.recipe import Recipe
from publius.pipeline.store import Store

__all__ = ["PlanRow", "plan_recipe", "plan_totals"]


class PlanRow(NamedTuple):
    """One stage of a plan.

    Attributes:
        state: `cached` (exists), `resume` (was stopped half way), or `run`.
        changed: what moved its identity since the artifact the run's alias points at.
        predicted: what the stage expects of this config: `params`, `tokens`, `flops`, or notes.
    """

    stage: str
    state: Literal["cached", "run", "resume"]
    id: str
    changed: list[str]
    predicted: Mapping[str, float | str]

    def cost(self, hardware: Hardware) -> Cost | None:
        """Time, energy and money on `hardware`; None without a prediction of FLOPs."""
        flops = self.predicted.get("flops")
        return cost(float(flops), hardware) if isinstance(flops, (int, float)) else None

    def as_dict(self, hardware: Hardware) -> dict[str, Any]:
        """For `--json`."""
        spent = self.cost(hardware)
        return {
            "stage": self.stage,
            "state": self.state,
            "id": self.id,
            "changed": self.changed,
            "predicted": dict(self.predicted),
            "cost": None if spent is None else spent._asdict(),
        }


def plan_recipe(
    recipe: Recipe, home: Path, *, name: str | None = None, until: str | None = None
) -> list[PlanRow]:
    """A row for each stage, in order. `name` is the run compared with (default: the recipe's name).

    Raises:
        UserError: for a name that no run can have, and an unknown stage `until`.
    """
    check_run_name(name or recipe.name)
    store = Store(home)
    return [_row(identity, store, name or recipe.name) for identity in identify(recipe, until)]


def _row(identity: Identity, store: Store, run: str) -> PlanRow:
    node = identity.node
    state: Literal["cached", "run", "resume"] = "run"
    if store.final(identity.folder).exists():
        state = "cached"
    elif any((store.partial(identity.folder) / "resume").glob("[0-9]*")):
        state = "resume"
    predicted = dict(node.stage.predict(node.config)) if node.stage.predict else {}
    return PlanRow(node.name, state, identity.id, _moved(identity, store, run), predicted)


def _moved(identity: Identity, store: Store, run: str) -> list[str]:
    before = store.aliased(run, identity.node.name)
    if before is None or before == identity.folder:
        return []
    folder = store.final(before)
    return changes(identity, read_record(folder)) if folder.exists() else []


def plan_totals(rows: list[PlanRow], hardware: Hardware) -> Cost:
    """The sum over the stages that would run and can predict their FLOPs."""
    costs = [spent for row in rows if row.state != "cached" and (spent := row.cost(hardware)) is not None]
    return Cost(sum(c.hours for c in costs), sum(c.kwh for c in costs), sum(c.dollars for c in costs))
