"""A request body of the Messages API, made into what is asked of a model.

What is wrong is told as the vendor's API tells it: 400, the message beginning with the path of the field.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from publius.core.messages import Conversation, Message, ToolResultBlock, ToolSpec
from publius.inference.engine import Sampling
from publius.inference.grammar import Grammar
from publius.inference.tool_choice import NamedTool, ToolChoice
from publius.serve.errors import ApiError
from publius.serve.exchange import Ask
from publius.serve.messages.body import Body, CountBody
from publius.serve.messages.conversation import (
    NEWEST,
    OLDEST,
    Mark,
    Restore,
    bad,
    system_of,
    tools_of,
    turns_of,
    validated,
)

__all__ = ["parse_count", "parse_messages"]

_BREAKPOINTS = 4
_LEAST_BUDGET = 1024


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
                raise bad(f"{name}: Extra inputs are not permitted")
    stops = tuple(given.stop_sequences or ())
    for number, stop in enumerate(stops):
        if not stop.strip():
            raise bad(f"stop_sequences.{number}: each stop sequence must contain non-whitespace")
    sampling = Sampling(
        temperature=1.0 if given.temperature is None else given.temperature,
        top_p=None if given.top_p is None or given.top_p == 1 else max(given.top_p, 1e-9),
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
    tools = tools_of(given)
    messages, marks = turns_of(given, version, restore)
    system = system_of(given)
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
        said = next((one for one in reversed(messages) if one.role != "system"), messages[-1])
        after_result = any(isinstance(block, ToolResultBlock) for block in said.content)
        return (None if after_result else False), None
    budget = wanted.budget_tokens
    if budget is None:
        raise bad("thinking.enabled.budget_tokens: Field required")
    if budget < _LEAST_BUDGET:
        raise bad(f"thinking.enabled.budget_tokens: Input should be greater than or equal to {_LEAST_BUDGET}")
    if max_tokens is not None and budget >= max_tokens:
        raise bad("`max_tokens` must be greater than `thinking.budget_tokens`")
    if begun:
        raise bad("messages: the reply cannot be prefilled when thinking is enabled")
    return True, budget


def _choice(given: CountBody, tools: Sequence[ToolSpec], thinking: bool | None) -> tuple[ToolChoice, bool]:
    wanted = given.tool_choice
    if wanted is None:
        return "auto", False
    one_call = bool(wanted.disable_parallel_tool_use)
    if wanted.type in ("any", "tool"):
        if not tools:
            raise bad("tool_choice: may only be given with `tools`")
        if thinking:
            raise bad("thinking: may not be enabled when tool_choice forces tool use")
    if wanted.type != "tool":
        return wanted.type, one_call
    if wanted.name is None:
        raise bad("tool_choice.tool.name: Field required")
    if all(tool.name != wanted.name for tool in tools):
        raise bad(f"tool_choice.name: tool {wanted.name!r} not found in provided tools")
    return NamedTool(wanted.name), one_call


def _grammar(given: CountBody) -> Grammar | None:
    wanted = given.output_config.format if given.output_config is not None else None
    if wanted is None:
        return None
    schema = wanted.get("schema")
    if wanted.get("type") != "json_schema" or not isinstance(schema, dict):
        raise bad('output_config.format: give {"type": "json_schema", "schema": {...}}')
    if given.tools and (given.tool_choice is None or given.tool_choice.type != "none"):
        raise bad("output_config.format: cannot be kept together with tools; set tool_choice to none")
    return Grammar.json_schema(schema)


# ---- caching ----


def _breakpoints(
    given: CountBody, conversation: Conversation, marks: Sequence[Mark]
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
        raise bad(f"A maximum of {_BREAKPOINTS} blocks with cache_control may be provided. Found {found}.")
    return tuple(covered)


def _marked(given: CountBody) -> Iterator[object]:
    everything = [*(given.tools or ()), *(given.system or ())]
    everything += [part for message in given.messages for part in message.content]
    yield from (one for one in everything if getattr(one, "cache_control", None) is not None)
    if given.cache_control is not None:
        yield given.cache_control


def _upto(conversation: Conversation, mark: Mark) -> Conversation:
    kept = conversation.messages[: mark.message + 1]
    last = kept[-1].model_copy(update={"content": kept[-1].content[: mark.block]})
    return conversation.model_copy(update={"messages": (*kept[:-1], last)})
