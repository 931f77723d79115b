"""A plan and a run as tables for the terminal; the page (`page`) is for a browser."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from publius.pipeline import Hardware, PlanRow, RunView
from publius.report.html import compact

__all__ = ["amount", "metric_table", "plan_table", "stage_table"]


def plan_table(name: str, rows: Sequence[PlanRow], hardware: Hardware) -> Table:
    """One row a stage: its state, what moved it, and what it would take on `hardware`."""
    table = Table(title=escape(f"plan: {name}"), title_justify="left")
    for column in ("stage", "state", "moved by", "params", "tokens", "FLOPs", "hours", "kWh", "$"):
        table.add_column(column, overflow="fold", no_wrap=column != "moved by", min_width=5)
    for planned in rows:
        moved = escape("; ".join(planned.changed))
        spent = planned.cost(hardware)
        costs = ("", "", "") if spent is None else tuple(f"{value:.3g}" for value in spent)
        numbers = (amount(planned.predicted.get(key)) for key in ("params", "tokens", "flops"))
        table.add_row(planned.stage, planned.state, moved, *numbers, *costs)
    return table


def stage_table(view: RunView) -> Table:
    """One row a stage: what it made and what that took."""
    table = Table(title=escape(f"run {view.name} (recipe {view.recipe})"), title_justify="left")
    for column in ("stage", "state", "wall s", "tokens", "FLOPs", "artifact"):
        justify = "right" if column in ("wall s", "tokens", "FLOPs") else "left"
        table.add_column(column, justify=justify, overflow="fold")  # a name cut short leads to no folder
    for stage in view.stages:
        record = stage.record
        numbers = (
            ("", "", "")
            if record is None
            else (
                f"{record.wall_seconds:.1f}",
                amount(record.tokens or None),
                amount(record.flops or None),
            )
        )
        table.add_row(stage.name, stage.state, *numbers, stage.artifact)
    return table


def metric_table(view: RunView, everything: bool) -> Table:
    """Measured numbers with n and interval: those the recipe publishes, or `everything`."""
    table = Table(title="measured (95% intervals)", title_justify="left")
    for column in ("metric", "value", "n", "interval"):
        justify = "left" if column in ("metric", "interval") else "right"
        table.add_column(column, justify=justify, overflow="fold")
    published = [name for name in ("wall_minutes", *view.published) if name in view.metrics]
    for name in sorted(view.metrics) if everything or not view.published else published:
        metric = view.metrics[name]
        rounds = metric if isinstance(metric, list) else [metric]
        for index, each in enumerate(rounds, 1):
            label = f"{name} ({index} of {len(rounds)})" if isinstance(metric, list) else name
            ends = each["low"], each["high"]  # one without an end is no interval
            interval = "" if None in ends else f"{ends[0]:.4g} to {ends[1]:.4g}"
            value = "n/a" if each["value"] is None else f"{each['value']:.4g}"
            table.add_row(escape(label), value, "" if each["n"] is None else str(each["n"]), interval)
    return table


def amount(value: float | str | None) -> str:
    """A number to three digits with its unit (k, M, B, T); notes as they are, nothing for None."""
    if value is None or isinstance(value, str):
        return value or ""
    told = compact(value)
    return f"{value:.2e}" if "e+" in told else told
