"""Many streams at once over plain sockets: a client so cheap that what it measures is the server.

A connection counts bytes and looks for marks in them; nothing is parsed until a reply is over. Standard
library only.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

__all__ = ["CHAT", "MESSAGES", "Dialect", "Load", "Reply", "run", "share", "summary"]


class Dialect(NamedTuple):
    """How a stream is asked for, and what its bytes say."""

    path: str
    first: bytes
    """Stands in the first frame that holds text."""
    tokens: re.Pattern[bytes]
    """Finds how many tokens were written, near the end."""
    failed: bytes
    end: bytes
    """Stands in the last frame of a stream that came to its end."""
    extra: dict[str, Any]


MESSAGES = Dialect(
    "/v1/messages", b'"content_block_delta"', re.compile(rb'"output_tokens": ?(\d+)'), b"event: error",
    b'"message_stop"', {},
)  # fmt: skip
CHAT = Dialect(
    "/v1/chat/completions", b'"delta":{"content":"', re.compile(rb'"completion_tokens": ?(\d+)'), b'"error"',
    b"data: [DONE]", {"stream_options": {"include_usage": True}},
)  # fmt: skip
DIALECTS = {"messages": MESSAGES, "chat": CHAT}
_TAIL = 3000
"""Bytes kept of a stream: its last frames, with the usage."""


class Reply(NamedTuple):
    """One stream."""

    began: float
    first: float | None
    """When its first text came; None when none did."""
    ended: float
    tokens: int
    error: str | None


@dataclass
class Load:
    """What is asked for.

    Args:
        port: on this machine.
        key: API key.
        model: id.
        prompts: user texts, drawn from in an order fixed by `seed`.
        streams: how many are kept going.
        seconds: how long.
        warm: before them, with the same streams, and not counted in any rate.
        max_tokens: of a reply.
        dialect: a name of DIALECTS.
        more: further fields of the body.
        reuse: a connection for one stream after another; else each has its own.
    """

    port: int
    key: str
    model: str
    prompts: list[str]
    streams: int = 200
    seconds: float = 60.0
    warm: float = 0.0
    max_tokens: int = 64
    dialect: str = "messages"
    more: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    reuse: bool = True
    replies: list[Reply] = field(default_factory=list)

    def request(self, rng: random.Random) -> bytes:
        """The bytes of one."""
        dialect = DIALECTS[self.dialect]
        body = json.dumps(
            {
                "model": self.model, "max_tokens": self.max_tokens, "stream": True, "temperature": 0,
                "messages": [{"role": "user", "content": rng.choice(self.prompts)}], **dialect.extra,
                **self.more,
            }
        ).encode()  # fmt: skip
        head = [
            f"POST {dialect.path} HTTP/1.1", f"host: 127.0.0.1:{self.port}", f"x-api-key: {self.key}",
            f"authorization: Bearer {self.key}", "anthropic-version: 2023-06-01",
            "content-type: application/json", f"content-length: {len(body)}", "", "",
        ]  # fmt: skip
        return "\r\n".join(head).encode() + body


class _Line(asyncio.Protocol):
    """A connection: one stream after another."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._transport: asyncio.Transport | None = None
        self._done: asyncio.Future[Reply] | None = None
        self._began, self._first, self._tail = 0.0, None, b""
        self._ok: bool | None = None
        self.last = False
        """Whether the server takes no more on this connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def ask(self, request: bytes) -> asyncio.Future[Reply]:
        """Begin a stream; the future is its reply."""
        assert self._transport is not None
        self._done = asyncio.get_running_loop().create_future()
        self._began, self._first, self._tail, self._ok = time.perf_counter(), None, b"", None
        self._transport.write(request)
        return self._done

    def data_received(self, data: bytes) -> None:
        seen = self._tail + data
        if self._ok is None and len(seen) >= len(b"HTTP/1.1 200"):
            self._ok = seen.startswith(b"HTTP/1.1 200")
        if self._first is None and self._dialect.first in seen:
            self._first = time.perf_counter()
        self._tail = seen[-_TAIL:]
        self.last = self.last or b"\r\nConnection: close\r\n" in seen
        if self._ok is False:
            head, separator, rest = seen.partition(b"\r\n\r\n")
            if separator:
                self._over(f"{head.split(None, 2)[1].decode()} {rest[:200].decode('utf-8', 'replace')}")
        elif self._ok and self._tail.endswith(b"\r\n0\r\n\r\n"):  # not a header that ends in 0
            failed = self._dialect.failed in self._tail or self._dialect.end not in self._tail
            self._over(self._tail[-200:].decode("utf-8", "replace") if failed else None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._over("the connection was lost")

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()

    def _over(self, error: str | None) -> None:
        if self._done is None or self._done.done():
            return
        found = self._dialect.tokens.findall(self._tail)
        tokens = int(found[-1]) if found else 0
        self._done.set_result(Reply(self._began, self._first, time.perf_counter(), tokens, error))


async def _keep_asking(load: Load, number: int, until: float) -> None:
    rng, loop = random.Random(f"{load.seed}/{number}"), asyncio.get_running_loop()
    line: _Line | None = None
    while time.perf_counter() < until:
        if line is None:
            _, line = await loop.create_connection(
                lambda: _Line(DIALECTS[load.dialect]), "127.0.0.1", load.port
            )
        reply = await line.ask(load.request(rng))
        load.replies.append(reply)
        if reply.error is not None or line.last or not load.reuse:
            line.close()
            line = None
        if reply.error is not None:
            await asyncio.sleep(0.05)
    if line is not None:
        line.close()


async def _all(load: Load) -> float:
    since = time.perf_counter() + load.warm
    async with asyncio.TaskGroup() as tasks:
        for number in range(load.streams):
            tasks.create_task(_keep_asking(load, number, since + load.seconds))
    return since


def run(load: Load) -> dict[str, Any]:
    """Keep `streams` going for `warm` and `seconds`, let the last ones end, and tell."""
    spent = time.process_time()
    since = asyncio.run(_all(load))
    return summary(load.replies, since, load.seconds) | {"client_cpu": time.process_time() - spent}


def share(reply: Reply, since: float, until: float) -> float:
    """How many of a reply's tokens came between two moments, were they spread evenly from its first on."""
    first = reply.ended if reply.first is None else reply.first
    if reply.ended <= first:
        return reply.tokens if since <= reply.ended < until else 0.0
    inside = min(until, reply.ended) - max(since, first)
    return reply.tokens * max(0.0, inside) / (reply.ended - first)


def summary(replies: Sequence[Reply], since: float, seconds: float) -> dict[str, Any]:
    """Rates within `seconds` from `since` (`time.perf_counter`) on; counts, and times to the first token, of
    all.

    A reply that reaches over an edge counts with its share: of long replies side by side, those that happen
    to end within are a whole wave more or less.
    """
    good = [reply for reply in replies if reply.error is None]
    until = since + seconds
    ended = sum(since <= reply.ended <= until for reply in good)
    tokens = sum(share(reply, since, until) for reply in good)
    waits = sorted(reply.first - reply.began for reply in good if reply.first is not None)
    found: dict[str, Any] = {
        "replies": len(good),
        "errors": dict(Counter(reply.error[:80] for reply in replies if reply.error is not None)),
        "tokens": sum(reply.tokens for reply in good),
        "window": [since, until],
        "requests_per_second": ended / seconds,
        "tokens_per_second": tokens / seconds,
        "seconds": max((reply.ended for reply in good), default=since) - since,
    }
    if waits:
        found["ttft"] = {
            "p50": statistics.median(waits), "p99": waits[int(0.99 * (len(waits) - 1))], "max": waits[-1],
            "max_over_median": waits[-1] / statistics.median(waits),
        }  # fmt: skip
    return found
