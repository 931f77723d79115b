"""Errors in Bedrock's words: a status, the exception's name in `x-amzn-errortype`, and `{"message": ...}`.

Clients build the exception they raise from the header, and retry by its name. In a stream that has begun, an
error is a frame of its own, and the last.
"""

from __future__ import annotations

from starlette.responses import JSONResponse, Response

from publius.serve.bedrock import eventstream
from publius.serve.errors import ApiError, ErrorType

__all__ = ["CredentialError", "error_response", "exception_frame", "invalid"]

_HTTP: dict[ErrorType, tuple[int, str]] = {
    "invalid_request_error": (400, "ValidationException"),
    "authentication_error": (403, "AccessDeniedException"),
    "billing_error": (403, "AccessDeniedException"),  # a spent budget: ThrottlingException would be retried
    "permission_error": (403, "AccessDeniedException"),
    "not_found_error": (404, "ResourceNotFoundException"),
    "conflict_error": (400, "ValidationException"),
    "request_too_large": (400, "ValidationException"),
    "rate_limit_error": (429, "ThrottlingException"),
    "api_error": (500, "InternalServerException"),
    "timeout_error": (408, "ModelTimeoutException"),
    "overloaded_error": (503, "ServiceUnavailableException"),
}
_STREAM: dict[ErrorType, str] = {
    "invalid_request_error": "validationException",
    "rate_limit_error": "throttlingException",
    "api_error": "internalServerException",
    "overloaded_error": "serviceUnavailableException",
}
"""Both operations that stream know these and the one that all others become."""


class CredentialError(ApiError):
    """A request that does not prove who sent it, under the name AWS has for the reason.

    Args:
        exception: "MissingAuthenticationTokenException", "IncompleteSignatureException",
            "UnrecognizedClientException" or "InvalidSignatureException".
        message: for the client.
    """

    def __init__(self, exception: str, message: str) -> None:
        super().__init__("authentication_error", message)
        self.exception = exception


def invalid(message: str) -> ApiError:
    """A ValidationException; the message begins with the path of the field."""
    return ApiError("invalid_request_error", message)


def error_response(error: ApiError, request_id: str) -> Response:
    """The response of a request that failed before its reply began."""
    status, name = _HTTP[error.type]
    if isinstance(error, CredentialError):
        name = error.exception
    headers = {**error.headers, "x-amzn-errortype": name, "x-amzn-requestid": request_id}
    return JSONResponse({"message": error.message}, status, headers=headers)


def exception_frame(error: ApiError) -> bytes:
    """The last frame of a stream that fails after it has begun."""
    return eventstream.exception(_STREAM.get(error.type, "modelStreamErrorException"), error.message)
