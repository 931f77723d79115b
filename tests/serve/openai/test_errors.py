"""Errors in OpenAI's words."""

from __future__ import annotations

import json

import pytest

from publius.serve.errors import STATUS, ApiError, ErrorType
from publius.serve.openai.errors import error_body, error_response


@pytest.mark.parametrize("kind", list(STATUS))
def test_every_error_has_the_four_fields_and_its_id(kind: ErrorType) -> None:
    response = error_response(ApiError(kind, "told", headers={"retry-after": "3"}), "req_1")
    error = json.loads(bytes(response.body))["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"] == "told"
    assert response.headers["x-request-id"] == response.headers["request-id"] == "req_1"
    assert response.headers["retry-after"] == "3" and response.status_code >= 400


def test_clients_know_these() -> None:
    def told(kind: ErrorType, message: str) -> tuple[int, str | None, str | None]:
        error = ApiError(kind, message)
        body = error_body(error)["error"]
        return error_response(error, "req_1").status_code, body["code"], body["param"]

    assert told("not_found_error", "model: absent") == (404, "model_not_found", "model")
    assert told("not_found_error", "there is nothing at /v1/x") == (404, "not_found", None)
    assert told("authentication_error", "no") == (401, "invalid_api_key", None)
    assert told("billing_error", "spent") == (429, "insufficient_quota", None)
    assert told("overloaded_error", "full") == (503, "overloaded", None)
    assert told("invalid_request_error", "messages[2].content: no") == (400, None, "messages[2].content")
    long = "prompt is too long: 9 tokens > 8 maximum"
    assert told("invalid_request_error", long) == (400, "context_length_exceeded", "messages")
    spent = error_response(ApiError("billing_error", "spent"), "req_1")
    assert spent.headers["x-should-retry"] == "false"
