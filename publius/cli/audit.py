"""The audit log: check that nobody changed it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from publius.cli.base import AsJson, app, print_json
from publius.core.errors import UserError
from publius.release.signing import signing_key
from publius.safety.audit import verify

__all__ = ["audit_app", "verify_log"]

audit_app = typer.Typer(help="Check the log of what monitors decided.", no_args_is_help=True)
app.add_typer(audit_app, name="audit")


@audit_app.command("verify")
def verify_log(
    file: Annotated[Path, typer.Argument(help="The log, a JSON record a line.")],
    key: Annotated[
        str | None, typer.Option(help="The public key it was signed with, hex; without: this user's own.")
    ] = None,
    head: Annotated[
        str | None, typer.Option(help="The head kept elsewhere: shows what is missing at the end.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check every record of an audit log; the first that was changed is named, with exit code 2."""
    found = verify(file, key=signing_key().public_key() if key is None else _public(key), head=head)
    if found.covered is None and not found.records:
        raise UserError(
            "the log holds nothing, which nothing shows to be all there was", where=str(file),
            fix="give --head HEAD, as the server logged it last",
        )  # fmt: skip
    if as_json:
        print_json(found._asdict())
        return
    print(f"{found.records} records, as they were written; head {found.head}")
    if found.covered is None:
        print("nothing was checked beyond the last line: what was cut off there shows only against --head")
    elif found.covered < found.records:
        print(f"the head given covers {found.covered} of them: what was cut off after the last does not show")


def _public(text: str) -> Ed25519PublicKey:
    try:
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(text))
    except ValueError:
        raise UserError("the key is not 64 hex digits", where="--key", fix="give the public key") from None
