"""An application under test: requests go through all of it but the socket."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import httpx2

from publius.safety.monitor import Monitors
from publius.serve.app import create_app
from publius.serve.config import ServeConfig
from publius.serve.hub import Target
from publius.serve.run import build

__all__ = ["KEY", "Spoken", "events_of", "said"]

KEY = "sk-test-key"
_T = TypeVar("_T")


class Spoken:
    """A server of `checkpoint` on an event loop of its own."""

    def __init__(
        self,
        checkpoint: Path,
        home: Path,
        *,
        monitors: Monitors | None = None,
        key: str | None = KEY,
        **settings: Any,
    ) -> None:
        home.mkdir(exist_ok=True)
        config = ServeConfig(unreleased=True, store=f"sqlite:///{home / 'serve.db'}", **settings)
        targets = [Target("publius-haiku", str(checkpoint))]
        self.server = build(
            config,
            targets,
            home=home,
            aliases={"claude-test": "publius-haiku"},
            key=key,
            monitors=lambda *_: monitors or Monitors(),
        )
        self.app = create_app(self.server)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Spoken:
        self._thread.start()
        self._lifespan = self.app.router.lifespan_context(self.app)
        self.run(self._lifespan.__aenter__())
        transport = httpx2.ASGITransport(app=self.app, raise_app_exceptions=False)
        self._client = httpx2.AsyncClient(transport=transport, base_url="http://localhost", timeout=60)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.run(self._client.aclose())
        self.run(self._lifespan.__aexit__(None, None, None))
        self.server.store.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """On the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> httpx2.Response:
        """A request with the key; bytes as they are, anything else as JSON."""
        given = {"x-api-key": KEY, "anthropic-version": "2023-06-01"}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        given = {name: value for name, value in given.items() if value}
        return self.run(self._client.request(method, path, content=content, headers=given))

    def ask(self, **body: Any) -> httpx2.Response:
        """`POST /v1/messages` of one question."""
        question = {
            "model": "publius-haiku",
            "max_tokens": 8,
            "messages": [{"role": "user", "content": "hi"}],
        }
        return self.send("POST", "/v1/messages", {**question, **body})

    def pages(self) -> int:
        """Pages of the engine in use, once its thread has done what was asked of it until now."""
        for model in self.server.hub.models():
            self.run(model.worker.call(lambda: None))
        return sum(model.engine.stats.pages for model in self.server.hub.models())


def events_of(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Name and data of every server-sent event."""
    found: list[tuple[str, dict[str, Any]]] = []
    for frame in text.split("\n\n"):
        if frame:
            name, _, data = frame.partition("\n")
            found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def said(events: list[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """The blocks of a stream, put together as a client does."""
    blocks: list[dict[str, Any]] = []
    for name, data in events:
        if name == "content_block_start":
            assert data["index"] == len(blocks)
            blocks.append({**data["content_block"], "json": ""})
        elif name == "content_block_delta":
            assert data["index"] == len(blocks) - 1
            delta = data["delta"]
            match delta["type"]:
                case "text_delta":
                    blocks[-1]["text"] += delta["text"]
                case "thinking_delta":
                    blocks[-1]["thinking"] += delta["thinking"]
                case "signature_delta":
                    assert not blocks[-1]["signature"]
                    blocks[-1]["signature"] = delta["signature"]
                case "input_json_delta":
                    blocks[-1]["json"] += delta["partial_json"]
    for block in blocks:
        text = block.pop("json")
        if block["type"] == "tool_use":
            block["input"] = json.loads(text or "{}")
    return blocks
