"""What the gateway says itself: its own pages, and errors in the words of the API that was called."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Send

from publius.serve.bedrock.errors import exception_frame
from publius.serve.bedrock.eventstream import MEDIA_TYPE
from publius.serve.errors import ApiError
from publius.serve.http import new_id
from publius.serve.openai.errors import error_body

__all__ = ["Reply", "broken_frame", "refusal", "whole_frames"]

_OPENAI = ("/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize", "/tokenizer_info")
_SSE = "text/event-stream"
_FRAME_END = re.compile(rb".*(?:\r\n\r\n|\n\n|\r\r)", re.DOTALL)
_SMALLEST = 16
"""Bytes of a frame of AWS's that holds nothing."""
_BROKEN = ApiError("api_error", "the server that was answering is gone")


@dataclass(frozen=True)
class Reply:
    """A whole response."""

    status: int
    body: bytes
    kind: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict[str, str])

    async def send(self, send: Send) -> None:
        """As ASGI."""
        named = {"content-type": self.kind, "content-length": str(len(self.body)), **self.headers}
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in named.items()]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


def _messages_body(error: ApiError, request_id: str | None) -> dict[str, Any]:
    body: dict[str, Any] = {"type": "error", "error": {"type": error.type, "message": error.message}}
    return body if request_id is None else {**body, "request_id": request_id}


def refusal(path: str, error: ApiError) -> Reply:
    """The response of a request that no backend answered, in the dialect of its path."""
    number = new_id("req")
    headers = {"request-id": number, **error.headers}
    if path.startswith("/model/"):
        status, kind = (
            (400, "ValidationException") if error.status < 500 else (503, "ServiceUnavailableException")
        )
        headers |= {"x-amzn-errortype": kind, "x-amzn-requestid": number}
        return Reply(status, json.dumps({"message": error.message}).encode(), headers=headers)
    if path in _OPENAI:
        status = 503 if error.type == "overloaded_error" else error.status
        headers["x-request-id"] = number
        return Reply(status, json.dumps(error_body(error)).encode(), headers=headers)
    return Reply(error.status, json.dumps(_messages_body(error, number)).encode(), headers=headers)


def whole_frames(kind: str, held: bytes) -> int:
    """How many bytes of a body's next part may be passed on so that it ends between two frames; all of them,
    where the `kind` of body has none that the gateway could end."""
    if kind.startswith(_SSE):
        found = _FRAME_END.match(held)
        return found.end() if found else 0
    at = 0
    while kind.startswith(MEDIA_TYPE) and len(held) - at >= 4:
        size = int.from_bytes(held[at : at + 4], "big")
        if size < _SMALLEST:
            break  # no frames at all: it passes as it is
        if at + size > len(held):
            return at
        at += size
    return at if kind.startswith(MEDIA_TYPE) and 0 < len(held) - at < 4 else len(held)


def broken_frame(path: str, kind: str) -> bytes | None:
    """How a stream of events that a backend left unfinished is ended; None where nothing can be said."""
    if kind.startswith(MEDIA_TYPE):
        return exception_frame(_BROKEN)
    if not kind.startswith(_SSE):
        return None
    if path in _OPENAI:
        return f"data: {json.dumps(error_body(_BROKEN))}\n\n".encode()
    return f"event: error\ndata: {json.dumps(_messages_body(_BROKEN, None))}\n\n".encode()
