"""A gateway process: from its configuration to its end.

SIGTERM and SIGINT close the door and let answers under way come to their end; a second one ends them.
"""

from __future__ import annotations

import asyncio
import signal

import uvicorn

from publius.core.console import console
from publius.core.errors import UserError
from publius.serve.gateway.app import Gateway, GatewayConfig
from publius.serve.run import QuietUvicorn, log_lines, run_loop

__all__ = ["run_gateway"]


def run_gateway(config: GatewayConfig, *, host: str, port: int, drain: int) -> None:
    """Run until a signal ends it.

    Args:
        drain: most seconds for answers under way, once it is told to stop.

    Raises:
        UserError: when the address is taken.
    """
    log_lines()
    settings = uvicorn.Config(
        Gateway(config), host=host, port=port, log_config=None, access_log=False, http="httptools", ws="none",
        timeout_keep_alive=75, server_header=False, timeout_graceful_shutdown=drain,
    )  # fmt: skip

    def listening(port: int) -> None:
        told = f"http://{host}:{port}, before {', '.join(config.backends)}"
        console.print(told, markup=False, soft_wrap=True)

    try:
        run_loop(_run(QuietUvicorn(settings, listening)))
    except SystemExit:
        fix = "another program may use it: choose another port"
        raise UserError(f"cannot listen on {host}:{port}", where="--port", fix=fix) from None


async def _run(web: uvicorn.Server) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, web)
    await web.serve()


def _stop(web: uvicorn.Server) -> None:
    web.force_exit = web.should_exit
    web.should_exit = True
