"""Every error has a status, a name botocore makes an exception of, and a frame its stream parser knows."""

from __future__ import annotations

import json
from typing import get_args

import botocore.session
import pytest
from botocore.eventstream import EventStreamBuffer
from botocore.parsers import EventStreamJSONParser, RestJSONParser

from publius.serve.bedrock.errors import CredentialError, error_response, exception_frame
from publius.serve.errors import ApiError, ErrorType

SERVICE = botocore.session.Session().get_service_model("bedrock-runtime")
TYPES: list[ErrorType] = list(get_args(ErrorType))


def parsed(error: ApiError) -> dict:
    """As botocore reads the response."""
    response = error_response(error, "req_1")
    raw = {"status_code": response.status_code, "headers": response.headers, "body": bytes(response.body)}
    shape = SERVICE.operation_model("Converse").output_shape
    return RestJSONParser().parse(raw, shape)


@pytest.mark.parametrize("kind", TYPES)
def test_names_and_statuses_are_the_services_own(kind: ErrorType) -> None:
    read = parsed(ApiError(kind, "what is wrong", headers={"retry-after": "3"}))
    shapes = {shape.name: shape for shape in SERVICE.error_shapes}
    shape = shapes[read["Error"]["Code"]]
    assert read["ResponseMetadata"]["HTTPStatusCode"] == shape.metadata["error"]["httpStatusCode"]
    assert read["Error"]["Message"] == "what is wrong"
    assert read["ResponseMetadata"]["RequestId"] == "req_1"
    assert read["ResponseMetadata"]["HTTPHeaders"]["retry-after"] == "3"


def test_credential_errors_have_awss_names() -> None:
    read = parsed(CredentialError("InvalidSignatureException", "no"))
    assert read["Error"]["Code"] == "InvalidSignatureException"
    assert read["ResponseMetadata"]["HTTPStatusCode"] == 403


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("shape", ["ResponseStream", "ConverseStreamOutput"])
def test_frames_are_of_exceptions_the_stream_knows(kind: ErrorType, shape: str) -> None:
    buffer = EventStreamBuffer()
    buffer.add_data(exception_frame(ApiError(kind, "what is wrong")))
    (message,) = buffer
    name = message.headers[":exception-type"]
    assert name in SERVICE.shape_for(shape).members
    assert json.loads(message.payload) == {"message": "what is wrong"}
    read = EventStreamJSONParser().parse(message.to_response_dict(), SERVICE.shape_for(shape))
    assert read["Error"] == {"Code": name, "Message": "what is wrong"}
