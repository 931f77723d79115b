"""A server that speaks the grammar of the Messages stream and says what its script says.

It drives the pages through what a random model seldom does: tool calls, thinking, refusals, failures.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from publius.serve.web.pages import pages

LONG = " ".join(f"word{i}" for i in range(400))
MARKDOWN = """# A title

Some *slanted*, **strong** and `code` words, with a [link](https://example.org/a?b=c).

1. first
2. second
   - nested

> A quoted line.

| name | amount |
| :-- | --: |
| oats | 12 |
| barley | 7 |

```python
def mill(grain: int) -> int:
    # half is lost
    return grain // 2
```
"""


class Scripted:
    """What was asked (`bodies`), and how it is answered."""

    def __init__(self, key: str = "") -> None:
        self.key, self.bodies, self.flaky, self.cancelled = key, [], 1, 0
        self.app = FastAPI(openapi_url=None)
        for path, endpoint in (
            ("/v1/models", self.models), ("/web/tools", self.tools), ("/tools/almanac", self.almanac),
            ("/v1/messages", self.messages),
        ):  # fmt: skip
            method = "GET" if endpoint in (self.models, self.tools) else "POST"
            self.app.add_api_route(path, endpoint, methods=[method])
        self.app.include_router(pages())

    def _refused(self, request: Request) -> Response | None:
        if not self.key or request.headers.get("x-api-key") == self.key:
            return None
        return self._error(401, "authentication_error", "invalid x-api-key")

    @staticmethod
    def _error(status: int, kind: str, message: str, **headers: str) -> Response:
        body = {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_scripted"}
        return JSONResponse(body, status, {"request-id": "req_scripted", **headers})

    async def models(self, request: Request) -> Response:
        names = [("publius-haiku", "Publius Haiku"), ("publius-sonnet", "Publius Sonnet")]
        return self._refused(request) or JSONResponse(
            {"data": [{"id": id, "display_name": name, "type": "model"} for id, name in names]}
        )

    async def tools(self, request: Request) -> Response:
        schema = {"type": "object"}
        return self._refused(request) or JSONResponse(
            {"tools": [
                {"name": "calculator", "description": "sums", "input_schema": schema, "runs": "page"},
                {"name": "almanac", "description": "birthdays", "input_schema": schema, "runs": "server"},
            ]}
        )  # fmt: skip

    async def almanac(self, request: Request) -> Response:
        body = await request.json()
        return JSONResponse({"content": f"12 of frost month ({body['input']['ask']})", "is_error": False})

    async def messages(self, request: Request) -> Response:
        if refused := self._refused(request):
            return refused
        body = await request.json()
        self.bodies.append(body)
        last = body["messages"][-1]["content"][-1]
        said = last.get("text", "")
        if said == "overload" and self.flaky:
            self.flaky -= 1
            return self._error(529, "overloaded_error", "too many requests wait", **{"retry-after": "3"})
        return StreamingResponse(
            self._stream(body, last, said), media_type="text/event-stream", headers={"request-id": "req_42"}
        )

    async def _stream(self, body: dict, last: dict, said: str) -> AsyncGenerator[bytes, None]:
        try:
            async for event in self._events(body, last, said):
                yield f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def _events(self, body: dict, last: dict, said: str) -> AsyncGenerator[dict, None]:
        usage = {"input_tokens": 12, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 4}
        message = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": body["model"],
            "content": [],
        }
        start = {
            **message,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {**usage, "output_tokens": 0},
        }
        yield {"type": "message_start", "message": start}
        yield {"type": "ping"}
        reason, details, blocks = _script(body, last, said)
        for index, (block, kind, pieces) in enumerate(blocks):
            yield {"type": "content_block_start", "index": index, "content_block": block}
            for piece in pieces:
                field = {
                    "text_delta": "text",
                    "thinking_delta": "thinking",
                    "input_json_delta": "partial_json",
                }
                yield {
                    "type": "content_block_delta",
                    "index": index,
                    "delta": {"type": kind, field[kind]: piece},
                }
                await asyncio.sleep(0.05 if said in ("long", "think") else 0.003)
            if kind == "thinking_delta":
                delta = {"type": "signature_delta", "signature": "signed"}
                yield {"type": "content_block_delta", "index": index, "delta": delta}
            yield {"type": "content_block_stop", "index": index}
        if said == "break":
            error = {"type": "api_error", "message": "the engine stopped"}
            yield {"type": "error", "error": error, "request_id": "req_42"}
            return
        delta = {"stop_reason": reason, "stop_sequence": None, "stop_details": details}
        yield {"type": "message_delta", "delta": delta, "usage": {**usage, "output_tokens": 31}}
        yield {"type": "message_stop"}


def _words(text: str) -> list[str]:
    return re.findall(r"\S+\s*|\s+", text)


def _script(body: dict, last: dict, said: str) -> tuple[str, dict | None, list[tuple[dict, str, list[str]]]]:
    text = {"type": "text", "text": ""}
    if last["type"] == "tool_result":
        return "end_turn", None, [(text, "text_delta", _words(f"The tool says {last['content']}."))]
    if said == "refuse":
        about = {"type": "refusal", "category": "poison", "explanation": "This would make people ill."}
        return "refusal", about, []
    if said in ("sum", "bad sum", "birthday"):
        name = "almanac" if said == "birthday" else "calculator"
        asked = {"sum": "34*12", "bad sum": "34*", "birthday": "birthday of Mara"}[said]
        pieces = [json.dumps({"ask" if name == "almanac" else "sum": asked})]
        call = {"type": "tool_use", "id": f"toolu_{len(body['messages'])}", "name": name, "input": {}}
        return "tool_use", None, [(call, "input_json_delta", [pieces[0][:5], pieces[0][5:]])]
    reply = {"long": LONG, "markdown": MARKDOWN}.get(said, f"You said: {said}")
    blocks = [(text, "text_delta", _words(reply))]
    if "thinking" in body:
        block = {"type": "thinking", "thinking": "", "signature": ""}
        blocks.insert(0, (block, "thinking_delta", _words("Let me see what is asked before I answer.")))
    return "end_turn", None, blocks


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """Serve on loopback, in a thread; gives the address."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise RuntimeError("the server did not start")
        threading.Event().wait(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
