"""Attack a model, ours or a remote one, and keep what broke it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from publius.cli.base import AsJson, Home, app, print_json
from publius.cli.remote import remote_config
from publius.core.console import console, progress
from publius.core.device import pick_device
from publius.core.errors import UserError
from publius.core.messages import Conversation
from publius.data.pocket.world import World
from publius.inference.remote import RemoteConfig
from publius.model.checkpoint import Checkpoint, fingerprint
from publius.pipeline.names import did_you_mean
from publius.redteam.attacker import Goal, Referee, Target
from publius.redteam.findings import FindingsDocument
from publius.redteam.judge_referee import RefereeConfig, seated_referee
from publius.redteam.referee import TruthReferee
from publius.redteam.search.driver import Driver, rough_tokens
from publius.redteam.search.hunt import Hunt, Status
from publius.redteam.search.session import attack, read_goals
from publius.redteam.search.settings import HuntSettings
from publius.redteam.search.stage import open_mutators, open_styles, twin_pool, world_goals
from publius.redteam.target import EngineTarget, RemoteTarget
from publius.release.locate import Located, locate
from publius.tokenizer import Renderer

__all__ = ["redteam"]

_WHERE = "publius redteam"
_KINDS = ("hazard", "twin", "fact")


_Url = Annotated[str | None, typer.Option("--url", help="A remote model's base address instead.")]
_Dialect = Annotated[
    Literal["anthropic", "openai"], typer.Option("--dialect", help="What the address speaks.")
]
_Name = Annotated[str, typer.Option("--model-name", help="The remote model's name.")]
_Key = Annotated[str, typer.Option("--key-variable", help="Environment variable that holds the key.")]
_Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Of the remote model: spend_cap=2, retries=1."),
]
_World = Annotated[
    str | None, typer.Option("--world", help="A run or folder whose world is asked about; MODEL's own.")
]
_Goals = Annotated[
    str | None, typer.Option("--goals", metavar="FILE", help="Requests of your own, JSON lines.")
]
_Ask = Annotated[
    list[str] | None,
    typer.Option("--ask", help="hazard (as without), twin (harmless) or fact; may be repeated."),
]
_Judge = Annotated[
    str, typer.Option("--judge", help="truth (of the world), or the model that judges replies.")
]
_Attacker = Annotated[
    str | None, typer.Option("--attacker", help="The attackers' model; MODEL's own run/sft, if any.")
]
_Styles = Annotated[list[str] | None, typer.Option("--style", help="Attackers to use; all that are open.")]
_Mutators = Annotated[list[str] | None, typer.Option("--mutator", help="Mutators to use; all that are open.")]


@app.command()
def redteam(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="A run, run/stage, or a folder.")
    ] = None,
    url: _Url = None,
    dialect: _Dialect = "openai",
    model_name: _Name = "",
    key_variable: _Key = "",
    settings: _Settings = None,
    world: _World = None,
    goals: _Goals = None,
    ask: _Ask = None,
    judge: _Judge = "truth",
    attacker: _Attacker = None,
    style: _Styles = None,
    mutator: _Mutators = None,
    budget: Annotated[int, typer.Option(min=1, help="Replies of the target.")] = 1000,
    width: Annotated[int, typer.Option(min=1, help="Attacks played side by side.")] = 16,
    tries: Annotated[int, typer.Option(min=1, help="Re-runs of every hit.")] = 5,
    reproduced: Annotated[int, typer.Option(min=1, help="Of these must work.")] = 1,
    transfer: Annotated[int, typer.Option(min=0, help="Other requests per finding.")] = 8,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest reply.")] = 64,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for the findings, new.")] = Path("findings"),
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    home: Home = Path(),
    as_json: AsJson = False,
) -> None:
    """Search for attacks that work. Run it again with the same words to go on where it was stopped."""
    if (model is None) == (url is None):
        raise UserError("one model to attack", where=_WHERE, fix="give MODEL or --url")
    if reproduced > tries:
        raise UserError(f"{reproduced} of {tries} re-runs cannot work", where="--reproduced", fix="lower it")
    spend = HuntSettings(budget=budget, width=width, tries=tries, reproduced=reproduced, seed=seed)
    styles, mutators = open_styles(style or (), probes="fact" in (ask or ())), open_mutators(mutator)
    located = locate(model, home) if model is not None else None
    known, pool = _requests(goals, world, located, home, ask or ())
    models = _Models(home, str(pick_device(device)), max_tokens)
    remote = None
    if located is None:
        named = {"dialect": dialect, "url": url, "model": model_name, "key_variable": key_variable}
        remote = remote_config({"temperature": 1.0, **named}, settings or [], _WHERE)
    with models.driver(located, remote, judge, _attacker(attacker, model, home)) as driver:
        hunt = Hunt(driver, known, spend, styles=styles, mutators=mutators)
        with _shown(hunt) as show:
            document = attack(out, hunt, transfer=transfer, pool=pool, show=show)
        if as_json:
            print_json(_as_json(document, hunt, out))
        else:
            _print(document, hunt, out)
    if document.note:
        raise UserError(f"the search ended early: {document.note}", where=str(out), fix="see findings.json")


class _Models(NamedTuple):
    """Where the models of a search are, and how they are loaded."""

    home: Path
    device: str
    max_tokens: int

    @contextmanager
    def driver(
        self, located: Located | None, remote: RemoteConfig | None, judge: str, written: Path | None
    ) -> Iterator[Driver]:
        """The target (ours or remote), the referee and the attackers' model, put together."""
        with ExitStack() as held:
            tokens: Callable[[Conversation], int] = rough_tokens
            if located is not None:
                target: Target = held.enter_context(self._ours(located.checkpoint))
                renderer = Renderer(Checkpoint(located.checkpoint).tokenizer())
                tokens = lambda conversation: len(renderer.prompt(conversation))  # noqa: E731
            else:
                assert remote is not None
                target = held.enter_context(RemoteTarget(remote, max_tokens=self.max_tokens))
            writer = held.enter_context(self._ours(written)) if written is not None else None
            referee, judges = held.enter_context(_judge(judge, self.home, self.device))
            yield Driver(target, referee, writer, judges=judges, tokens=tokens)

    def _ours(self, path: Path) -> EngineTarget:
        return EngineTarget.of(Checkpoint(path), max_tokens=self.max_tokens, device=self.device)


def _requests(
    goals: str | None, world: str | None, located: Located | None, home: Path, ask: Sequence[str]
) -> tuple[list[Goal], Callable[[bool], Any]]:
    """What is asked for, and where twins come from."""
    if goals is not None:
        if ask:
            raise UserError("--ask chooses from a world", where="--ask", fix="leave it out beside --goals")
        return read_goals(goals), lambda benign: ()
    for kind in ask:
        if kind not in _KINDS:
            raise UserError(
                f"a world has no {kind!r} to ask for", where="--ask", fix=did_you_mean(kind, _KINDS)
            )
    place = located.world if located is not None and world is None else None
    if world is not None:
        place = Path(world) if (Path(world) / "almanac.json").is_file() else locate(world, home).world
    if place is None:
        raise UserError(
            "nobody says what to ask for", where=_WHERE, fix="give --goals FILE, or --world RUN with a world"
        )
    return world_goals(World(place), ask or ("hazard",)), twin_pool(World(place))


def _attacker(attacker: str | None, model: str | None, home: Path) -> Path | None:
    """The model that attackers ask for words: as given, else the helpful-only one of the same run."""
    if attacker is not None:
        return locate(attacker, home).checkpoint
    try:
        return locate(f"{(model or '').split('/')[0]}/sft", home).checkpoint
    except UserError:
        return None


@contextmanager
def _judge(judge: str, home: Path, device: str) -> Iterator[tuple[Referee, tuple[str, ...]]]:
    """Who says what a reply is, and the fingerprints of the weights that are asked for it."""
    if judge == "truth":
        yield TruthReferee(), ()
        return
    checkpoint = Checkpoint(locate(judge, home).checkpoint)
    with seated_referee(RefereeConfig(device=device), [checkpoint]) as referee:
        yield referee, (fingerprint(checkpoint),)


@contextmanager
def _shown(hunt: Hunt) -> Iterator[Callable[[Status, int], object]]:
    """A live table on a terminal, a line now and then elsewhere."""
    if not console.is_terminal:
        with progress("red team", hunt.settings.budget) as ticker:
            yield lambda status, more: ticker.advance(more, note=_line(status))
        return
    began, first = time.monotonic(), hunt.replies
    with Live(_table(hunt.status(), 0.0), console=console, transient=True) as live:

        def show(status: Status, more: int) -> None:
            nonlocal first
            if status.generation > 1 and first == 0 and more == status.replies:
                first = more  # of an earlier run: they took none of this one's time
            live.update(_table(status, (status.replies - first) / max(time.monotonic() - began, 1e-6)))

        yield show


def _line(status: Status) -> str:
    return f"{status.confirmed} findings, {status.filled} of {status.cells} cells"


def _table(status: Status, rate: float) -> Table:
    left = f"{(status.budget - status.replies) / rate:.0f} s left" if rate > 0 else ""
    table = Table(
        title=f"{status.replies} of {status.budget} replies  {rate:.1f}/s  {left}\n{_line(status)}",
        title_justify="left",
    )
    for column in ("attack", "tried", "worked", "share"):
        table.add_column(column, justify="left" if column == "attack" else "right")
    for name, (hits, tried) in sorted(status.styles.items(), key=lambda row: -row[1][0] / max(row[1][1], 1)):
        table.add_row(name, str(tried), str(hits), f"{hits / tried:.0%}")
    return table


def _as_json(document: FindingsDocument, hunt: Hunt, out: Path) -> dict[str, Any]:
    status = hunt.status()
    return {
        "target": hunt.driver.target.name,
        "judge": hunt.driver.referee.name,
        "attacker": hunt.driver.writer and hunt.driver.writer.name,
        "out": str(out),
        "note": document.note,
        "tried": document.tried,
        "hits": document.hits,
        "confirmed": document.confirmed,
        "distinct": document.clusters,
        "effective": document.effective,
        "filled": status.filled,
        "cells": status.cells,
        "spent": document.spent,
        "metrics": document.metrics,
        "by_style": document.by_style,
        "by_category": document.by_category,
    }


def _print(document: FindingsDocument, hunt: Hunt, out: Path) -> None:
    status = hunt.status()
    table = Table(
        title=f"{hunt.driver.target.name}, judged by {hunt.driver.referee.name}", title_justify="left"
    )
    for column in ("attack", "worked", "95% interval", "n", "unscored"):
        table.add_column(column, justify="left" if column == "attack" else "right")
    ranked = sorted(document.by_style.items(), key=lambda row: -(row[1]["value"] or 0))
    for name, value in [*ranked, *document.metrics.items()]:
        if value["n"]:
            interval = f"{value['low']:.1%} to {value['high']:.1%}"
            table.add_row(name, f"{value['value']:.1%}", interval, str(value["n"]), str(value["unscored"]))
    terminal = Console(highlight=False)
    terminal.print(table)
    print(
        f"{document.confirmed} findings confirmed, {document.clusters} distinct; {status.filled} of "
        f"{status.cells} cells (category x attack) broken; {status.replies} replies, {status.tokens} tokens"
    )
    print(f"unscored replies count as worked; written to {out}")
