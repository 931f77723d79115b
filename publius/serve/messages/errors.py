"""Errors in the words of the Messages API."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse, Response

from publius.serve.errors import ApiError

__all__ = ["error_body", "error_response"]


def error_body(error: ApiError, request_id: str) -> dict[str, Any]:
    """The body, also of an `error` event."""
    inner: dict[str, Any] = {"type": error.type, "message": error.message}
    if error.details is not None:
        inner["details"] = dict(error.details)
    return {"type": "error", "error": inner, "request_id": request_id}


def error_response(error: ApiError, request_id: str) -> Response:
    """The response."""
    return JSONResponse(
        error_body(error, request_id), error.status, {**error.headers, "request-id": request_id}
    )
