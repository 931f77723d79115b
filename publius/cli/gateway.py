"""`publius gateway`: one address in front of several servers."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from publius.cli.base import app
from publius.core.errors import UserError
from publius.serve.gateway import GatewayConfig, run_gateway

__all__ = ["gateway"]


@app.command()
def gateway(
    backend: Annotated[
        list[str],
        typer.Option("--backend", metavar="URL", help="A server: Publius, vLLM, or any of these APIs."),
    ],
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 8080,
    key_variable: Annotated[
        str, typer.Option("--key-variable", metavar="NAME", help="Holds the key to look for models with.")
    ] = "PUBLIUS_API_KEY",
    interval: Annotated[float, typer.Option("--interval", help="Seconds between looks at a backend.")] = 2.0,
    timeout: Annotated[float, typer.Option("--timeout", help="Most seconds without a byte.")] = 600.0,
    bound: Annotated[float, typer.Option("--bound", help="Most of a backend's load, in even shares.")] = 1.25,
    spare: Annotated[int, typer.Option("--spare", min=0, help="A backend always takes so many at once.")] = 8,
    drain: Annotated[
        int, typer.Option("--drain", min=1, help="Seconds to finish answers in when stopped.")
    ] = 25,
) -> None:
    """Put one address in front of several servers: conversations go to the one that has read them already."""
    key = os.environ.get(key_variable, "").strip()
    if not (key.isascii() and key.isprintable()):
        fix = "put the key alone into it, on one line"
        raise UserError("the key has characters that no header can carry", where=key_variable, fix=fix)
    config = GatewayConfig(
        tuple(backend), key=key, interval=interval, timeout=timeout, bound=bound, spare=spare
    )
    run_gateway(config, host=host, port=port, drain=drain)
