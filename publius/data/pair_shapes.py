"""One row of public preference or prompt data -> a Preference, or a prompt to answer."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from pydantic_core import to_jsonable_python

from publius.core.errors import UserError
from publius.core.messages import Conversation, Message, TextBlock, assistant, check_roles, text_of, user
from publius.data.chat_shapes import (
    Row,
    conversation_of,
    conversation_of_messages,
    malformed,
    transcript,
    with_head,
)
from publius.data.oasst import is_tree, tree_preferences
from publius.data.types import Preference

__all__ = ["MissingSide", "TiedPair", "check_pair", "preferences_of", "prompt_of"]


class MissingSide(UserError):
    """A pair of which one reply is absent or empty."""


class TiedPair(UserError):
    """A pair of which neither reply is better."""


def preferences_of(row: Row, where: str) -> list[Preference]:
    """The pairs a row holds: one, or of a message tree all that were ranked (`oasst.py`). Shapes:

    - ours, as `write_preferences` stores it;
    - `prompt` (text or messages), `chosen`, `rejected` (text, a message, or messages);
    - `first_user_turn`, `chosen`, `rejected`;
    - `chosen`, `rejected` as whole conversations: messages, or hh-rlhf transcripts. They must agree up
      to the last reply.
    - `prompt`, `response_1`, `response_2`, `better` (1 or 2; 0, "tie" or null for neither).

    `system` and `tools` beside any of these are the prompt's, unless it has its own.
    An optional `probability` in [0, 1] is the target that `chosen` is better. A tie (so said, or two
    replies alike) has probability 0.5.

    Raises:
        MissingSide: naming `where`, for a reply that is not there.
        UserError: naming `where`, for an unknown shape, a malformed value, or roles out of order.
    """
    try:
        found = tree_preferences(row) if is_tree(row) else [_build(row, where)]
    except (ValidationError, KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise malformed(error, where) from error
    for pair in found:
        check_roles(pair.prompt.then(pair.chosen), where)
    return [
        pair.model_copy(update={"probability": 0.5}) if _same(pair.chosen, pair.rejected) else pair
        for pair in found
    ]


def check_pair(pair: Preference, where: str, *, ties: bool = True) -> None:
    """See that a pair has two replies, and is no tie unless `ties` are allowed.

    Raises:
        MissingSide: for an empty reply.
        TiedPair: for a tie.
    """
    for name, reply in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        if not any(not isinstance(block, TextBlock) or block.text.strip() for block in reply.content):
            raise MissingSide(
                f"a pair lacks a reply: `{name}` is empty",
                where=where,
                fix="drop such pairs, or mend the row",
            )
    if pair.probability == 0.5 and not ties:
        raise TiedPair("a pair is a tie", where=where, fix="drop ties, or keep them as labels of 0.5")


def _same(one: Message, other: Message) -> bool:
    texts = [" ".join(text_of(message).split()) for message in (one, other)]
    return one == other or (texts[0] == texts[1] and _only_text(one) and _only_text(other))


def _only_text(message: Message) -> bool:
    return all(isinstance(block, TextBlock) for block in message.content)


def _judged(row: Row, where: str) -> Row:
    """A row of two numbered replies as one of a chosen and a rejected."""
    replies = (row["response_1"], row["response_2"])
    better = row["better"]
    if str(better) in ("1", "2"):
        chosen, rejected = replies if str(better) == "1" else replies[::-1]
        return {**row, "chosen": chosen, "rejected": rejected}
    if better is not None and str(better) not in ("0", "tie"):
        raise UserError(
            f"`better` is {better!r}", where=where, fix='write 1 or 2, or 0, "tie" or null for neither'
        )
    return {**row, "chosen": replies[0], "rejected": replies[1], "probability": 0.5}


def _build(row: Row, where: str) -> Preference:
    if "response_1" in row and "response_2" in row and "better" in row:
        row = _judged(row, where)
    sides = [key for key in ("chosen", "rejected") if row.get(key) is not None]
    if len(sides) < 2 and ("chosen" in row or "rejected" in row):
        absent = " and ".join(f"`{key}`" for key in ("chosen", "rejected") if key not in sides)
        raise MissingSide(
            f"a pair lacks a reply: no {absent}", where=where, fix="drop such pairs, or mend the row"
        )
    if not sides:
        raise UserError(
            f"unknown shape: a row with keys {', '.join(map(repr, row)) or '(none)'}",
            where=where,
            fix="give prompt, chosen and rejected",
        )
    prompt = row.get("prompt", row.get("first_user_turn"))
    chosen, chosen_start = _reply(row["chosen"], where, prompt is None)
    rejected, rejected_start = _reply(row["rejected"], where, prompt is None)
    if chosen_start != rejected_start:
        raise UserError(
            "chosen and rejected differ before their last reply",
            where=where,
            fix="give two replies to one prompt",
        )
    if chosen_start is not None and chosen_start.messages:
        start = chosen_start
    elif prompt is None:
        raise UserError("a pair has no prompt", where=where, fix="add a prompt, or give whole conversations")
    else:
        start = _prompt(prompt, where)
    start = with_head(start, row)
    meta = dict(start.meta) | {key: row[key] for key in ("id",) if key in row}
    return Preference(
        prompt=start.model_copy(update={"meta": meta}),
        chosen=chosen,
        rejected=rejected,
        probability=row.get("probability", 1.0),
        source=row.get("source") or "",
    )


def _reply(value: Any, where: str, is_transcript: bool) -> tuple[Message, Conversation | None]:
    """A reply and, where the value is a whole conversation, what came before it, its system included."""
    if isinstance(value, dict):
        return Message.model_validate(value), None
    if isinstance(value, str):
        if not is_transcript:  # a reply to a given prompt may well say "Human:"
            return assistant(value), None
        whole = Conversation(messages=tuple(transcript(value.lstrip(), where)))
    else:
        whole = conversation_of_messages(value, where)
    if not whole.messages or whole.messages[-1].role != "assistant":
        raise UserError(
            "a reply does not end with the assistant", where=where, fix="end it with an assistant turn"
        )
    return whole.messages[-1], whole.model_copy(update={"messages": whole.messages[:-1]})


def _prompt(value: Any, where: str) -> Conversation:
    if isinstance(value, dict):
        return Conversation.model_validate(value)
    if isinstance(value, list):
        return conversation_of_messages(value, where)
    return Conversation(messages=(user(value),))


def prompt_of(row: Row, where: str) -> Conversation:
    """The prompt a row holds: a conversation that ends with the user.

    Shapes: `prompt` (text or messages), `first_user_turn`, `question` alone, `user_input` with the system
    text in `test_case_prompt`, or any conversation, whose last reply is dropped. `system` and `tools` beside
    any of these are the prompt's, unless it has its own. What the row says besides (category, id, expected
    answers) is kept in `meta`.

    Raises:
        UserError: naming `where`, as `preferences_of`, and for what JSON cannot hold.
    """
    try:
        prompt = _build_prompt(row, where)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise malformed(error, where) from error
    if prompt.messages and prompt.messages[-1].role == "assistant":
        prompt = prompt.model_copy(update={"messages": prompt.messages[:-1]})
    check_roles(prompt, where)
    return prompt.model_copy(update={"meta": {k: _storable(k, v, where) for k, v in prompt.meta.items()}})


def _storable(key: str, value: Any, where: str) -> Any:
    """A value of a parquet file as JSON has it (a date as text)."""
    try:
        return to_jsonable_python(value)
    except ValueError as error:  # bytes that are no text, such as an image
        raise UserError(
            f"`{key}` holds what JSON cannot hold", where=where, fix="leave that column out"
        ) from error


_SAID = {"messages", "conversations", "text", "instruction", "input", "context"}
"""Keys of a conversation's shape that hold its words; what answers it is kept, to be graded by."""


def _build_prompt(row: Row, where: str) -> Conversation:
    return with_head(_bare_prompt(row, where), row)


def _bare_prompt(row: Row, where: str) -> Conversation:
    used = {"prompt", "first_user_turn", "question", "user_input", "test_case_prompt", "meta"}
    used |= {"system", "tools"}
    meta = dict(row.get("meta") or {}) | {key: value for key, value in row.items() if key not in used}
    if "prompt" in row:
        return _prompt(row["prompt"], where).model_copy(update={"meta": meta})
    if "first_user_turn" in row:
        return Conversation(messages=(user(row["first_user_turn"]),), meta=meta)
    if "user_input" in row:
        system = row.get("test_case_prompt")
        return Conversation(system=system, messages=(user(row["user_input"]),), meta=meta)
    if "question" in row and "answer" not in row:
        return Conversation(messages=(user(row["question"]),), meta=meta)
    conversation = conversation_of(row, where)
    besides = {key: value for key, value in meta.items() if key not in _SAID}
    return conversation.model_copy(update={"meta": besides | conversation.meta})
