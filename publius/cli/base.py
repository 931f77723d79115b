"""The Typer app, its shared options, and how it ends."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from publius import __version__
from publius.core.console import console
from publius.core.errors import UserError
from publius.pipeline import StageCrash, Stopped

__all__ = ["AsJson", "Home", "RecipeName", "RunName", "Settings", "Until", "app", "main", "print_json"]

app = typer.Typer(
    name="publius",
    help="Build a Claude-style assistant, end to end, from your text and your constitution.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Home = Annotated[Path, typer.Option("--home", envvar="PUBLIUS_HOME", help="Where artifacts/ and runs/ lie.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A recipe parameter (seed=1) or a field (sft.steps=50)."),
]
Until = Annotated[
    str | None, typer.Option("--until", metavar="STAGE", help="This stage and what it needs only.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and nothing else there.")]
RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A built-in recipe, or file.py:function.")]
RunName = Annotated[str | None, typer.Option("--name", help="The run's name (default: the recipe's).")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exits with 0 (after SIGTERM too), 2 for a user's error, 130 when interrupted."""
    try:
        app(None if arguments is None else list(arguments))
    except UserError as error:
        console.print(f"error: {error}", markup=False, soft_wrap=True)
        sys.exit(2)
    except StageCrash as error:
        console.print(str(error), markup=False, soft_wrap=True)
        sys.exit(1)
    except Stopped:
        console.print("stopped as asked; the same command goes on from here", markup=False)
        sys.exit(0)
    except KeyboardInterrupt:
        console.print("stopped", markup=False)
        sys.exit(130)


def print_json(value: Any) -> None:
    """For programs: on stdout, and nothing else there."""
    print(json.dumps(value, indent=2, allow_nan=False))


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def publius(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """Build a Claude-style assistant, end to end, from your text and your constitution."""
