"""Evaluate any model, ours or a remote one, on a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from publius.cli.base import AsJson, Home, app, print_json
from publius.cli.remote import remote_config
from publius.constitution.styles import StyleName
from publius.core.console import console
from publius.core.device import pick_device
from publius.core.errors import UserError
from publius.core.stats import Estimate
from publius.evals.choice_report import ChoiceReport, score_choices
from publius.evals.choices import ChoiceScorer, EngineChoices, RemoteChoices, RewardChoices
from publius.evals.tasks.hhh import read_items
from publius.inference import Engine
from publius.inference.remote import RemoteModel
from publius.model.checkpoint import Checkpoint, RewardCheckpoint, is_reward
from publius.release.locate import locate
from publius.reward import RewardJudge

__all__ = ["eval_app", "hhh"]


class _Verbs(TyperGroup):
    """A first word that is no verb names a suite: `publius eval bbq ...` is `publius eval run bbq ...`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The verb, or `run` where the first word is none (an option is left for click to refuse)."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["run", *args]
        return super().resolve_command(ctx, args)


eval_app = typer.Typer(help="Evaluate models, ours or remote ones.", no_args_is_help=True, cls=_Verbs)
app.add_typer(eval_app, name="eval")

Dialect = Literal["anthropic", "openai"]


@eval_app.callback()
def _evaluate() -> None:
    """Evaluate models, ours or remote ones."""


@eval_app.command()
def hhh(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Questions or pairs: jsonl, json or parquet.")],
    model: Annotated[
        str | None, typer.Option("--model", help="A run, run/stage, or a folder; preference models, too.")
    ] = None,
    url: Annotated[str | None, typer.Option("--url", help="A remote model's base address instead.")] = None,
    dialect: Annotated[Dialect, typer.Option("--dialect", help="What the address speaks.")] = "openai",
    model_name: Annotated[str, typer.Option("--model-name", help="The remote model's name.")] = "",
    key_variable: Annotated[
        str, typer.Option("--key-variable", help="Environment variable that holds the key.")
    ] = "",
    style: Annotated[
        StyleName, typer.Option("--style", help="Our model: raw continues the text, chat asks it.")
    ] = "raw",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Of the remote model: spend_cap=2, on_error=skip."),
    ] = None,
    thought_tokens: Annotated[
        int, typer.Option("--thought-tokens", min=0, help="Think step by step first, so many tokens.")
    ] = 0,
    samples: Annotated[
        int, typer.Option("--samples", min=1, help="Thoughts, or remote answers, averaged.")
    ] = 1,
    limit: Annotated[int | None, typer.Option("--max", min=1, help="The first so many only.")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Count rows that are none, go on.")] = False,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    home: Home = Path(),
    as_json: AsJson = False,
) -> None:
    """Score multiple choice: which reply is more helpful, honest and harmless?

    FILE is in the published form, or holds pairs of replies (asked in both orders).
    """
    if (model is None) == (url is None):
        raise UserError("one model to evaluate", where="publius eval hhh", fix="give --model or --url")
    bad: list[UserError] = []
    items = read_items(file, bad.append if skip_bad else None)[:limit]
    if model is not None:
        scorer = _local(model, home, device, style=style, thought_tokens=thought_tokens, samples=samples)
        report, spent = score_choices(items, scorer), None
    else:
        named = {"dialect": dialect, "url": url, "model": model_name, "key_variable": key_variable}
        with RemoteModel(remote_config(named, settings or [], "publius eval hhh")) as remote:
            scorer = RemoteChoices(remote, thought_tokens=thought_tokens, samples=samples)
            report, spent = score_choices(items, scorer), remote.stats()._asdict()
    if as_json:
        extra: dict[str, Any] = {"bad_rows": len(bad)} | ({"remote": spent} if spent else {})
        print_json({"model": model or model_name, "file": file} | report.as_dict() | extra)
        return
    _print(report, model or model_name, file)
    if bad:
        console.print(f"{len(bad)} rows were no questions; the first: {bad[0]}", markup=False)
    if spent:
        print("remote: " + ", ".join(f"{value:g} {name}" for name, value in spent.items()))


def _local(model: str, home: Path, device: str, **how: Any) -> ChoiceScorer:
    where = str(pick_device(device))
    places = (Path(model), home / "runs" / model / "files")  # a stage's name may stand for a preference model
    folder = next((place for place in places if (place / "config.json").is_file()), None)
    if folder is not None and is_reward(folder):
        return RewardChoices(RewardJudge.from_checkpoint(RewardCheckpoint(folder), device=where))
    checkpoint = Checkpoint(folder or locate(model, home).checkpoint)
    tokenizer = checkpoint.tokenizer()
    return EngineChoices(Engine(checkpoint.load(device=where), tokenizer), tokenizer, **how)


def _print(report: ChoiceReport, model: str, file: str) -> None:
    table = Table(title=f"{model} on {file}: {report.n} questions", title_justify="left")
    for column in ("measure", "value", "95% interval", "n"):
        table.add_column(column, justify="left" if column == "measure" else "right")
    rows: list[tuple[str, Estimate]] = [
        ("accuracy", report.accuracy), ("calibration error (ECE)", report.ece),
        ("the longer wins (baseline)", report.longer), ("always the first (baseline)", report.first),
        ("orders disagree", report.inconsistency), ("probability on the options", report.mass),
    ]  # fmt: skip
    for name, e in rows:
        if e.n:
            table.add_row(name, f"{e.value:.3f}", f"{e.low:.3f} to {e.high:.3f}", str(e.n))
    for kind, count in report.unscored.items():
        if count:
            table.add_row(f"unscored, {kind} (counted wrong)", str(count), "", str(report.n))
    out = Console(highlight=False)
    out.print(table)
    bins = Table(title="said against so", title_justify="left")
    for column in ("confidence", "mean", "right", "95% interval", "n"):
        bins.add_column(column, justify="right")
    for b in report.calibration:
        edges, seen = f"{b.low:.2f} to {b.high:.2f}", f"{b.observed_low:.3f} to {b.observed_high:.3f}"
        bins.add_row(edges, f"{b.confidence:.3f}", f"{b.observed:.3f}", seen, str(b.n))
    out.print(bins)
