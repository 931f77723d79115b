"""A real HTTP server on the loopback that speaks either dialect, and misbehaves as it is told."""

from __future__ import annotations

import json
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from publius.inference.remote import RemoteConfig


class Reply(NamedTuple):
    """What a well-behaved server says. `chances` are the likeliest tokens of the first place (OpenAI)."""

    text: str
    stop: str = "end"
    chances: Mapping[str, float] | None = None
    usage: tuple[int, int] | None = (100, 10)


class Fault(NamedTuple):
    """One misbehaviour: an error status, raw bytes instead of JSON, a delay, a drip, a cut, a dropped
    connection."""

    status: int = 200
    headers: Mapping[str, str] = {}
    body: bytes | None = None
    delay: float = 0.0
    claim: int = 0
    """Bytes promised beyond those that come."""
    drop: bool = False
    drip: float = 0.0
    """Seconds between two bytes."""


class Seen(NamedTuple):
    """A request as it came."""

    at: float
    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]

    @property
    def text(self) -> str:
        """The last user turn."""
        return str(self.body["messages"][-1]["content"])


class Wire:
    """The server. `faults` are used up one a request, before anything is said.

    Attributes:
        seen: every request, in order of arrival.
        busiest: most requests under way at once.
    """

    def __init__(self, say: Callable[[str], Reply]) -> None:
        self.say = say
        self.faults: deque[Fault] = deque()
        self.seen: list[Seen] = []
        self.busiest = 0
        self._busy = 0
        self._lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def config(self, dialect: str, tmp: Any, **changes: Any) -> RemoteConfig:
        """A config that reaches this server, quick to retry, with a cache under `tmp`."""
        return RemoteConfig.model_validate(self.settings(dialect, tmp) | changes)

    def settings(self, dialect: str, tmp: Any) -> dict[str, Any]:
        """The fields of `config`."""
        url = self.url if dialect == "anthropic" else f"{self.url}/v1"
        quick = {"backoff": 0.01, "timeout": 5.0, "concurrency": 2, "cache": str(tmp / "cache.sqlite")}
        return {"dialect": dialect, "url": url, "model": "m"} | quick

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        wire = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                seen = Seen(time.monotonic(), self.path, dict(self.headers.items()), body)
                with wire._lock:
                    wire.seen.append(seen)
                    fault = wire.faults.popleft() if wire.faults else Fault()
                    wire._busy += 1
                    wire.busiest = max(wire.busiest, wire._busy)
                try:
                    self._respond(fault, body)
                finally:
                    with wire._lock:
                        wire._busy -= 1

            def _respond(self, fault: Fault, body: dict[str, Any]) -> None:
                time.sleep(fault.delay)
                if fault.drop:
                    self.close_connection = True
                    return
                raw = fault.body
                if raw is None:
                    said = json.dumps(wire._said(self.path, body))
                    raw = said.encode() if fault.status == 200 else b'{"error": {"message": "told to fail"}}'
                self.send_response(fault.status)
                for name, value in fault.headers.items():
                    self.send_header(name, value)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(raw) + fault.claim))
                self.end_headers()
                with suppress(OSError):  # a client that gave up
                    for place in range(len(raw)) if fault.drip else ():
                        self.wfile.write(raw[place : place + 1])
                        time.sleep(fault.drip)
                    self.wfile.write(b"" if fault.drip else raw)
                self.close_connection = bool(fault.claim)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler

    def _said(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        reply = self.say(str(body["messages"][-1]["content"]))
        if path == "/v1/messages":
            return _anthropic(reply)
        assert path == "/v1/chat/completions", path
        return _openai(reply, body)


def _anthropic(reply: Reply) -> dict[str, Any]:
    reason = {"end": "end_turn", "length": "max_tokens", "refusal": "refusal"}[reply.stop]
    made: dict[str, Any] = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "stop_sequence": None,
        "content": [{"type": "text", "text": reply.text}], "stop_reason": reason,
    }  # fmt: skip
    if reply.usage:
        made["usage"] = {"input_tokens": reply.usage[0], "output_tokens": reply.usage[1]}
    return made


def _openai(reply: Reply, body: dict[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.text}
    if reply.stop == "refusal":
        message = {"role": "assistant", "content": None, "refusal": reply.text}
    choice: dict[str, Any] = {
        "index": 0,
        "message": message,
        "finish_reason": "length" if reply.stop == "length" else "stop",
    }
    if body.get("logprobs") and reply.chances:
        top = [{"token": t, "logprob": math.log(p)} for t, p in reply.chances.items()]
        first = max(top, key=lambda one: one["logprob"])
        choice["logprobs"] = {"content": [first | {"top_logprobs": top}]}
    made: dict[str, Any] = {"id": "c", "object": "chat.completion", "model": "m", "choices": [choice]}
    if reply.usage:
        made["usage"] = {"prompt_tokens": reply.usage[0], "completion_tokens": reply.usage[1]}
    return made


@contextmanager
def wire(say: Callable[[str], Reply] = lambda text: Reply(f"you said {text}")) -> Iterator[Wire]:
    """A running server."""
    made = Wire(say)
    thread = threading.Thread(target=made.server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.server.shutdown()
        made.server.server_close()
        thread.join()
