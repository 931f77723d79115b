"""What can go wrong with a request, in the vocabulary of the Messages API; each dialect has its own words.

An endpoint raises `ApiError` (or lets a `UserError` of the code below through); the dialect it speaks makes
the body of it: `messages.errors`, `bedrock.errors`, `openai.errors`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from publius.core.errors import UserError

__all__ = ["STATUS", "ApiError", "ClientGone", "ErrorType", "api_error"]

ErrorType = Literal[
    "invalid_request_error",
    "authentication_error",
    "billing_error",
    "permission_error",
    "not_found_error",
    "conflict_error",
    "request_too_large",
    "rate_limit_error",
    "api_error",
    "timeout_error",
    "overloaded_error",
]

STATUS: dict[ErrorType, int] = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""The HTTP status of each type."""


class ApiError(Exception):
    """A request that gets no reply.

    Args:
        type: the Messages API's name for it, which fixes the status.
        message: for the client. Begins with the path of the field that is wrong, where one is.
        details: `error.details` of the Messages API (`{"error_code": ...}`), None for none.
        headers: of the response, beside those every response has (`retry-after`).
        status: of HTTP, where it is not the type's own.
    """

    def __init__(
        self,
        type: ErrorType,
        message: str,
        *,
        details: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.type: ErrorType = type
        self.message, self.details, self.headers = message, details, dict(headers or {})
        self.status = STATUS[type] if status is None else status


class ClientGone(ApiError):
    """The client left before its reply began: nobody reads this, and nothing has failed."""

    def __init__(self) -> None:
        super().__init__("api_error", "the client went away", status=499)


def api_error(error: Exception) -> ApiError:
    """Any exception as one: a `UserError` is the client's to mend; what nobody foresaw has no detail."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, UserError):
        where = f"{error.where}: " if error.where else ""
        fix = f" ({error.fix})" if error.fix else ""
        return ApiError("invalid_request_error", f"{where}{error.what}{fix}")
    return ApiError("api_error", "internal error; the request id finds it in the server's log")
