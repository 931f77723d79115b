"""A request body of the Messages API, made into what is asked of a model.

What is wrong is told as the vendor's API tells it: 400, the message beginning with the path of the field.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from publius.core.messages import (
    Block,
    Conversation,
    Message,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolSpec,
    ToolUseBlock,
)
from publius.inference.engine import Sampling
from publius.inference.grammar import Grammar
from publius.inference.tool_choice import NamedTool, ToolChoice
from publius.serve.errors import ApiError
from publius.serve.exchange import Ask
from publius.serve.messages.body import (
    Body,
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

__all__ = ["NEWEST", "OLDEST", "VERSIONS", "parse_count", "parse_messages", "validated"]

OLDEST, NEWEST = "2023-06-01", "2026-10-21"
VERSIONS = (OLDEST, NEWEST)
_BREAKPOINTS = 4
_LEAST_BUDGET = 1024
_log = logging.getLogger("publius.serve")

_B = TypeVar("_B", bound=BaseModel)
Restore = Callable[[ThinkingBlock], ThinkingBlock | None]
"""A thinking block sent back, whole again; None for one that was not written here."""


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


def parse_messages(
    body: dict[str, Any], *, version: str = OLDEST, restore: Restore | None = None, strict: bool = False
) -> Ask:
    """A body of `POST /v1/messages`.

    Args:
        version: of the API.
        restore: `Server.restore`; None takes every thinking block as it is.
        strict: refuse sampling parameters under the newest version, as the vendor does.

    Raises:
        ApiError: what is wrong with it.
    """
    given = validated(Body, body)
    if strict and version == NEWEST:
        for name in ("temperature", "top_p", "top_k"):
            if getattr(given, name) is not None:
                raise _bad(f"{name}: Extra inputs are not permitted")
    stops = tuple(given.stop_sequences or ())
    for number, stop in enumerate(stops):
        if not stop.strip():
            raise _bad(f"stop_sequences.{number}: each stop sequence must contain non-whitespace")
    sampling = Sampling(
        temperature=1.0 if given.temperature is None else given.temperature,
        top_p=given.top_p or None,
        top_k=given.top_k or None,
        stop=stops,
    )
    return _ask(given, version, restore, sampling, given.max_tokens)


def parse_count(body: dict[str, Any], *, version: str = OLDEST, restore: Restore | None = None) -> Ask:
    """A body of `POST /v1/messages/count_tokens`; raises as `parse_messages`."""
    given = validated(CountBody, body)
    return _ask(given, version, restore, Sampling(), None)


def _ask(
    given: CountBody, version: str, restore: Restore | None, sampling: Sampling, max_tokens: int | None
) -> Ask:
    if given.thread is not None:
        raise ApiError(
            "invalid_request_error",
            "thread: message threads are not kept here; send the whole conversation",
            details={"error_code": "thread_unsupported_request"},
        )
    tools = _tools(given)
    messages, marks = _messages(given, version, restore)
    system = _system(given)
    conversation = Conversation(system=system or None, tools=tools, messages=messages)
    thinking, budget = _thinking(given, max_tokens, messages)
    choice, one_call = _choice(given, tools, thinking)
    return Ask(
        model=given.model,
        conversation=conversation,
        max_tokens=1 if max_tokens is None else max_tokens,
        sampling=sampling,
        tool_choice=choice,
        one_call=one_call,
        thinking=thinking,
        thinking_budget=budget,
        grammar=_grammar(given),
        breakpoints=_breakpoints(given, conversation, marks),
    )


# ---- the conversation ----


def _system(given: CountBody) -> str:
    texts = [block.text for block in given.system or ()]
    # The hash in this line of some agents differs with every request, and would spoil every prefix.
    return "\n\n".join(text for text in texts if text and not text.startswith("x-anthropic-billing-header"))


def _tools(given: CountBody) -> tuple[ToolSpec, ...]:
    tools: list[ToolSpec] = []
    for number, tool in enumerate(given.tools or ()):
        where = f"tools.{number}"
        if tool.type not in (None, "custom"):
            raise _bad(
                f"{where}.type: {tool.type!r} runs on the vendor's servers; only custom tools are known"
            )
        if tool.input_schema is None:
            raise _bad(f"{where}.custom.input_schema: Field required")
        if any(tool.name == other.name for other in tools):
            raise _bad(f"{where}.name: Tool names must be unique ({tool.name!r})")
        tools.append(
            ToolSpec(name=tool.name, description=tool.description or "", input_schema=tool.input_schema)
        )
    return tuple(tools)


class _Mark(NamedTuple):
    """A breakpoint after block `block` of message `message` (as merged)."""

    message: int
    block: int


def _messages(
    given: CountBody, version: str, restore: Restore | None
) -> tuple[tuple[Message, ...], list[_Mark]]:
    """Turns of one role after another are one turn; earlier thinking is left out, as the model never reads it
    again once the user has spoken."""
    last_user = max((i for i, one in enumerate(given.messages) if _speaks(one)), default=-1)
    merged: list[tuple[str, list[Block]]] = []
    marks: list[_Mark] = []
    for number, one in enumerate(given.messages):
        if not merged or merged[-1][0] != one.role:
            merged.append((one.role, []))
        blocks = merged[-1][1]
        for at, part in enumerate(one.content):
            where = f"messages.{number}.content.{at}"
            block = _block(part, one.role, where, version, restore)
            if isinstance(block, ThinkingBlock) and number < last_user:
                continue
            if block is not None:
                blocks.append(block)
            if getattr(part, "cache_control", None) is not None:
                marks.append(_Mark(len(merged) - 1, len(blocks)))
    if merged[0][0] == "assistant":
        raise _bad('messages: first message must use the "user" role')
    last_role, last = merged[-1]
    begun = last[-1] if last_role == "assistant" and last else None
    if isinstance(begun, TextBlock) and begun.text != begun.text.rstrip():
        raise _bad("messages: final assistant content cannot end with trailing whitespace")
    _check_calls(merged)
    turns = tuple(Message(role=role, content=tuple(blocks)) for role, blocks in merged)  # pyright: ignore[reportArgumentType]
    if not any(turn.content for turn in turns):
        raise _bad("messages: at least one block must have content")
    return turns, marks


def _speaks(message: MessageIn) -> bool:
    """Whether the user says something new, beside answering calls."""
    return message.role == "user" and not any(isinstance(part, ToolResultIn) for part in message.content)


def _block(part: Any, role: str, where: str, version: str, restore: Restore | None) -> Block | None:
    match part:
        case TextIn():
            if version == NEWEST and role == "user" and part.citations:
                raise _bad(f"{where}.text.citations: not allowed in a user message")
            return TextBlock(text=part.text) if part.text else None
        case ThinkingIn():
            _only("assistant", role, where, "thinking")
            block = ThinkingBlock(thinking=part.thinking, signature=part.signature)
            known = block if restore is None else restore(block)
            if known is None:
                raise _bad(f"{where}: Invalid `signature` in `thinking` block")
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
            raise _bad(f"{where}: `document` blocks are not allowed in an assistant message")
        case _:
            return TextBlock(text=_written([part], where, numbered=False))


def _only(wanted: str, role: str, where: str, kind: str) -> None:
    if role != wanted:
        raise _bad(f"{where}: `{kind}` blocks can only be in `{wanted}` messages")


def _written(parts: Sequence[Any], where: str, *, numbered: bool = True) -> str:
    """Blocks as the text a text model reads."""
    texts: list[str] = []
    for number, part in enumerate(parts):
        place = f"{where}.{number}" if numbered else where
        match part:
            case TextIn():
                texts.append(part.text)
            case ImageIn():
                raise _bad(f"{place}: `image` blocks are not supported: this model reads text only")
            case DocumentIn():
                texts.append(_document(part, place))
            case SearchResultIn():
                texts.append("\n".join([part.title, part.source, *(block.text for block in part.content)]))
            case UnknownIn():
                raise _bad(f"{place}.type: {part.type!r} blocks are not known here")
            case _:
                raise _bad(f"{place}: this block cannot be here")
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
            raise _bad(f"{place}.source: a `document` of type {kind!r} cannot be read here; send plain text")
    head = [text for text in (part.title, part.context) if text]
    return "\n".join([*head, body])


def _check_calls(merged: Sequence[tuple[str, list[Block]]]) -> None:
    """Every call is answered in the user's next turn, and nothing else is."""
    turns = [(i, role, blocks) for i, (role, blocks) in enumerate(merged) if role != "system"]
    seen: set[str] = set()
    for place, (number, role, blocks) in enumerate(turns):
        calls = [block.id for block in blocks if isinstance(block, ToolUseBlock)]
        answers = [block.tool_use_id for block in blocks if isinstance(block, ToolResultBlock)]
        before = turns[place - 1][2] if place else []
        asked = {block.id for block in before if isinstance(block, ToolUseBlock)}
        if orphans := [one for one in answers if one not in asked]:
            raise _bad(
                f"messages.{number}.content: unexpected `tool_use_id` found in `tool_result` blocks: "
                f"{', '.join(orphans)}. Each `tool_result` block must have a corresponding `tool_use` block "
                "in the previous message."
            )
        if len(set(answers)) < len(answers):
            raise _bad(f"messages.{number}.content: each tool_use must have a single result")
        if len(set(calls)) < len(calls) or seen & set(calls):
            raise _bad(f"messages.{number}.content: `tool_use` ids must be unique")
        seen |= set(calls)
        last = place == len(turns) - 1
        if role == "assistant" and calls:
            following = [] if last else turns[place + 1][2]
            answered = {block.tool_use_id for block in following if isinstance(block, ToolResultBlock)}
            if missing := [one for one in calls if one not in answered]:
                raise _bad(
                    f"messages.{number}: `tool_use` ids were found without `tool_result` blocks immediately "
                    f"after: {', '.join(missing)}. Each `tool_use` block must have a corresponding "
                    "`tool_result` block in the next message."
                )


# ---- how to reply ----


def _thinking(
    given: CountBody, max_tokens: int | None, messages: Sequence[Message]
) -> tuple[bool | None, int | None]:
    wanted = given.thinking
    if wanted is None or wanted.type == "disabled":
        return False, None
    begun = messages[-1].role == "assistant"
    if wanted.type == "adaptive":
        return (False if begun else None), None
    if wanted.type == "between_tools":
        after_result = any(isinstance(block, ToolResultBlock) for block in messages[-1].content)
        return (None if after_result else False), None
    budget = wanted.budget_tokens
    if budget is None:
        raise _bad("thinking.enabled.budget_tokens: Field required")
    if budget < _LEAST_BUDGET:
        raise _bad(
            f"thinking.enabled.budget_tokens: Input should be greater than or equal to {_LEAST_BUDGET}"
        )
    if max_tokens is not None and budget >= max_tokens:
        raise _bad("`max_tokens` must be greater than `thinking.budget_tokens`")
    if begun:
        raise _bad("messages: the reply cannot be prefilled when thinking is enabled")
    return True, budget


def _choice(given: CountBody, tools: Sequence[ToolSpec], thinking: bool | None) -> tuple[ToolChoice, bool]:
    wanted = given.tool_choice
    if wanted is None:
        return "auto", False
    one_call = bool(wanted.disable_parallel_tool_use)
    if wanted.type in ("any", "tool"):
        if not tools:
            raise _bad("tool_choice: may only be given with `tools`")
        if thinking:
            raise _bad("thinking: may not be enabled when tool_choice forces tool use")
    if wanted.type != "tool":
        return wanted.type, one_call
    if wanted.name is None:
        raise _bad("tool_choice.tool.name: Field required")
    if all(tool.name != wanted.name for tool in tools):
        raise _bad(f"tool_choice.name: tool {wanted.name!r} not found in provided tools")
    return NamedTool(wanted.name), one_call


def _grammar(given: CountBody) -> Grammar | None:
    wanted = given.output_config.format if given.output_config is not None else None
    if wanted is None:
        return None
    schema = wanted.get("schema")
    if wanted.get("type") != "json_schema" or not isinstance(schema, dict):
        raise _bad('output_config.format: give {"type": "json_schema", "schema": {...}}')
    if given.tools and (given.tool_choice is None or given.tool_choice.type != "none"):
        raise _bad("output_config.format: cannot be kept together with tools; set tool_choice to none")
    return Grammar.json_schema(schema)


# ---- caching ----


def _breakpoints(
    given: CountBody, conversation: Conversation, marks: Sequence[_Mark]
) -> tuple[Conversation, ...]:
    """What each mark covers: tools, then the system text, then messages."""
    covered: list[Conversation] = []
    bare = conversation.model_copy(update={"messages": ()})
    if any(tool.cache_control is not None for tool in given.tools or ()):
        covered.append(bare)
    if any(block.cache_control is not None for block in given.system or ()):
        covered.append(bare)
    covered += [_upto(conversation, mark) for mark in marks]
    if given.cache_control is not None:
        covered.append(conversation)
    if (found := sum(1 for _ in _marked(given))) > _BREAKPOINTS:
        raise _bad(f"A maximum of {_BREAKPOINTS} blocks with cache_control may be provided. Found {found}.")
    return tuple(covered)


def _marked(given: CountBody) -> Iterator[object]:
    everything = [*(given.tools or ()), *(given.system or ())]
    everything += [part for message in given.messages for part in message.content]
    yield from (one for one in everything if getattr(one, "cache_control", None) is not None)
    if given.cache_control is not None:
        yield given.cache_control


def _upto(conversation: Conversation, mark: _Mark) -> Conversation:
    kept = conversation.messages[: mark.message + 1]
    last = kept[-1].model_copy(update={"content": kept[-1].content[: mark.block]})
    return conversation.model_copy(update={"messages": (*kept[:-1], last)})


def _bad(message: str) -> ApiError:
    return ApiError("invalid_request_error", message)
