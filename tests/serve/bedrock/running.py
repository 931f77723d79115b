"""A server with a small random model, over HTTP or TLS, and clients that speak to it."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import numpy as np
import uvicorn
from botocore.config import Config
from numpy.typing import NDArray

from publius.core.messages import Conversation, text_of
from publius.model.checkpoint import save_checkpoint
from publius.safety.monitor import ALLOW, Monitors, Verdict
from publius.serve.app import create_app
from publius.serve.config import ServeConfig
from publius.serve.errors import ApiError, ErrorType
from publius.serve.exchange import Ask, Event, Piece
from publius.serve.guard import Caller
from publius.serve.hub import Target
from publius.serve.run import build
from publius.serve.tls import self_signed
from publius.testing import byte_tokenizer, tiny_model

__all__ = ["ARN", "AWS_KEYS", "KEY", "MODEL", "Running", "running"]

Exchange = Callable[[Ask, Caller, str], AsyncGenerator[Event, None]]
MODEL = "publius-haiku"
KEY = "a-key-of-the-server"
ARN = "arn:aws:bedrock:eu-west-1:123456789012:inference-profile/eu.anthropic.publius-haiku-v1:0"
AWS_KEYS = {"AKIDPOCKET": "secret/of+the=mill"}


class Watchman:
    """A monitor for tests: blocks a prompt whose last message says "closed"."""

    name, probe = "watchman", None

    def __init__(self, asked: str = "") -> None:
        self._asked = asked

    def watch(self, conversation: Conversation) -> Watchman:
        """Begin to watch."""
        return Watchman(text_of(conversation.messages[-1]))

    def prompt(self) -> Verdict:
        """Of the last message alone."""
        blocked = "closed" in self._asked
        return Verdict("block", "mill", "The mill is closed.", monitor=self.name) if blocked else ALLOW

    def reply(self, text: str, scores: NDArray[np.float32], *, done: bool) -> tuple[Verdict, int]:
        """Lets all pass."""
        return ALLOW, len(text)


def _troubled(exchange: Exchange) -> Exchange:
    """The exchange, which stops for good in the middle of a reply to "wait", and breaks down in one to
    "break: " and the type of an error, or "unforeseen"."""

    async def troubled(ask: Ask, caller: Caller, request_id: str) -> AsyncGenerator[Event, None]:
        asked = text_of(ask.conversation.messages[-1])
        async with aclosing(exchange(ask, caller, request_id)) as events:
            async for event in events:
                yield event
                if isinstance(event, Piece):
                    await _trouble(asked)

    return troubled


async def _trouble(asked: str) -> None:
    _, _, kind = asked.partition("break: ")
    if asked == "wait":
        await asyncio.Event().wait()
    if kind == "unforeseen":
        raise RuntimeError("a secret")
    if kind:
        error: ErrorType = kind  # pyright: ignore[reportAssignmentType]
        raise ApiError(error, "the wheel broke")


class Running(NamedTuple):
    """Where it listens.

    Args:
        certificate: a file clients are to trust, None for plain HTTP.
    """

    url: str
    certificate: Path | None

    def boto3(self, key_id: str = "AKIDPOCKET", secret: str | None = None) -> Any:
        """A Bedrock Runtime client that signs, and tries once."""
        return boto3.client(
            "bedrock-runtime",
            endpoint_url=self.url,
            region_name="eu-west-1",
            aws_access_key_id=key_id,
            aws_secret_access_key=secret or AWS_KEYS["AKIDPOCKET"],
            verify=str(self.certificate) if self.certificate else None,
            config=Config(retries={"total_max_attempts": 1}),
        )


class _Quiet(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextmanager
def running(folder: Path, *, key: str | None = KEY, tls: bool = False, **settings: Any) -> Iterator[Running]:
    """Serve while the block runs.

    Args:
        folder: for the model and the store.
        key: the server's own; None for none.
        tls: with a certificate signed by nobody else.
        settings: of `ServeConfig`.
    """
    save_checkpoint(folder / "model", tiny_model(max_position=2048), byte_tokenizer())
    config = ServeConfig(unreleased=True, **settings)
    server = build(
        config,
        [Target(MODEL, str(folder / "model"))],
        home=folder,
        key=key,
        aliases={"alias": MODEL},
        monitors=lambda *_: Monitors([Watchman()]),
    )
    server.exchange = _troubled(server.exchange)
    files = self_signed(folder / "tls", "127.0.0.1") if tls else None
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        web = _Quiet(
            uvicorn.Config(
                create_app(server),
                log_config=None,
                http="httptools",
                timeout_graceful_shutdown=1,
                ssl_certfile=files and str(files[0]),
                ssl_keyfile=files and str(files[1]),
            )
        )
        thread = threading.Thread(target=web.run, kwargs={"sockets": [listening]})
        thread.start()
        while not web.started:
            assert thread.is_alive(), "the server did not start"
            thread.join(0.01)
        try:
            scheme, port = "https" if tls else "http", listening.getsockname()[1]
            yield Running(f"{scheme}://127.0.0.1:{port}", files[0] if files else None)
        finally:
            web.should_exit = True
            thread.join()
