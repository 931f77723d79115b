"""Recipes and their runs: run, plan, show, report, clean."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from publius.cli.base import (
    AsJson,
    Home,
    RecipeName,
    RunName,
    Settings,
    Until,
    app,
    print_json,
    print_table,
)
from publius.core.console import console
from publius.core.errors import UserError
from publius.model.config import ModelConfig
from publius.pipeline import (
    HARDWARE,
    Cluster,
    Hardware,
    PlanRow,
    clean_home,
    cluster_named,
    hardware_named,
    list_runs,
    load_recipe,
    parse_settings,
    plan_recipe,
    plan_totals,
    run_recipe,
    show_run,
)
from publius.pipeline.job import load_reference
from publius.report import write_report
from publius.report.terminal import metric_table, plan_table, stage_table
from publius.training.calibrate import Calibration, calibrate
from publius.training.distributed.layout import in_job
from publius.training.plan import TrainingPlan, plan_training, read_model, tier_shape
from publius.training.scaling import read_amount

__all__ = ["clean", "plan", "report", "run", "show"]

_MOST_TOKENS = 1e24
"""Beyond all that was ever written, and within what arithmetic holds."""


@app.command()
def run(
    recipe: RecipeName,
    name: RunName = None,
    settings: Settings = None,
    until: Until = None,
    jobs: Annotated[int | None, typer.Option("--jobs", help="Independent stages at once.")] = None,
    nproc: Annotated[
        int | None, typer.Option("--nproc", help="Processes of this machine that train together.")
    ] = None,
    home: Home = Path(),
    as_json: AsJson = False,
) -> None:
    """Run a recipe: make what does not exist yet, go on with what was stopped."""
    if nproc is not None and nproc != 1:
        if in_job():
            raise UserError("this is already one of several processes", where="--nproc", fix="leave it out")
        options = {"--name": name, "--until": until, "--jobs": jobs, "--home": home}
        given = [part for flag, value in options.items() if value is not None for part in (flag, str(value))]
        given += [part for setting in settings or [] for part in ("--set", setting)]
        sys.exit(
            _distributed("launch", "launch")(nproc, ["run", recipe, *given, *(["--json"] if as_json else [])])
        )
    member = _distributed("job", "Member").join() if in_job() else None
    if member is not None and member.rank:
        sys.exit(member.serve())
    wired = load_recipe(recipe, parse_settings(settings or []))
    run_name = name or wired.name
    together = None if member is None else member.together
    run_recipe(wired, run_name, home, until=until, jobs=jobs, together=together)
    if member is not None:
        member.dismiss()
    page = write_report(home, run_name)
    if as_json:
        print_json(show_run(run_name, home).as_dict())
    else:
        told = f"done. numbers: publius show {run_name}   report: {page}"
        console.print(told, markup=False, soft_wrap=True)  # a path that is broken in two leads nowhere
        console.print(f"to chat: publius chat {run_name}", markup=False, soft_wrap=True)


def _distributed(module: str, name: str) -> Any:
    """Loaded by name: only a job of several processes should pay for its import."""
    return load_reference({"module": f"publius.training.distributed.{module}", "name": name, "file": None})


@app.command()
def plan(
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE", help="A built-in recipe, or file.py:function.")
    ] = None,
    name: RunName = None,
    settings: Settings = None,
    until: Until = None,
    hardware: Annotated[
        str, typer.Option("--hardware", help=f"For a recipe: {', '.join(HARDWARE)}.")
    ] = "cpu",
    tier: Annotated[str | None, typer.Option("--tier", help="A model instead: haiku, sonnet, opus.")] = None,
    scale: Annotated[str, typer.Option("--scale", help="pocket, laptop, one_gpu, cluster.")] = "cluster",
    model: Annotated[
        Path | None, typer.Option("--model", help="A model instead: a checkpoint folder or config.json.")
    ] = None,
    tokens: Annotated[
        str | None, typer.Option("--tokens", help="15T, 600B, 4.1M (default: 20 a weight).")
    ] = None,
    cluster: Annotated[str, typer.Option("--cluster", help="Devices and kind: 16384xh100.")] = "8xh100",
    seq: Annotated[int | None, typer.Option("--seq", help="Tokens in a row.")] = None,
    mfu: Annotated[float | None, typer.Option("--mfu", help="Share of peak (default: the table's).")] = None,
    vocab: Annotated[int | None, typer.Option("--vocab", help="Vocabulary of a --tier.")] = None,
    measure: Annotated[bool, typer.Option("--calibrate", help="Time this CPU, and plan cpu by it.")] = False,
    home: Home = Path(),
    as_json: AsJson = False,
) -> None:
    """Say what `run` would do, why, and what it would take; or what training one model would.

    Nothing is computed or written, but for the few seconds of steps that --calibrate times.
    """
    of_model = {"--tokens": tokens, "--seq": seq, "--mfu": mfu, "--vocab": vocab}
    of_model |= {"--scale": _unless(scale, "cluster"), "--cluster": _unless(cluster, "8xh100")}
    of_recipe = {"--name": name, "--set": settings or None, "--until": until}
    of_recipe |= {"--hardware": _unless(hardware, "cpu")}
    if recipe is None:
        _misplaced("a model", "a recipe", of_recipe)
        shape = _planned_shape(tier, scale, model, vocab)
        if shape is None and not measure:
            fix = "name a recipe, or a --tier or a --model"
            raise UserError("nothing to plan", where="publius plan", fix=fix)
        if shape is None:
            _unheeded(of_model, "name what to plan: a --tier or a --model")
        measured = calibrate(shape) if measure else None
        planned = None
        if shape is not None:
            size = None if tokens is None else _amount(tokens)
            machine, source = _machine(cluster, measured)
            planned = plan_training(shape, size, machine, sequence_length=seq, mfu=mfu, mfu_source=source)
        _print_model_plan(planned, measured, as_json)
        return
    if tier is not None or model is not None:
        raise UserError("a recipe and a model to plan", where="publius plan", fix="give one of them")
    _misplaced("a recipe", "a model", of_model)
    row = hardware_named(hardware)
    if measure and row.name != "cpu":
        _unheeded({"--calibrate": measure}, "plan for this CPU: --hardware cpu")
    wired = load_recipe(recipe, parse_settings(settings or []))
    rows = plan_recipe(wired, home, name=name, until=until)
    _print_recipe_plan(wired.name, rows, row, calibrate() if measure else None, as_json)


def _unless(value: str, usual: str) -> str | None:
    """None for a default, which nobody asked for."""
    return None if value == usual else value


def _misplaced(planned: str, other: str, options: dict[str, Any]) -> None:
    """An option that the plan would not heed must not seem to count."""
    for flag, value in options.items():
        if value is not None:
            raise UserError(
                f"{flag} is for planning {other}, not {planned}",
                where="publius plan",
                fix="leave it out"
                if other == "a recipe"
                else "leave it out; what a recipe takes is given by --set",
            )


def _amount(text: str) -> float:
    amount = read_amount(text)
    if not amount < _MOST_TOKENS:
        raise UserError(f"{text} tokens are too many", where="--tokens", fix="write it as 15T, 600B or 4.1M")
    return amount


def _machine(cluster: str, measured: Calibration | None) -> tuple[Cluster, str]:
    """The machines named, and who says how fast they are: of this CPU a measurement, where there is one."""
    named = cluster_named(cluster)
    if measured is None or named.hardware.name != "cpu":
        return named, ""
    return named._replace(hardware=measured.hardware()), "measured on this machine"


def _planned_shape(tier: str | None, scale: str, model: Path | None, vocab: int | None) -> ModelConfig | None:
    if tier is not None and model is not None:
        raise UserError("a --tier and a --model to plan", where="publius plan", fix="give one of them")
    if tier is None:  # those two make a tier's shape
        _unheeded({"--scale": _unless(scale, "cluster"), "--vocab": vocab}, "give it with --tier")
    if model is not None:
        return read_model(model)
    return None if tier is None else tier_shape(tier, scale, vocab)


def _unheeded(options: dict[str, Any], fix: str) -> None:
    """An option that counts for nothing here must not seem to count."""
    for flag, value in options.items():
        if value is not None:
            told = f"{flag} changes nothing here"
            raise UserError(told, where="publius plan", fix=f"leave it out, or {fix}")


def _print_model_plan(planned: TrainingPlan | None, measured: Calibration | None, as_json: bool) -> None:
    if as_json:
        shown = {} if planned is None else planned.as_dict()
        print_json(shown | ({} if measured is None else {"calibration": measured._asdict()}))
        return
    for part in (measured, planned):
        if part is not None:
            print(part.text())


def _print_recipe_plan(
    name: str, rows: list[PlanRow], row: Hardware, measured: Calibration | None, as_json: bool
) -> None:
    row = row if measured is None else measured.hardware()
    total = plan_totals(rows, row)
    if as_json:
        shown = {
            "hardware": row._asdict(),
            "stages": [r.as_dict(row) for r in rows],
            "totals": total._asdict(),
        }
        print_json(shown | ({} if measured is None else {"calibration": measured._asdict()}))
        return
    if measured is not None:
        print(measured.text())
    left = [planned for planned in rows if planned.state != "cached"]
    known = sum(planned.cost(row) is not None for planned in left)
    print_table(plan_table(name, rows, row), whole=True)
    # most stages cannot tell: without this the sum would be taken for that of the run
    part = "" if known == len(left) else f", for {known} of {len(left)} stages: the others cannot tell"
    print(f"to run, on {row.name}: {total.hours:.3g} h, {total.kwh:.3g} kWh, ${total.dollars:.3g}{part}")
    print(f"assumed: {row.flops:.3g} FLOP/s, {row.watts:.0f} W, ${row.dollars_per_hour:.2f}/h")


@app.command()
def show(
    name: Annotated[str | None, typer.Argument(metavar="RUN", help="A run (without: list the runs).")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every metric, not only those the recipe publishes.")
    ] = False,
    home: Home = Path(),
    as_json: AsJson = False,
) -> None:
    """Show a run: its stages and what was measured."""
    if name is None:
        names = list_runs(home)
        if as_json:
            print_json({"runs": names})
        else:
            print("\n".join(names) if names else "no runs yet: start one with `publius run quickstart`")
        return
    view = show_run(name, home)
    if as_json:
        print_json(view.as_dict())
    else:
        print_table(stage_table(view))
        print_table(metric_table(view, everything))


@app.command()
def clean(
    run_name: Annotated[
        str | None, typer.Option("--run", help="Forget this run and what it alone holds.")
    ] = None,
    older_than: Annotated[
        float | None, typer.Option("--older-than", metavar="DAYS", help="Spare newer.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    home: Home = Path(),
) -> None:
    """Delete artifacts that no run points at, and unfinished ones that nobody is working on."""
    removed = clean_home(home, run=run_name, older_than=older_than, dry_run=dry_run)
    for item in removed:
        print(f"{item.path.name}  {item.bytes / 1e6:.1f} MB")
    verb = "would free" if dry_run else "freed"
    console.print(
        f"{verb} {sum(item.bytes for item in removed) / 1e6:.1f} MB in {len(removed)} folders", markup=False
    )


@app.command()
def report(name: Annotated[str, typer.Argument(metavar="RUN")], home: Home = Path()) -> None:
    """Write a run's report, one self-contained HTML page, and print where it is."""
    print(write_report(home, name))
