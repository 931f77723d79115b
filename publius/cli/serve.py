"""Serve models to the clients people already use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from publius.cli.base import Home, app
from publius.core.device import pick_device
from publius.core.errors import UserError
from publius.safety.monitor import Monitors
from publius.safety.policy import load_monitors
from publius.serve.config import ServeConfig
from publius.serve.hub import Target
from publius.serve.run import build
from publius.serve.run import serve as run_server
from publius.serve.tls import certificate_files

__all__ = ["serve"]

_Models = Annotated[
    list[str],
    typer.Argument(metavar="MODEL...", help="A run, run/stage or release folder each, or ID=one of these."),
]
_AwsKeys = Annotated[
    list[str] | None,
    typer.Option("--aws-key", metavar="ID=SECRET", envvar="PUBLIUS_AWS_KEYS", help="Of AWS clients."),
]
_StoreURL = Annotated[
    str, typer.Option("--store", envvar="PUBLIUS_STORE", help="URL of the store; an SQLite file by default.")
]


@app.command()
def serve(
    models: _Models,
    host: Annotated[str, typer.Option("--host", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535)] = 8080,
    alias: Annotated[
        list[str] | None, typer.Option("--alias", metavar="NAME=ID", help="Another name of a model.")
    ] = None,
    unreleased: Annotated[
        bool, typer.Option("--unreleased", help="Models no gate has decided on; this machine only.")
    ] = False,
    gate_policy: Annotated[
        str, typer.Option("--gate-policy", metavar="POLICY", help="Only decisions by this policy count.")
    ] = "",
    audit: Annotated[
        str, typer.Option("--audit", metavar="FILE", help="A signed record of every exchange, by digests.")
    ] = "",
    store: _StoreURL = "",
    tls_certificate: Annotated[Path | None, typer.Option("--tls-cert", help="Certificate, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", help="Its private key, PEM.")] = None,
    tls_self_signed: Annotated[
        bool, typer.Option("--tls-self-signed", help="Make a certificate for this machine.")
    ] = False,
    strict_versions: Annotated[
        bool, typer.Option("--strict-api-versions", help="Refuse temperature and such under 2026-10-21.")
    ] = False,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Replies written at once by each model.")] = 64,
    queue: Annotated[int, typer.Option("--queue", min=0, help="Requests that may wait beyond that.")] = 512,
    monitors: Annotated[
        Path | None, typer.Option("--monitors", metavar="POLICY", help="Layers that look at every exchange.")
    ] = None,
    aws_key: _AwsKeys = None,
    aws_unverified: Annotated[
        bool, typer.Option("--aws-unverified", help="Let signatures of AWS keys not given here pass.")
    ] = False,
    compare_prompts: Annotated[
        str, typer.Option("--compare-prompts", help="JSONL of prompts for the compare page.")
    ] = "",
    log_content: Annotated[
        bool, typer.Option("--log-content", help="Log what is asked and replied.")
    ] = False,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    home: Home = Path(),
) -> None:
    """Serve the Messages, Bedrock and OpenAI APIs and a web page. The key is $PUBLIUS_API_KEY."""
    key = os.environ.get("PUBLIUS_API_KEY") or None
    config = ServeConfig(
        host=host, port=port, store=store, unreleased=unreleased, strict_versions=strict_versions, rows=rows,
        most_waiting=queue, aws_keys=_pairs(aws_key, "--aws-key"), aws_unverified=aws_unverified,
        compare_prompts=compare_prompts, log_content=log_content, gate_policy=gate_policy, audit=audit,
    )  # fmt: skip
    certificate = certificate_files(tls_certificate, tls_key, tls_self_signed, host, home)
    server = build(
        config, [Target.parse(one) for one in models], home=home, aliases=_pairs(alias, "--alias"), key=key,
        monitors=lambda _, weights: load_monitors(monitors, model=weights) if monitors else Monitors(),
        policy=monitors, device=str(pick_device(device)),
    )  # fmt: skip
    run_server(server, certificate=certificate, key=key)


def _pairs(given: list[str] | None, where: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for one in given or ():
        before, sign, after = one.partition("=")
        if not (before and sign and after):
            raise UserError(f"{one.partition('=')[0]!r} has no value", where=where, fix="write NAME=VALUE")
        pairs[before] = after
    return pairs
