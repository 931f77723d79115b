"""OpenAI's messages and tools as a Conversation."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Literal, cast

from publius.core.messages import (
    Block,
    Conversation,
    Message,
    TextBlock,
    ToolResultBlock,
    ToolSpec,
    ToolUseBlock,
)
from publius.inference.tool_choice import NamedTool, ToolChoice
from publius.serve.errors import ApiError
from publius.serve.openai.body import invalid

__all__ = ["conversation", "tool_choice", "tool_specs"]

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_PARTS = {"image_url": "images", "input_audio": "audio", "file": "files", "input_image": "images"}
"""What a message may hold that this model cannot read."""


def conversation(messages: Sequence[Any], tools: tuple[ToolSpec, ...]) -> Conversation:
    """The messages in our shape.

    System and developer messages at the beginning are the system text; later ones stay where they are.
    Neighbouring messages of one side are one turn; `tool` messages are the user's
    side. Reasoning that is sent back is left out: nothing proves that the model wrote it.

    Raises:
        ApiError: naming the message.
    """
    if not messages:
        raise invalid("messages", "there are none")
    system: list[str] = []
    turns: list[tuple[Literal["user", "assistant", "system"], list[Block]]] = []
    open_calls: dict[str, str] = {}
    for number, given in enumerate(messages):
        where = f"messages[{number}]"
        message = _object(given, where)
        role = message.get("role")
        if role in ("system", "developer") and not turns:
            system += _texts(message.get("content"), f"{where}.content")
            continue
        if role == "tool":
            side, blocks = "user", [_result(message, where, open_calls)]
        elif role in ("system", "developer"):
            texts = _texts(message.get("content"), f"{where}.content")
            side, blocks = "system", [TextBlock(text=text) for text in texts]
        elif role == "user":
            _answered(open_calls, where)
            texts = _texts(message.get("content"), f"{where}.content")
            side, blocks = "user", [TextBlock(text=text) for text in texts]
        elif role == "assistant":
            _answered(open_calls, where)
            side, blocks = "assistant", _said(message, where)
            open_calls |= {b.id: where for b in blocks if isinstance(b, ToolUseBlock)}
        else:
            raise invalid(
                f"{where}.role", f"{str(role)[:40]!r} is none of system, developer, user, assistant, tool"
            )
        if turns and turns[-1][0] == side:
            turns[-1][1].extend(blocks)
        else:
            turns.append((side, list(blocks)))
    _answered(open_calls, "messages")
    made = tuple(Message(role=side, content=tuple(blocks)) for side, blocks in turns)
    return Conversation(system="\n\n".join(system) or None, tools=tools, messages=made)


def _said(message: dict[str, Any], where: str) -> list[Block]:
    """What an assistant message says and calls."""
    if message.get("function_call"):
        raise invalid(f"{where}.function_call", "give tool_calls instead")
    content = message.get("content")
    blocks: list[Block] = [TextBlock(text=t) for t in _texts(content, f"{where}.content", empty=True) if t]
    refusal = message.get("refusal")
    if isinstance(refusal, str) and refusal:
        blocks.append(TextBlock(text=refusal))
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise invalid(f"{where}.tool_calls", "must be a list")
    blocks += [_call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(calls)]
    ids = [block.id for block in blocks if isinstance(block, ToolUseBlock)]
    if len(set(ids)) < len(ids):
        raise invalid(f"{where}.tool_calls", "two calls have the same id")
    return blocks


def _call(given: Any, where: str) -> ToolUseBlock:
    call = _object(given, where)
    function = _object(call.get("function"), f"{where}.function")
    name, arguments = function.get("name"), function.get("arguments")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise invalid(f"{where}.function.name", "must be a tool's name")
    if not isinstance(call.get("id"), str) or not call["id"]:
        raise invalid(f"{where}.id", "must be the call's id")
    try:
        value = (
            arguments if isinstance(arguments, dict) else json.loads(arguments or "{}", parse_constant=float)
        )
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise invalid(f"{where}.function.arguments", "must be JSON, as text") from error
    if not isinstance(value, dict):
        raise invalid(f"{where}.function.arguments", "must be a JSON object")
    return ToolUseBlock(id=call["id"], name=name, input=value)


def _result(message: dict[str, Any], where: str, open_calls: dict[str, str]) -> ToolResultBlock:
    called = message.get("tool_call_id")
    if not isinstance(called, str) or open_calls.pop(called, None) is None:
        told = (
            f"{str(called)[:80]!r} is no call of the assistant message before that still waits for its result"
        )
        raise invalid(f"{where}.tool_call_id", told)
    texts = _texts(message.get("content"), f"{where}.content", empty=True)
    return ToolResultBlock(tool_use_id=called, content="".join(texts))


def _answered(open_calls: dict[str, str], where: str) -> None:
    """Every call has its result before anything else is said."""
    for called, asked in open_calls.items():
        told = (
            f"the tool call {called[:80]!r} of {asked} has no result: a message of role tool must follow it"
        )
        raise invalid(where, told)


def _texts(content: Any, where: str, *, empty: bool = False) -> list[str]:
    """The texts of a message's content.

    Raises:
        ApiError: for anything but text.
    """
    if content is None and empty:
        return []
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list):
        raise invalid(where, "must be text, or a list of parts")
    return [_part(given, f"{where}[{number}]") for number, given in enumerate(content)]


def _part(given: Any, where: str) -> str:
    part = _object(given, where)
    kind = part.get("type")
    if isinstance(kind, str) and kind in _PARTS:
        what = _PARTS[kind]
        raise invalid(
            where, f"{kind}: this model reads text only, it does not understand {what}; take the part out"
        )
    text = part.get("refusal" if kind == "refusal" else "text")
    if kind not in ("text", "refusal", "input_text", "output_text") or not isinstance(text, str):
        raise invalid(where, 'must be {"type": "text", "text": ...}')
    return text


def _object(given: Any, where: str) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise invalid(where, "must be an object")
    return cast("dict[str, Any]", given)


def tool_specs(tools: Sequence[Any] | None) -> tuple[ToolSpec, ...]:
    """The tools that may be called.

    Raises:
        ApiError: naming the one that is none.
    """
    made: list[ToolSpec] = []
    for number, given in enumerate(tools or ()):
        where = f"tools[{number}]"
        tool = _object(given, where)
        if tool.get("type", "function") != "function":
            raise invalid(f"{where}.type", f"{str(tool['type'])[:40]!r}: only functions can be called here")
        function = _object(tool.get("function"), f"{where}.function")
        name, description = function.get("name"), function.get("description") or ""
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise invalid(f"{where}.function.name", "must be 1 to 128 letters, digits, '_', '.' or '-'")
        if any(name == other.name for other in made):
            raise invalid(f"{where}.function.name", f"{name!r} is another tool's name too")
        if not isinstance(description, str):
            raise invalid(f"{where}.function.description", "must be text")
        schema = function.get("parameters")
        schema = (
            {"type": "object", "properties": {}}
            if schema is None
            else _object(schema, f"{where}.function.parameters")
        )
        made.append(ToolSpec(name=name, description=description, input_schema=schema))
    return tuple(made)


def tool_choice(given: Any, tools: Sequence[ToolSpec]) -> ToolChoice:
    """Which of the tools may or must be called.

    Raises:
        ApiError: for a choice there is not, and where there is no such tool.
    """
    if given is None or given == "auto":
        return "auto"
    if given == "none":
        return "none"
    name: str | None = None
    if isinstance(given, dict) and given.get("type") == "function":
        function = given.get("function")
        name = function.get("name") if isinstance(function, dict) else None
    if given != "required" and not isinstance(name, str):
        told = 'must be "none", "auto", "required" or {"type": "function", "function": {"name": ...}}'
        raise invalid("tool_choice", told)
    if name is None and tools:
        return "any"
    if name is None or all(tool.name != name for tool in tools):
        wanted = "a tool" if name is None else repr(name[:80])
        raise ApiError(
            "invalid_request_error", f"tool_choice: {wanted} must be called and is not among the tools"
        )
    return NamedTool(name)
