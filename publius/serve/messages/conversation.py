"""What a request body says so far, as the conversation a model reads."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from publius.core.messages import (
    Block,
    Message,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolSpec,
    ToolUseBlock,
)
from publius.serve.errors import ApiError
from publius.serve.messages.body import (
    CountBody,
    DocumentIn,
    ImageIn,
    MessageIn,
    RedactedIn,
    SearchResultIn,
    TextIn,
    ThinkingIn,
    ToolResultIn,
    ToolUseIn,
    UnknownIn,
)

__all__ = [
    "NEWEST",
    "OLDEST",
    "VERSIONS",
    "Mark",
    "Restore",
    "bad",
    "system_of",
    "tools_of",
    "turns_of",
    "validated",
]

OLDEST, NEWEST = "2023-06-01", "2026-10-21"
VERSIONS = (OLDEST, NEWEST)
_log = logging.getLogger("publius.serve")

_B = TypeVar("_B", bound=BaseModel)
Restore = Callable[[ThinkingBlock], ThinkingBlock | None]
"""A thinking block sent back, whole again; None for one that was not written here."""


def bad(message: str) -> ApiError:
    """A request that is wrong: 400, the message beginning with the field's path."""
    return ApiError("invalid_request_error", message)


def validated(kind: type[_B], body: dict[str, Any]) -> _B:
    """The body as `kind`; unknown top-level fields are logged and let pass.

    Raises:
        ApiError: 400, naming the first field that is wrong.
    """
    if unknown := sorted(set(body) - set(kind.model_fields))[:8]:
        _log.debug("fields of a body that are not known: %s", unknown)
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        path = ".".join(str(part) for part in first["loc"])
        text = first["msg"].removeprefix("Value error, ")
        raise ApiError("invalid_request_error", f"{path}: {text}" if path else text) from None
    except RecursionError:
        raise ApiError("invalid_request_error", "the request body is nested too deep") from None


def system_of(given: CountBody) -> str:
    """The system text, "" for none."""
    texts = [block.text for block in given.system or ()]
    # The hash in this line of some agents differs with every request, and would spoil every prefix.
    return "\n\n".join(text for text in texts if text and not text.startswith("x-anthropic-billing-header"))


def tools_of(given: CountBody) -> tuple[ToolSpec, ...]:
    """The tools.

    Raises:
        ApiError: two of one name, one without a schema, one of the vendor's own.
    """
    tools: list[ToolSpec] = []
    for number, tool in enumerate(given.tools or ()):
        where = f"tools.{number}"
        if tool.type not in (None, "custom"):
            raise bad(
                f"{where}.type: {tool.type!r} runs on the vendor's servers; only custom tools are known"
            )
        if tool.input_schema is None:
            raise bad(f"{where}.custom.input_schema: Field required")
        if any(tool.name == other.name for other in tools):
            raise bad(f"{where}.name: Tool names must be unique ({tool.name!r})")
        tools.append(
            ToolSpec(name=tool.name, description=tool.description or "", input_schema=tool.input_schema)
        )
    return tuple(tools)


class Mark(NamedTuple):
    """A breakpoint after block `block` of message `message` (as merged)."""

    message: int
    block: int


def turns_of(
    given: CountBody, version: str, restore: Restore | None
) -> tuple[tuple[Message, ...], list[Mark]]:
    """Turns of one role after another are one turn; earlier thinking is left out, as the model never reads it
    again once the user has spoken.

    Returns:
        the turns, and where the client marked their prefix to be cached.

    Raises:
        ApiError: naming the block that cannot be where it is.
    """
    last_user = max((i for i, one in enumerate(given.messages) if _speaks(one)), default=-1)
    merged: list[tuple[str, list[Block]]] = []
    numbers: list[list[int]] = []
    marks: list[Mark] = []
    for number, one in enumerate(given.messages):
        if not merged or merged[-1][0] != one.role:
            merged.append((one.role, []))
            numbers.append([])
        blocks = merged[-1][1]
        for at, part in enumerate(one.content):
            where = f"messages.{number}.content.{at}"
            block = _block(part, one.role, where, version, restore)
            if isinstance(block, ThinkingBlock) and number < last_user:
                continue
            if block is not None:
                blocks.append(block)
                numbers[-1].append(number)
            if getattr(part, "cache_control", None) is not None:
                marks.append(Mark(len(merged) - 1, len(blocks)))
    if merged[0][0] == "assistant":
        raise bad('messages: first message must use the "user" role')
    last_role, last = merged[-1]
    begun = last[-1] if last_role == "assistant" and last else None
    if isinstance(begun, TextBlock) and begun.text != begun.text.rstrip():
        raise bad("messages: final assistant content cannot end with trailing whitespace")
    _check_calls(merged, numbers)
    turns = tuple(Message(role=role, content=tuple(blocks)) for role, blocks in merged)  # pyright: ignore[reportArgumentType]
    if not any(turn.content for turn in turns):
        raise bad("messages: at least one block must have content")
    return turns, marks


def _speaks(message: MessageIn) -> bool:
    """Whether the user says something new, beside answering calls."""
    return message.role == "user" and not any(isinstance(part, ToolResultIn) for part in message.content)


def _block(part: Any, role: str, where: str, version: str, restore: Restore | None) -> Block | None:
    match part:
        case TextIn():
            if version == NEWEST and role == "user" and part.citations:
                raise bad(f"{where}.text.citations: not allowed in a user message")
            return TextBlock(text=part.text) if part.text else None
        case ThinkingIn():
            _only("assistant", role, where, "thinking")
            block = ThinkingBlock(thinking=part.thinking, signature=part.signature)
            known = block if restore is None else restore(block)
            if known is None:
                raise bad(f"{where}: Invalid `signature` in `thinking` block")
            return known
        case RedactedIn():
            _only("assistant", role, where, "redacted_thinking")
            return None
        case ToolUseIn():
            _only("assistant", role, where, "tool_use")
            return ToolUseBlock(id=part.id, name=part.name, input=part.input)
        case ToolResultIn():
            _only("user", role, where, "tool_result")
            text = _written(part.content or (), f"{where}.tool_result.content")
            return ToolResultBlock(tool_use_id=part.tool_use_id, content=text, is_error=bool(part.is_error))
        case DocumentIn() if role == "assistant" and version == NEWEST:
            raise bad(f"{where}: `document` blocks are not allowed in an assistant message")
        case _:
            return TextBlock(text=_written([part], where, numbered=False))


def _only(wanted: str, role: str, where: str, kind: str) -> None:
    if role != wanted:
        raise bad(f"{where}: `{kind}` blocks can only be in `{wanted}` messages")


def _written(parts: Sequence[Any], where: str, *, numbered: bool = True) -> str:
    """Blocks as the text a text model reads."""
    texts: list[str] = []
    for number, part in enumerate(parts):
        place = f"{where}.{number}" if numbered else where
        match part:
            case TextIn():
                texts.append(part.text)
            case ImageIn():
                raise bad(f"{place}: `image` blocks are not supported: this model reads text only")
            case DocumentIn():
                texts.append(_document(part, place))
            case SearchResultIn():
                texts.append("\n".join([part.title, part.source, *(block.text for block in part.content)]))
            case UnknownIn():
                raise bad(f"{place}.type: {part.type!r} blocks are not known here")
            case _:
                raise bad(f"{place}: this block cannot be here")
    return "\n".join(texts)


def _document(part: DocumentIn, place: str) -> str:
    source = part.source
    match source.get("type"):
        case "text" if isinstance(source.get("data"), str):
            body = source["data"]
        case "content" if isinstance(source.get("content"), str):
            body = source["content"]
        case "content" if isinstance(source.get("content"), list):
            inner = [validated(TextIn, one) if isinstance(one, dict) else None for one in source["content"]]
            body = _written(inner, f"{place}.source.content")
        case kind:
            raise bad(f"{place}.source: a `document` of type {kind!r} cannot be read here; send plain text")
    head = [text for text in (part.title, part.context) if text]
    return "\n".join([*head, body])


def _number(blocks: Sequence[Block], numbers: Sequence[int], ids: Sequence[str]) -> int:
    """Of the client's messages, the one with the last call or answer of these `ids`."""
    found = 0
    for block, number in zip(blocks, numbers, strict=True):
        match block:
            case ToolUseBlock(id=id) | ToolResultBlock(tool_use_id=id) if id in ids:
                found = number
            case _:
                pass
    return found


def _again(ids: Sequence[str], seen: set[str]) -> list[str]:
    """Those that are in `seen`, or stand in `ids` more than once."""
    counts = Counter(ids)
    return [one for one in ids if one in seen or counts[one] > 1]


def _check_calls(merged: Sequence[tuple[str, list[Block]]], numbers: Sequence[Sequence[int]]) -> None:
    """Every call is answered in the user's next turn, and nothing else is.

    Args:
        merged: turns, of one message or several.
        numbers: of each block of a turn, the number of its message in the request, for errors.
    """
    turns = [(i, role, blocks) for i, (role, blocks) in enumerate(merged) if role != "system"]
    seen: set[str] = set()
    for place, (turn, role, blocks) in enumerate(turns):
        calls = [block.id for block in blocks if isinstance(block, ToolUseBlock)]
        answers = [block.tool_use_id for block in blocks if isinstance(block, ToolResultBlock)]
        before = turns[place - 1][2] if place else []
        asked = {block.id for block in before if isinstance(block, ToolUseBlock)}
        if orphans := [one for one in answers if one not in asked]:
            number = _number(blocks, numbers[turn], orphans)
            raise bad(
                f"messages.{number}.content: unexpected `tool_use_id` found in `tool_result` blocks: "
                f"{', '.join(orphans)}. Each `tool_result` block must have a corresponding `tool_use` block "
                "in the previous message."
            )
        if twice := _again(answers, set()):
            number = _number(blocks, numbers[turn], twice)
            raise bad(f"messages.{number}.content: each tool_use must have a single result")
        if again := _again(calls, seen):
            number = _number(blocks, numbers[turn], again)
            raise bad(f"messages.{number}.content: `tool_use` ids must be unique")
        seen |= set(calls)
        last = place == len(turns) - 1
        if role == "assistant" and calls:
            following = [] if last else turns[place + 1][2]
            answered = {block.tool_use_id for block in following if isinstance(block, ToolResultBlock)}
            if missing := [one for one in calls if one not in answered]:
                number = _number(blocks, numbers[turn], missing)
                raise bad(
                    f"messages.{number}: `tool_use` ids were found without `tool_result` blocks immediately "
                    f"after: {', '.join(missing)}. Each `tool_use` block must have a corresponding "
                    "`tool_result` block in the next message."
                )
