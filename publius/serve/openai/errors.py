"""Errors as OpenAI's clients read them: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from starlette.responses import JSONResponse, Response

from publius.serve.errors import ApiError, ErrorType

__all__ = ["error_body", "error_response"]


class _Word(NamedTuple):
    """What OpenAI calls an error; `status` None keeps ours."""

    type: str
    code: str | None = None
    status: int | None = None


_WORDS: dict[ErrorType, _Word] = {
    "invalid_request_error": _Word("invalid_request_error"),
    "authentication_error": _Word("authentication_error", "invalid_api_key"),
    "billing_error": _Word("insufficient_quota", "insufficient_quota", 429),
    "permission_error": _Word("permission_error"),
    "not_found_error": _Word("invalid_request_error", "not_found"),
    "conflict_error": _Word("conflict_error"),
    "request_too_large": _Word("invalid_request_error", "request_too_large"),
    "rate_limit_error": _Word("rate_limit_error", "rate_limit_exceeded"),
    "api_error": _Word("server_error"),
    "timeout_error": _Word("server_error", "timeout"),
    "overloaded_error": _Word("server_error", "overloaded", 503),
}
_PATH = re.compile(r"([A-Za-z_]\w*(?:\[\d+\]|\.\w+)*): ")
"""How the message of an error begins that is one field's."""


def error_body(error: ApiError) -> dict[str, Any]:
    """The JSON of `error`, for a response and for a stream that has begun."""
    word = _WORDS[error.type]
    path = _PATH.match(error.message)
    param, code = path and path[1], word.code
    if error.type == "not_found_error" and "model" in error.message:
        param, code = "model", "model_not_found"
    elif error.type == "invalid_request_error" and "prompt is too long" in error.message:
        param, code = param or "messages", "context_length_exceeded"
    return {"error": {"message": error.message, "type": word.type, "param": param, "code": code}}


def error_response(error: ApiError, request_id: str) -> Response:
    """The response to a request that failed with `error`."""
    headers = {**error.headers, "request-id": request_id, "x-request-id": request_id}
    if error.type == "billing_error":
        headers["x-should-retry"] = "false"  # its status is that of a rate limit, but waiting does not help
    status = _WORDS[error.type].status or error.status
    return JSONResponse(error_body(error), status, headers=headers)
