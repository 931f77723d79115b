"""Which tools a reply may or must call, made into what the engine keeps a reply to.

A call is then valid by construction: its name is a tool's, and its input one that the tool's `input_schema`
takes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from publius.core.errors import UserError
from publius.core.messages import ToolSpec
from publius.inference.grammar import Grammar, schema_text
from publius.inference.sampling import Sampling
from publius.tokenizer.special import ASSISTANT, TOOL_USE, TOOL_USE_END
from publius.tokenizer.tokenizer import Tokenizer

__all__ = ["NamedTool", "ToolChoice", "choosing"]


class NamedTool(NamedTuple):
    """The tool of this name must be called."""

    name: str


ToolChoice = Literal["auto", "any", "none"] | NamedTool
"""Whether tools are called, as in the Messages API: the model decides, one must be, none may be, or which.

Where one must be called, the reply is that one call, after thinking at most. Where the model decides, it may
write and call as it likes, but no call can be malformed.
"""


def choosing(
    sampling: Sampling,
    tools: Sequence[ToolSpec],
    choice: ToolChoice,
    prompt: Sequence[int],
    tokenizer: Tokenizer,
) -> Sampling:
    """`sampling`, kept to the choice.

    Args:
        tools: of the conversation.
        prompt: of the reply; thinking may come before a call that must be made where nothing of the reply has
            been written yet, or where the prompt has opened it.

    Raises:
        UserError: when there is no tool to call, no such tool, one whose input is no object, or `sampling`
            has a grammar already.
    """
    use, used = tokenizer.special[TOOL_USE], tokenizer.special[TOOL_USE_END]
    if choice == "none" or (choice == "auto" and not tools):
        return replace(sampling, logit_bias={**sampling.logit_bias, use: -math.inf})
    if sampling.grammar is not None:
        raise UserError(
            "a reply has a grammar, and its tool calls another",
            where="Sampling.grammar",
            fix='give the grammar or tool_choice ("none" goes with a grammar)',
        )
    called = {
        number: tool
        for number, tool in enumerate(tools)
        if not isinstance(choice, NamedTool) or tool.name == choice.name
    }
    if not called:
        known = ", ".join(sorted(tool.name for tool in tools)) or "none"
        what = f"tool {choice.name!r}" if isinstance(choice, NamedTool) else "a tool"
        raise UserError(
            f"{what} must be called; tools: {known}",
            where="tool_choice",
            fix="name one of the conversation's tools",
        )
    calls = Grammar.lark(_calls(called))
    if choice == "auto":
        placed = calls.placed(begin=use, end=used, then="free", lead="anything")
    else:
        begun = prompt[-1] != tokenizer.special[ASSISTANT]
        placed = calls.placed(begin=use, end=used, lead="nothing" if begun else "thinking")
    return replace(sampling, grammar=placed)


def _calls(tools: Mapping[int, ToolSpec]) -> str:
    """One call of any of `tools` (by their place in the conversation), as the Renderer writes it. References
    in a schema stay within it."""
    rules: list[str] = []
    for number, tool in tools.items():
        where = f"tools[{number}] ({tool.name}): input_schema"
        name = json.dumps(tool.name, ensure_ascii=False)
        head = json.dumps(f'{{"name":{name},"input":', ensure_ascii=False)
        given = schema_text(_object(tool.input_schema, where), where)
        rules.append(f'call_{number}: {head} %json {given} "}}"')
    return "\n".join([f"start: {' | '.join(f'call_{i}' for i in tools)}", *rules])


def _object(schema: dict[str, Any], where: str) -> dict[str, Any]:
    """A tool's input is an object, whether its schema says so or not."""
    kind = schema.get("type", "object")
    if kind != "object" and not (isinstance(kind, list) and "object" in kind):
        raise UserError(f"the type of a tool's input is {kind!r}", where=where, fix='let it be "object"')
    return {**schema, "type": "object"}
