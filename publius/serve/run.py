"""A server process: from its arguments to its end.

SIGTERM and SIGINT let replies under way come to their end and take nothing new; a second one, or the end of
that time, ends them with an error event. SIGHUP takes in what the targets name now.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from pydantic_core import to_json

from publius.core.console import console
from publius.core.errors import UserError
from publius.release.signing import signing_key
from publius.safety.audit import AuditLog
from publius.safety.monitor import Monitors
from publius.serve.admission import Admission
from publius.serve.app import create_app, is_loopback
from publius.serve.config import ServeConfig
from publius.serve.guard import Guard
from publius.serve.hub import Hub, Target
from publius.serve.server import Server
from publius.serve.store import Store, default_url

if sys.platform == "win32":
    new_event_loop = asyncio.new_event_loop
else:
    from uvloop import new_event_loop

__all__ = ["SWITCH", "QuietUvicorn", "build", "log_lines", "run_loop", "serve"]

_log = logging.getLogger("publius.serve")
SWITCH = 0.0005
"""Seconds the event loop may keep the interpreter from the thread that steps the engine, whose steps are that
short; Python's own 0.005 would let the engine stand still between them."""
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def build(
    config: ServeConfig,
    targets: list[Target],
    *,
    home: Path = Path(),
    aliases: dict[str, str] | None = None,
    key: str | None = None,
    monitors: Callable[[str, str], Monitors] = lambda id, fingerprint: Monitors(),
    policy: Path | None = None,
    device: str = "cpu",
) -> Server:
    """Load the models and open the store.

    Args:
        key: one that may do everything, beside those of the store.
        monitors: as `Hub`.
        policy: the file `monitors` are made from, which the gate's decision must name.

    Raises:
        UserError: as `Hub` and `Store.open`; and for what would be open to other machines: models without a
            decision, or a server without any key.
    """
    local = is_loopback(config.host)
    if config.unreleased and not local:
        raise UserError(
            f"models no gate has decided on would be served on {config.host}",
            where="--host",
            fix="serve a release, or stay on 127.0.0.1",
        )
    store = Store.open(config.store or default_url(home.absolute()))
    opened = key is None and not config.aws_keys and not store.keys.all()
    if opened and not local:
        raise UserError(
            f"without a key, {config.host} would be open to everyone",
            where="--host",
            fix="set PUBLIUS_API_KEY, or make a key: publius keys create",
        )
    admission = Admission(
        unreleased=config.unreleased, monitors=policy, policy=config.gate_policy, keyed=not opened,
        audited=bool(config.audit),
    )  # fmt: skip
    audit = AuditLog(Path(config.audit), signing_key()) if config.audit else None
    hub = Hub(
        targets, home=home, aliases=aliases, admission=admission, rows=config.rows,
        most_waiting=config.most_waiting, monitors=monitors, device=device,
    )  # fmt: skip
    return Server(config, hub, store, Guard(store, key=key, open=opened), audit)


def serve(server: Server, *, certificate: tuple[Path, Path] | None = None, key: str | None = None) -> None:
    """Serve until a signal ends it.

    Args:
        certificate: files of the certificate and its private key; without, plain HTTP.
        key: shown in the address of the web page, so that it opens ready.
    """
    config = server.config
    log_lines()
    sys.setswitchinterval(SWITCH)
    settings = uvicorn.Config(
        create_app(server), host=config.host, port=config.port, log_config=None, access_log=False,
        http="httptools", ws="none", timeout_keep_alive=75, server_header=False, date_header=True,
        ssl_certfile=certificate and str(certificate[0]), ssl_keyfile=certificate and str(certificate[1]),
    )  # fmt: skip
    audit = server.audit
    if audit is not None:
        audit.tell("opened")
    try:
        scheme = "https" if certificate else "http"
        run_loop(_run(server, QuietUvicorn(settings, lambda port: _greet(server, scheme, port, key))))
    except ssl.SSLError as error:
        raise UserError(
            f"the certificate cannot be used: {error.reason or error}",
            where=", ".join(map(str, certificate or ())),
            fix="give a certificate and the private key that belongs to it, both PEM",
        ) from None
    except SystemExit:
        raise UserError(
            f"cannot listen on {config.host}:{config.port}",
            where="--port",
            fix="another program may use it: choose another port",
        ) from None
    finally:
        if audit is not None:
            audit.tell("closed")
            audit.close()


def run_loop(main: Coroutine[Any, Any, None]) -> None:
    """Run to the end, on an event loop that is not made of Python where this system has one."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main)


class QuietUvicorn(uvicorn.Server):
    """Signals are ours.

    Args:
        config: as uvicorn's.
        listening: told the port once it is open: where 0 was asked for, nobody knows it before.
    """

    def __init__(self, config: uvicorn.Config, listening: Callable[[int], None]) -> None:
        super().__init__(config)
        self._listening = listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's."""
        await super().startup(sockets)
        if self.started:
            self._listening(self.servers[0].sockets[0].getsockname()[1])

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take none: one that has been obeyed is no failure."""
        yield


async def _run(server: Server, web: uvicorn.Server) -> None:
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    def on(number: signal.Signals, act: Callable[[], None]) -> None:
        loop.add_signal_handler(number, act)

    def stop() -> None:
        if server.draining:
            server.expire()
            return
        server.draining = True
        tasks.add(asyncio.ensure_future(_drain(server, web)))

    def reload() -> None:
        tasks.add(asyncio.ensure_future(_reload(server)))

    for number in (signal.SIGTERM, signal.SIGINT):
        on(number, stop)
    on(signal.SIGHUP, reload)
    await web.serve()


async def _drain(server: Server, web: uvicorn.Server) -> None:
    """Let replies end; then end what has not."""
    console.print(f"stopping: {server.live} replies under way", markup=False)
    until = time.monotonic() + server.config.drain
    while server.live and time.monotonic() < until:
        await asyncio.sleep(0.05)
    server.expire()
    late = time.monotonic() + 3.0
    while server.live and time.monotonic() < late:
        await asyncio.sleep(0.02)
    web.config.timeout_graceful_shutdown = 2
    web.should_exit = True


async def _reload(server: Server) -> None:
    try:
        changed = await server.hub.reload()
    except UserError as error:
        _log.error("nothing was taken in: %s", error)
    except Exception:  # nobody else hears of it
        _log.exception("nothing was taken in")
    else:
        _log.info("models taken in: %s", ", ".join(changed) or "none, all are as they were")


def _greet(server: Server, scheme: str, port: int, key: str | None) -> None:
    config = server.config
    host = f"[{config.host}]" if ":" in config.host else config.host
    base = f"{scheme}://{host}:{port}"
    if config.unreleased:
        console.print("UNRELEASED: no gate has decided on these models; this machine only", style="bold red")
    for model in server.hub.models():
        for line in model.admitted.warnings():
            console.print(line, style="bold red", markup=False, soft_wrap=True)
        names = ", ".join((model.id, *model.aliases))
        console.print(f"{names}: {model.path} ({model.context:,} tokens)", markup=False)
    if server.guard.open:
        console.print("no key is set: whoever is on this machine may ask", markup=False)
    shown = key if console.is_terminal else None  # what is written to a file is read by others
    console.print(f"chat: {base}/{f'#key={shown}' if shown else ''}", markup=False, soft_wrap=True)
    console.print(
        f"APIs: {base}/v1/messages   {base}/v1/chat/completions   {base}/model/ID/invoke", markup=False
    )


class _Lines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's message and whatever was given beside it."""
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **{name: value for name, value in vars(record).items() if name not in _STANDARD},
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return to_json(line, fallback=str, inf_nan_mode="null").decode()


def log_lines() -> None:
    """Our log to stderr as JSON; uvicorn's only where something is wrong."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Lines())
    levels = {"publius.serve": logging.INFO, "publius.safety": logging.INFO, "uvicorn": logging.WARNING}
    for name, level in levels.items():
        log = logging.getLogger(name)
        log.handlers, log.propagate = [handler], False
        log.setLevel(level)
