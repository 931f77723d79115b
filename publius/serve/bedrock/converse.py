"""Converse, and what it shares with ConverseStream: its request as a Messages body, a reply in its words.

The Messages body then takes the road every Messages body takes, so nothing is checked twice or differently.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

from publius.core.messages import TextBlock, ThinkingBlock
from publius.serve.bedrock.errors import invalid
from publius.serve.bedrock.shapes import (
    CachePoint,
    ContentBlock,
    ConverseRequest,
    Document,
    ResultBlock,
    SystemBlock,
    ToolConfig,
)
from publius.serve.errors import ApiError
from publius.serve.exchange import Ended, ReplyBlock, Usage

__all__ = ["in_converse_words", "messages_body", "picked", "response", "stop_reason", "token_usage"]

_CALL_ID = re.compile(r"[A-Za-z0-9_-]+\Z")
_WRITTEN = ("txt", "md", "csv", "html")
"""Formats of documents whose bytes are text."""
_FIELDS = {
    "max_tokens": "inferenceConfig.maxTokens",
    "temperature": "inferenceConfig.temperature",
    "top_p": "inferenceConfig.topP",
    "stop_sequences": "inferenceConfig.stopSequences",
    "tools": "toolConfig.tools",
    "tool_choice": "toolConfig.toolChoice",
    "output_config.format": "outputConfig.textFormat",
    "output_config.effort": "outputConfig.effort",
    "thinking": "additionalModelRequestFields.thinking",
    "top_k": "additionalModelRequestFields.top_k",
}
"""Where Converse has what Messages calls so."""


def messages_body(request: ConverseRequest, most: int) -> dict[str, Any]:
    """The same request as a Messages body, without `model`.

    Args:
        request: as it came.
        most: `max_tokens` where the request has none: what the model has room for.

    Raises:
        ApiError: a ValidationException naming what has no counterpart.
    """
    body: dict[str, Any] = {
        "messages": [
            {"role": message.role, "content": _blocks(message.content, f"messages.{number}.content")}
            for number, message in enumerate(request.messages)
        ],
        "max_tokens": most,
    }
    if request.system:
        body["system"] = _blocks(request.system, "system")
    if request.inference_config:
        body |= request.inference_config.model_dump(exclude_none=True, by_alias=False)
    if request.tool_config:
        body |= _tools(request.tool_config)
    if request.output_config:
        output = _output(request)
        body |= {"output_config": output} if output else {}
    additional = dict(request.additional_model_request_fields or {})
    for name in ("anthropic_version", "anthropic_beta"):
        additional.pop(name, None)
    taken = sorted({"model", "stream", *body}.intersection(additional) - {"output_config"})
    if taken:
        raise invalid(f"additionalModelRequestFields.{taken[0]}: has a field of its own; give it there")
    if isinstance(additional.get("output_config"), dict):
        additional["output_config"] = {**additional["output_config"], **body.get("output_config", {})}
    return body | additional


def _blocks(blocks: Sequence[ContentBlock | SystemBlock], where: str) -> list[dict[str, Any]]:
    written: list[dict[str, Any]] = []
    for number, block in enumerate(blocks):
        name, member = block.member()
        if name == "cache_point":
            _mark(written, member, f"{where}.{number}.cachePoint")
        else:
            written.append(_block(name, member, f"{where}.{number}"))
    return written


def _mark(written: list[dict[str, Any]], point: CachePoint, where: str) -> None:
    """A cache point is a mark on what stands before it."""
    if not written:
        raise invalid(f"{where}: must follow what it lets be cached")
    ttl = {"ttl": point.ttl} if point.ttl else {}
    written[-1] = {**written[-1], "cache_control": {"type": "ephemeral", **ttl}}


def _block(name: str, member: Any, where: str) -> dict[str, Any]:
    match name:
        case "text":
            return {"type": "text", "text": member}
        case "guard_content":
            return {"type": "text", "text": member.text.text}
        case "citations_content":
            return {"type": "text", "text": "".join(part.text for part in member.content)}
        case "value":
            return {"type": "text", "text": json.dumps(member, ensure_ascii=False, separators=(",", ":"))}
        case "image":
            source = {"type": "base64", "media_type": f"image/{member.format}", "data": member.source.bytes}
            return {"type": "image", "source": source}
        case "document":
            return _document(member, f"{where}.document")
        case "search_result":
            content = [{"type": "text", "text": part.text} for part in member.content]
            return {
                "type": "search_result",
                "source": member.source,
                "title": member.title,
                "content": content,
            }
        case "tool_use":
            id = _call_id(member.tool_use_id)
            return {"type": "tool_use", "id": id, "name": member.name, "input": member.input}
        case "tool_result":
            return {
                "type": "tool_result",
                "tool_use_id": _call_id(member.tool_use_id),
                "content": _results(member.content, f"{where}.toolResult.content"),
                "is_error": member.status == "error",
            }
        case _:
            return _thinking(member)


def _call_id(id: str) -> str:
    """Converse lets ids have "." and ":", Messages does not. Models do not read them: any other will do."""
    return id if _CALL_ID.match(id) else f"toolu_{hashlib.sha256(id.encode()).hexdigest()[:32]}"


def _results(blocks: Sequence[ResultBlock], where: str) -> list[dict[str, Any]]:
    return [_block(*block.member(), f"{where}.{number}") for number, block in enumerate(blocks)]


def _thinking(reasoning: Any) -> dict[str, Any]:
    name, member = reasoning.member()
    if name == "redacted_content":
        return {"type": "redacted_thinking", "data": member}
    return {"type": "thinking", "thinking": member.text, "signature": member.signature or ""}


def _document(document: Document, where: str) -> dict[str, Any]:
    kind, member = document.source.member()
    if kind == "bytes":
        text = _decoded(member, document.format, where)
    else:
        text = member if kind == "text" else "\n".join(part.text for part in member)
    about = {"title": document.name, **({"context": document.context} if document.context else {})}
    return {
        "type": "document",
        "source": {"type": "text", "media_type": "text/plain", "data": text},
        **about,
    }


def _decoded(data: str, format: str, where: str) -> str:
    if format not in _WRITTEN:
        raise invalid(
            f"{where}.format: {format[:20]!r} cannot be read; give text, or one of {', '.join(_WRITTEN)}"
        )
    try:
        return base64.b64decode(data, validate=True).decode()
    except (binascii.Error, ValueError):
        raise invalid(f"{where}.source.bytes: is not base64 of UTF-8 text") from None


def _tools(config: ToolConfig) -> dict[str, Any]:
    tools: list[dict[str, Any]] = []
    for number, tool in enumerate(config.tools):
        name, member = tool.member()
        if name == "cache_point":
            _mark(tools, member, f"toolConfig.tools.{number}.cachePoint")
            continue
        described = {"description": member.description} if member.description else {}
        tools.append({"name": member.name, "input_schema": member.input_schema.value, **described})
    if config.tool_choice is None:
        return {"tools": tools}
    kind, member = config.tool_choice.member()
    return {
        "tools": tools,
        "tool_choice": {"type": kind, **({"name": member.name} if kind == "tool" else {})},
    }


def _output(request: ConverseRequest) -> dict[str, Any]:
    config = request.output_config
    assert config is not None
    output: dict[str, Any] = {"effort": config.effort} if config.effort else {}
    if config.text_format and config.text_format.structure.json_schema:
        where = "outputConfig.textFormat.structure.jsonSchema.schema"
        try:
            schema = json.loads(config.text_format.structure.json_schema.text)
        except (ValueError, RecursionError):
            raise invalid(f"{where}: is not JSON") from None
        if not isinstance(schema, dict):
            raise invalid(f"{where}: is not a JSON object")
        output["format"] = {"type": "json_schema", "schema": schema}
    return output


def in_converse_words(error: ApiError, request: ConverseRequest) -> ApiError:
    """The same error with the field at the head of its message as Converse calls it, and its number as it is
    in the request: cache points count there, and are no blocks of their own in Messages."""
    message = error.message
    for name, ours in _FIELDS.items():
        match = re.match(rf"{re.escape(name)}(?=[.:])", message)
        if match:
            message = ours + message[match.end() :].replace("input_schema", "toolSpec.inputSchema.json")
            break
    place = re.match(r"(messages\.(\d+)\.content|system|toolConfig\.tools)\.(\d+)", message)
    if place:
        given = _listed(request, place[1].split(".")[0], int(place[2] or 0))
        kept = [number for number, one in enumerate(given) if one.member()[0] != "cache_point"]
        if int(place[3]) < len(kept):
            message = f"{place[1]}.{kept[int(place[3])]}{message[place.end() :]}"
    return ApiError(error.type, message, details=error.details, headers=error.headers)


def _listed(request: ConverseRequest, field: str, message: int) -> Sequence[Any]:
    match field:
        case "messages":
            return request.messages[message].content if message < len(request.messages) else ()
        case "system":
            return request.system or ()
        case _:
            return request.tool_config.tools if request.tool_config else ()


def response(
    blocks: Sequence[ReplyBlock],
    ended: Ended,
    latency: int,
    additional: dict[str, Any] | None,
    *,
    omit_thinking: bool = False,
) -> dict[str, Any]:
    """The body of Converse.

    Args:
        blocks: of the reply, in order.
        ended: how it ended.
        latency: of the whole exchange, in milliseconds.
        additional: fields of the Messages response that were asked for, None where none were.
        omit_thinking: send thinking as its signature only.
    """
    content = [_written(block, omit_thinking) for block in blocks] or [{"text": ""}]
    return {
        "output": {"message": {"role": "assistant", "content": content}},
        "stopReason": stop_reason(ended),
        "usage": token_usage(ended.usage),
        "metrics": {"latencyMs": latency},
        **({} if additional is None else {"additionalModelResponseFields": additional}),
    }


def _written(block: ReplyBlock, omit_thinking: bool) -> dict[str, Any]:
    if isinstance(block, TextBlock):
        return {"text": block.text}
    if isinstance(block, ThinkingBlock):
        text = "" if omit_thinking else block.thinking
        return {"reasoningContent": {"reasoningText": {"text": text, "signature": block.signature}}}
    return {"toolUse": {"toolUseId": block.id, "name": block.name, "input": block.input}}


def stop_reason(ended: Ended) -> str:
    """Bedrock has no word for a refusal; "content_filtered" is what it says instead."""
    return "content_filtered" if ended.stop_reason == "refusal" else ended.stop_reason


def token_usage(usage: Usage) -> dict[str, int]:
    """`usage`; as in Messages, `inputTokens` leaves out what the cache counts, and `totalTokens` does not."""
    return {
        "inputTokens": usage.input,
        "outputTokens": usage.output,
        "totalTokens": usage.prompt + usage.output,
        "cacheReadInputTokens": usage.cache_read,
        "cacheWriteInputTokens": usage.cache_write,
    }


def picked(body: dict[str, Any], paths: Sequence[str]) -> dict[str, Any]:
    """The parts of a Messages response that `paths` (JSON pointers, RFC 6901) name, where they have them.

    Raises:
        ApiError: a ValidationException for what is no pointer.
    """
    found: dict[str, Any] = {}
    for path in paths:
        if not path.startswith("/"):
            raise invalid(
                f"additionalModelResponseFieldPaths: {path[:40]!r} is no JSON pointer like /stop_sequence"
            )
        keys = [key.replace("~1", "/").replace("~0", "~") for key in path[1:].split("/")]
        value: Any = body
        for key in keys:
            if isinstance(value, list) and key.isdecimal() and int(key) < len(value):
                value = value[int(key)]
            elif isinstance(value, dict) and key in value:
                value = value[key]
            else:
                break
        else:
            _put(found, keys, value)
    return found


def _put(found: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    """Where the pointer has it. What stands there already holds it: a pointer to the whole came before."""
    place: Any = found
    for key in keys[:-1]:
        place = place.setdefault(key, {})
        if not isinstance(place, dict):
            return
    place.setdefault(keys[-1], value)
