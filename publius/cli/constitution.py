"""Constitutions: read, check, show."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from publius.cli.base import app
from publius.constitution.principles import Constitution
from publius.core.console import console

__all__ = ["check", "show_constitution"]

constitution_app = typer.Typer(help="Read and check constitutions.", no_args_is_help=True)
app.add_typer(constitution_app, name="constitution")


@constitution_app.command()
def check(
    path: Annotated[str, typer.Argument(help="A YAML file, or `default` for the bundled one.")] = "default",
) -> None:
    """Read a constitution strictly and list what a careful editor would question."""
    loaded = Constitution.load(path)
    doubts = loaded.check()
    for doubt in doubts:
        print(doubt)
    console.print(
        f"{loaded.id} version {loaded.version}: {len(loaded.principles)} principles, {len(doubts)} doubts, "
        f"hash {loaded.hash[:12]}",
        markup=False,
    )


@constitution_app.command("show")
def show_constitution(
    path: Annotated[str, typer.Argument(help="A YAML file, or `default`.")] = "default",
) -> None:
    """Print the principles with their sources."""
    loaded = Constitution.load(path)
    table = Table(title=loaded.title, title_justify="left")
    for column in ("id", "category", "principle", "source"):
        table.add_column(column, overflow="fold")
    for principle in loaded.principles:
        table.add_row(principle.id, principle.category, principle.text, principle.source)
    Console(highlight=False).print(table)
