"""The Typer app, its shared options, and how it ends."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from publius import __version__
from publius.core.console import console
from publius.core.errors import UserError
from publius.pipeline import StageCrash, Stopped
from publius.pipeline.store import as_user_error

__all__ = [
    "AsJson",
    "Home",
    "RecipeName",
    "RunName",
    "Settings",
    "Until",
    "app",
    "main",
    "print_json",
    "print_table",
]

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
        try:
            app(None if arguments is None else list(arguments))
        finally:
            if sys.stdout is not None:  # as after `>&-`
                sys.stdout.flush()  # now, while an error of it can still be told
    except UserError as error:
        _refuse(error)
    except OSError as error:
        if _output_is_lost() and isinstance(error, BrokenPipeError):  # a reader has seen enough, as `head`
            sys.exit(1)
        _refuse(_mended(error, sys.argv[1:] if arguments is None else arguments))
    except StageCrash as error:
        console.print(str(error), markup=False, soft_wrap=True)
        sys.exit(1)
    except Stopped:
        console.print("stopped as asked; the same command goes on from here", markup=False)
        sys.exit(0)
    except KeyboardInterrupt:
        console.print("stopped", markup=False)
        sys.exit(130)


def _refuse(error: UserError) -> NoReturn:
    with suppress(OSError):  # standard error may be full as well
        console.print(f"error: {error}", markup=False, soft_wrap=True)
    sys.exit(2)


def _output_is_lost() -> bool:
    """Whether standard output takes no more; what is left for it is then let go."""
    if sys.stdout is None:
        return False
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        return True
    return False


def _mended(error: OSError, arguments: Sequence[str]) -> UserError:
    """What the system refused, and no verb foresaw, as a user's error."""
    where = ", ".join([" ".join(["publius", *arguments[:1]]), *getattr(error, "__notes__", ())])
    what = error.strerror or str(error) or type(error).__name__
    if error.filename is None:  # no file: a connection, a device, or what its output is sent to
        where += ", or where its output goes"
    else:
        what = f"cannot use {error.filename}: {what}"
    return as_user_error(error, where) or UserError(what, where=where, fix="check the path, and try again")


def print_json(value: Any) -> None:
    """For programs: on stdout, and nothing else there."""
    print(json.dumps(value, indent=2, allow_nan=False))


_WIDEST = 200
"""Characters of a table that no terminal holds in bounds."""


def print_table(table: Table, *, whole: bool = False) -> None:
    """For people, on stdout: where that is no terminal, as wide as the table would be.

    Args:
        whole: never narrower than its words and numbers; a table that cuts them would say other things.
    """
    out = Console(highlight=False)
    wanted = Measurement.get(out, out.options.update(width=10 * _WIDEST), table)
    least = wanted.minimum if whole or not out.is_terminal else 0
    room = out.width if out.is_terminal else min(wanted.maximum, _WIDEST)
    out.width = max(out.width, least, room)
    out.print(table)


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
