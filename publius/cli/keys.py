"""API keys of a server: make, list, revoke."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from sqlalchemy.exc import SQLAlchemyError

from publius.cli.base import AsJson, Home, app, print_json
from publius.core.console import console
from publius.core.errors import UserError
from publius.serve.store import SCOPES, Key, Limits, Store, default_url

__all__ = ["create", "list_keys", "revoke", "seconds_of"]

keys_app = typer.Typer(help="API keys of a server: make, list, revoke.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")

StoreUrl = Annotated[
    str, typer.Option("--store", envvar="PUBLIUS_STORE", help="URL of the store; the home's file by default.")
]
_UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


@keys_app.command()
def create(
    name: Annotated[str, typer.Option("--name", help="Whose or what it is for.")],
    scope: Annotated[
        list[str] | None, typer.Option("--scope", help=f"What it opens, of {', '.join(SCOPES)}.")
    ] = None,
    expires: Annotated[
        str | None, typer.Option("--expires", metavar="TIME", help="After so long: 90m, 12h, 30d, 8w.")
    ] = None,
    requests_per_minute: Annotated[int | None, typer.Option("--requests-per-minute", min=1)] = None,
    input_tokens_per_minute: Annotated[int | None, typer.Option("--input-tokens-per-minute", min=1)] = None,
    output_tokens_per_minute: Annotated[int | None, typer.Option("--output-tokens-per-minute", min=1)] = None,
    budget_tokens: Annotated[
        int | None, typer.Option("--budget-tokens", min=1, help="All tokens it may ever use.")
    ] = None,
    store: StoreUrl = "",
    home: Home = Path(),
    as_json: AsJson = False,
) -> None:
    """Make a key and print it: this once, for only its hash is kept. A server that runs takes it at once.

    Without --scope it opens `messages` and `batches`. Once there is a key, no server on this store is open.
    """
    now = time.time()
    until = None if expires is None else now + seconds_of(expires)
    limits = Limits(requests_per_minute, input_tokens_per_minute, output_tokens_per_minute, budget_tokens)
    with _opened(store, home) as opened:
        made = opened.keys.create(
            name, scopes=scope or ("messages", "batches"), expires=until, limits=limits, now=now
        )
    if as_json:
        print_json({**_told(made.key, now, 0), "key": made.secret})
    else:
        print(made.secret)
        console.print(
            f"{made.key.id} ({', '.join(sorted(made.key.scopes))}). Keep it: it is not shown again.",
            markup=False,
            soft_wrap=True,
        )


@keys_app.command("list")
def list_keys(store: StoreUrl = "", home: Home = Path(), as_json: AsJson = False) -> None:
    """List every key, revoked ones too, with what it has used."""
    now = time.time()
    with _opened(store, home) as opened:
        told = [_told(key, now, opened.usage.total(key.id).tokens) for key in opened.keys.all()]
    if as_json:
        print_json(told)
        return
    table = Table()
    for column in ("id", "name", "ends in", "scopes", "state", "expires", "tokens", "limits"):
        table.add_column(column, overflow="fold")
    for key in told:
        limits = [f"{limit.replace('_', ' ')} {value:,}" for limit, value in key["limits"].items() if value]
        table.add_row(
            key["id"], key["name"], key["ends_in"], ", ".join(key["scopes"]), key["state"],
            key["expires"] or "never", f"{key['used_tokens']:,}", "\n".join(limits) or "none",
        )  # fmt: skip
    # Names are shown as they were given: a bracket or a colon in one is no markup.
    Console(highlight=False, markup=False, emoji=False).print(table)


@keys_app.command()
def revoke(
    which: Annotated[str, typer.Argument(metavar="KEY", help="Its id, or the name of one in use.")],
    store: StoreUrl = "",
    home: Home = Path(),
) -> None:
    """Close a key. A server that runs refuses it from the next request on."""
    with _opened(store, home) as opened:
        key = opened.keys.revoke(which)
    console.print(f"{key.id} ({key.name}) opens nothing any more", markup=False, soft_wrap=True)


def seconds_of(text: str) -> float:
    """`30d` as seconds; m, h, d and w are minutes to weeks.

    Raises:
        UserError: for anything else, and for a time that is over at once or lasts past a century.
    """
    found = re.fullmatch(r"([0-9]{1,9})([mhdw])", text.strip())
    seconds = int(found[1]) * _UNITS[found[2]] if found else 0
    if not 0 < seconds <= 36525 * 86400:
        raise UserError(
            f"{text!r} is no time a key can last", where="--expires", fix="write 90m, 12h, 30d, 8w"
        )
    return float(seconds)


@contextmanager
def _opened(url: str, home: Path) -> Iterator[Store]:
    with Store.open(url or default_url(home)) as store:
        try:
            yield store
        except SQLAlchemyError as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"the store failed: {reason}", where=store.url, fix="see that it can be written"
            ) from error


def _told(key: Key, now: float, used: int) -> dict[str, Any]:
    expired = key.expires is not None and now >= key.expires
    return {
        "id": key.id,
        "name": key.name,
        "ends_in": key.hint,
        "scopes": sorted(key.scopes),
        "state": "revoked" if key.revoked is not None else "expired" if expired else "in use",
        "created": _time(key.created),
        "expires": None if key.expires is None else _time(key.expires),
        "used_tokens": used,
        "limits": asdict(key.limits),
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
