"""What /openapi.json says of the Bedrock operations."""

from __future__ import annotations

from typing import Any

from publius.serve.bedrock.eventstream import MEDIA_TYPE
from publius.serve.bedrock.shapes import ConverseRequest, CountTokensRequest
from publius.serve.messages.body import Body

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


def takes(path: str) -> dict[str, Any]:
    """The path's parameter and the body of an operation."""
    if path.startswith("invoke"):
        schema = _inlined(Body.model_json_schema())
        schema["properties"].pop("model")
        schema["properties"] |= {
            "anthropic_version": {"type": "string", "enum": ["bedrock-2023-05-31", "2026-10-21"]},
            "anthropic_beta": {"type": "array", "items": {"type": "string"}},
        }
        schema["required"] = ["anthropic_version", *(n for n in schema["required"] if n != "model")]
    else:
        shape = ConverseRequest if path.startswith("converse") else CountTokensRequest
        schema = _inlined(shape.model_json_schema())
    return {
        "parameters": [{"name": "model_id", "in": "path", "required": True, "schema": {"type": "string"}}],
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
    }


def responses(path: str) -> dict[int | str, dict[str, Any]]:
    """What an operation answers."""
    media = MEDIA_TYPE if path in _STREAMS else "application/json"
    failed = {"description": "An exception, named in x-amzn-errortype"}
    return {
        200: {"description": NAMES[path], "content": {media: {}}},
        "default": {**failed, "content": {"application/json": {"schema": _FAILED}}},
    }


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """With its definitions in their places, so that it can stand anywhere."""
    definitions = schema.pop("$defs", {})

    def put(node: Any) -> Any:
        if isinstance(node, list):
            return [put(one) for one in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return put(definitions[node["$ref"].rsplit("/", 1)[-1]])
        return {key: put(value) for key, value in node.items() if key != "discriminator"}

    return put(schema)
