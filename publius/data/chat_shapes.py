"""One row of public chat data -> a Conversation: every shape we accept, each in its function.

A row is a JSON object. Its keys say its shape; a row whose keys say nothing we know is an error that
lists them. Shapes: Messages (ours), OpenAI (`tool_calls`, role `tool`), ShareGPT, Alpaca and Dolly,
question with reasoning (GSM8K), multiple choice, and prompt with reply.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from pydantic import ValidationError

from publius.core.errors import UserError
from publius.core.messages import Conversation, Message, ToolSpec, assistant, check_roles, user

__all__ = ["Row", "conversation_of", "conversation_of_messages", "transcript", "with_head"]

Row = dict[str, Any]

_REPLY_KEYS = ("completion", "response", "reply", "refusal_long")
_ROLES = {
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant",
    "bard": "assistant", "model": "assistant", "agent": "assistant", "function_call": "assistant",
    "system": "system", "developer": "system",
    "tool": "tool", "function": "tool", "observation": "tool", "function_response": "tool",
    "tool_result": "tool",
}  # fmt: skip
_TURN = re.compile(r"(?:\A|\n\n)(Human|Assistant):[ \t]?")


def conversation_of(row: Row, where: str) -> Conversation:
    """The conversation a row holds, its roles checked.

    Raises:
        UserError: naming `where`, for an unknown shape, a malformed value, or roles out of order.
    """
    try:
        conversation = _build(row, where)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise malformed(error, where) from error
    check_roles(conversation, where)
    return conversation


def malformed(error: Exception, where: str) -> UserError:
    """A row whose keys are known but whose values are not."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    else:
        reason = f"missing {error}" if isinstance(error, KeyError) else str(error)
    return UserError(f"a row is malformed: {reason}", where=where, fix="see docs/data.md for the shapes")


def _build(row: Row, where: str) -> Conversation:
    for key, build in _SHAPES.items():
        if key in row:
            return with_head(build(row, where), row)
    raise UserError(
        f"unknown shape: a row with keys {', '.join(map(repr, row)) or '(none)'}",
        where=where,
        fix="give messages, conversations, instruction/output, question/answer or prompt/response",
    )


def with_head(conversation: Conversation, row: Row) -> Conversation:
    """The conversation under the `system` and `tools` that its row has beside it, unless it has its own."""
    head: dict[str, Any] = {}
    if row.get("system") and not conversation.system:
        if not isinstance(row["system"], str):
            raise TypeError("`system` is no text")
        head["system"] = row["system"]
    if row.get("tools") and not conversation.tools:
        tools = row["tools"]
        head["tools"] = tuple(map(_tool_spec, json.loads(tools) if isinstance(tools, str) else tools))
    return conversation.model_copy(update=head) if head else conversation


def _from_messages(row: Row, where: str) -> Conversation:
    conversation = conversation_of_messages(row["messages"], where, system=row.get("system"))
    return conversation.model_copy(update={"meta": _meta(row)})


def _from_sharegpt(row: Row, where: str) -> Conversation:
    turns = [{"role": turn["from"], "content": turn["value"]} for turn in row["conversations"]]
    conversation = conversation_of_messages(turns, where, system=row.get("system"))
    return conversation.model_copy(update={"meta": _meta(row)})


def _from_instruction(row: Row, where: str) -> Conversation:
    extra = row.get("input") or row.get("context") or ""
    asked = f"{row['instruction']}\n\n{extra}" if extra else row["instruction"]
    reply = row["output"] if "output" in row else row["response"]
    return Conversation(
        system=row.get("system") or None, messages=(user(asked), assistant(reply)), meta=_meta(row)
    )


def _from_question(row: Row, where: str) -> Conversation:
    if "choices" in row:
        letters = [chr(ord("A") + i) for i in range(len(row["choices"]))]
        lines = [f"{letter}. {choice}" for letter, choice in zip(letters, row["choices"], strict=True)]
        asked = "\n".join([row["question"], *lines])
        if row["answer"] not in range(len(lines)):  # -1 marks what is unlabelled
            raise IndexError(f"answer {row['answer']!r} is no index of {len(lines)} choices")
        return Conversation(messages=(user(asked), assistant(lines[row["answer"]])), meta=_meta(row))
    if not isinstance(row["answer"], (str, int, float)):  # a list would be said with its brackets
        raise TypeError(f"answer: text or a number is wanted, not {type(row['answer']).__name__}")
    reasoning, answer = row.get("reasoning", ""), str(row["answer"])
    if not reasoning and "\n####" in answer:  # GSM8K as first published
        reasoning, answer = (part.strip() for part in answer.rsplit("####", 1))
    thought = [{"type": "thinking", "thinking": reasoning}] if reasoning else []
    reply = assistant([*thought, {"type": "text", "text": answer}])
    return Conversation(messages=(user(row["question"]), reply), meta=_meta(row))


def _from_prompt(row: Row, where: str) -> Conversation:
    key = next((key for key in _REPLY_KEYS if key in row), None)
    if key is None:
        raise UserError(
            "a row has a prompt and no reply", where=where, fix=f"add one of {', '.join(_REPLY_KEYS)}"
        )
    given = row["prompt"]
    start = (
        conversation_of_messages(given, where)
        if isinstance(given, list)
        else Conversation(messages=(user(given),))
    )
    return start.then(assistant(row[key])).model_copy(update={"meta": _meta(row)})


def _from_text(row: Row, where: str) -> Conversation:
    return Conversation(messages=tuple(transcript(row["text"], where)), meta=_meta(row))


_SHAPES: dict[str, Callable[[Row, str], Conversation]] = {
    "messages": _from_messages,
    "conversations": _from_sharegpt,
    "instruction": _from_instruction,
    "question": _from_question,
    "prompt": _from_prompt,
    "text": _from_text,
}


def _meta(row: Row) -> dict[str, Any]:
    """What a row says of itself: its own `meta`, and its id and source."""
    meta = dict(row.get("meta") or {})
    return meta | {key: row[key] for key in ("id", "source") if key in row and key not in meta}


def transcript(text: str, where: str) -> list[Message]:
    """The turns of a raw `\\n\\nHuman: ...\\n\\nAssistant: ...` transcript (hh-rlhf).

    A turn marker counts at the start of the text or after a blank line. Two turns of one speaker in a
    row, which that data holds, are joined.

    Raises:
        UserError: when it does not begin with a Human turn.
    """
    parts = _TURN.split(text)
    if len(parts) < 3 or parts[0].strip():
        raise UserError(
            "a transcript does not begin with a turn",
            where=where,
            fix="write each turn after a blank line, as 'Human: ...' or 'Assistant: ...'",
        )
    turns: list[tuple[str, str]] = []
    for speaker, said in zip(parts[1::2], parts[2::2], strict=True):
        if turns and turns[-1][0] == speaker:
            turns[-1] = (speaker, f"{turns[-1][1]}\n\n{said.strip()}")
        else:
            turns.append((speaker, said.strip()))
    return [user(said) if speaker == "Human" else assistant(said) for speaker, said in turns]


def conversation_of_messages(
    rows: Sequence[Mapping[str, Any]],
    where: str,
    *,
    system: str | None = None,
    tools: tuple[ToolSpec, ...] = (),
) -> Conversation:
    """A conversation from a list of role/content objects, in our shape or OpenAI's.

    `tool_calls` (and messages of role `function_call`: the call as JSON text, or a list of calls) become
    tool_use blocks, messages of role `tool` become tool_result blocks of one user message (with what the
    user says next), and results without an id answer the calls in order.

    Raises:
        UserError: for an unknown role, or a result that answers no call.
    """
    builder = _Builder(where)
    for row in rows:
        role = _ROLES.get(str(row["role"]).lower())
        if role is None:
            raise UserError(
                f"unknown role {row['role']!r}", where=where, fix=f"use one of {', '.join(_ROLES)}"
            )
        if role == "system":
            system = "\n\n".join(part for part in (system, _plain(row["content"])) if part)
        else:
            builder.add(role, _called(row) if str(row["role"]).lower() == "function_call" else row)
    return Conversation(system=system or None, tools=tools, messages=builder.messages())


def _called(row: Mapping[str, Any]) -> Row:
    """A turn that is nothing but a call in JSON (ShareGPT's `function_call`), in OpenAI's shape."""
    calls = json.loads(row["content"])
    return {"role": "assistant", "tool_calls": calls if isinstance(calls, list) else [calls]}


class _Builder:
    """Gathers messages: gives calls their ids, and puts results into the user message they belong to."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._turns: list[tuple[str, list[Any]]] = []
        self._open: list[str] = []  # calls not yet answered
        self._calls = 0
        self._after_results = False

    def add(self, role: str, row: Mapping[str, Any]) -> None:
        if role == "tool":
            self._result(row)
            return
        blocks = self._blocks(row)
        if role == "user" and self._after_results:
            self._turns[-1][1].extend(blocks)  # in our shape, results and what the user says are one message
        else:
            self._turns.append((role, blocks))
        self._after_results = False

    def messages(self) -> tuple[Message, ...]:
        return tuple(
            Message.model_validate({"role": role, "content": blocks}) for role, blocks in self._turns
        )

    def _blocks(self, row: Mapping[str, Any]) -> list[Any]:
        blocks: list[Any] = []
        thought = row.get("reasoning_content") or row.get("thinking")
        if thought:
            blocks.append({"type": "thinking", "thinking": thought})
        content = row.get("content")
        if isinstance(content, str):
            blocks += [{"type": "text", "text": content}] if content else []
        else:
            blocks += [self._image(block) for block in content or ()]
        made = row.get("tool_calls") or [call for call in (row.get("function_call"),) if call]  # as of 2023
        calls = [self._call(call) for call in made]
        self._open = [b["id"] for b in [*blocks, *calls] if b["type"] == "tool_use"]
        return blocks + calls

    @staticmethod
    def _image(block: Any) -> Any:
        if isinstance(block, Mapping) and block.get("type") == "image_url":
            return {"type": "image", "source": {"type": "url", **cast("dict[str, Any]", block["image_url"])}}
        return block

    def _call(self, call: Mapping[str, Any]) -> dict[str, Any]:
        function = call.get("function", call)
        given = function.get("arguments", function.get("input"))
        if isinstance(given, str):
            try:
                given = json.loads(given) if given.strip() else {}
            except ValueError as error:
                raise UserError(
                    f"the arguments of a tool call are not JSON: {error}",
                    where=self._where,
                    fix="mend the row",
                ) from error
        self._calls += 1
        made = call.get("id") or f"toolu_{self._calls:04d}"
        return {"type": "tool_use", "id": made, "name": function["name"], "input": given or {}}

    def _result(self, row: Mapping[str, Any]) -> None:
        answered = (
            row.get("tool_call_id") or row.get("tool_use_id") or (self._open[0] if self._open else None)
        )
        if answered is None:
            raise UserError(
                "a tool result answers no call", where=self._where, fix="put it after its tool call"
            )
        if answered in self._open:
            self._open.remove(answered)
        block = {"type": "tool_result", "tool_use_id": answered, "content": _plain(row["content"])}
        if self._after_results:
            self._turns[-1][1].append(block)
        else:
            self._turns.append(("user", [block]))
        self._after_results = True


def _plain(content: Any) -> str:
    """Text of a content that may be a string, a list of text blocks, or any JSON (a tool's result)."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(
        isinstance(b, Mapping) and "text" in b for b in cast("list[Any]", content)
    ):
        return "".join(block["text"] for block in cast("list[dict[str, Any]]", content))
    return json.dumps(content, ensure_ascii=False)


def _tool_spec(tool: Mapping[str, Any]) -> ToolSpec:
    """A tool in our shape, OpenAI's (`function`), or a flat one of parameter descriptions (SGD)."""
    function = tool.get("function", tool)
    schema = function.get("input_schema", function.get("parameters")) or {}
    if schema and all(isinstance(value, str) for value in schema.values()) and "type" not in schema:
        properties = {name: {"type": "string", "description": text} for name, text in schema.items()}
        required = list(function.get("required") or ())
        schema = {"type": "object", "properties": properties, "required": required}
    return ToolSpec(
        name=function["name"], description=function.get("description") or "", input_schema=dict(schema)
    )
