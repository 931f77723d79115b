"""What /openapi.json says of the Bedrock operations."""

from __future__ import annotations

from typing import Any

from publius.serve.bedrock.eventstream import MEDIA_TYPE
from publius.serve.bedrock.shapes import ConverseRequest, CountTokensRequest
from publius.serve.messages.body import Body
from publius.serve.openapi import taking

__all__ = ["NAMES", "responses", "takes"]

NAMES = {
    "invoke": "InvokeModel",
    "invoke-with-response-stream": "InvokeModelWithResponseStream",
    "converse": "Converse",
    "converse-stream": "ConverseStream",
    "count-tokens": "CountTokens",
}
_STREAMS = ("invoke-with-response-stream", "converse-stream")
_FAILED = {"type": "object", "properties": {"message": {"type": "string"}}, "required": ["message"]}


def takes(path: str, model: str) -> dict[str, Any]:
    """The path's parameter, with a `model` that is served as its example, and the body of an operation."""
    shape = Body if path.startswith("invoke") else CountTokensRequest if "count" in path else ConverseRequest
    extra = taking(shape)
    if shape is Body:
        schema = extra["requestBody"]["content"]["application/json"]["schema"]
        schema["title"] = "InvokeModelBody"
        del schema["properties"]["model"]
        schema["properties"] |= {
            "anthropic_version": {"type": "string", "enum": ["bedrock-2023-05-31", "2026-10-21"]},
            "anthropic_beta": {"type": "array", "items": {"type": "string"}},
        }
        schema["required"] = ["anthropic_version", *(name for name in schema["required"] if name != "model")]
    parameter = {
        "name": "model_id",
        "in": "path",
        "required": True,
        "schema": {"type": "string"},
        "example": model,
    }
    return {"parameters": [parameter], **extra}


def responses(path: str) -> dict[int | str, dict[str, Any]]:
    """What an operation answers."""
    media = MEDIA_TYPE if path in _STREAMS else "application/json"
    failed = {"description": "An exception, named in x-amzn-errortype"}
    return {
        200: {"description": NAMES[path], "content": {media: {}}},
        "default": {**failed, "content": {"application/json": {"schema": _FAILED}}},
    }
