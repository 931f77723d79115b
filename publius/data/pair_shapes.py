"""One row of public preference or prompt data -> a Preference, or a prompt to answer."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from publius.core.errors import UserError
from publius.core.messages import Conversation, Message, TextBlock, assistant, check_roles, user
from publius.data.chat_shapes import Row, conversation_of, conversation_of_messages, malformed, transcript
from publius.data.types import Preference

__all__ = ["preference_of", "prompt_of"]


def preference_of(row: Row, where: str) -> Preference:
    """The pair a row holds. Shapes:

    - ours, as `write_preferences` stores it;
    - `prompt` (text or messages), `chosen`, `rejected` (text, a message, or messages);
    - `first_user_turn`, `chosen`, `rejected`;
    - `chosen`, `rejected` as whole conversations: messages, or hh-rlhf transcripts. They must agree up
      to the last reply.
    - `prompt`, `response_1`, `response_2`, `better` (1 or 2).

    An optional `probability` in [0, 1] is the target that `chosen` is better.

    Raises:
        UserError: naming `where`, for an unknown shape, a malformed value, roles out of order, an empty side,
            and a tie (both sides the same, or `better` names neither).
    """
    try:
        preference = _build(row, where)
    except (ValidationError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise malformed(error, where) from error
    check_roles(preference.prompt.then(preference.chosen), where)
    _check_sides(preference, where)
    return preference


def _check_sides(pair: Preference, where: str) -> None:
    for name, side in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        if not any(not isinstance(b, TextBlock) or b.text.strip() for b in side.content):
            raise UserError(
                f"{name} is empty: the pair has one side",
                where=where,
                fix="leave the row out, or set drop_malformed=true to count and pass over it",
            )
    if pair.chosen.content == pair.rejected.content:
        raise UserError(
            "chosen and rejected are the same: a tie",
            where=where,
            fix="leave the row out, or set drop_malformed=true to count and pass over it",
        )


def _build(row: Row, where: str) -> Preference:
    if "response_1" in row and "better" in row:
        if row["better"] not in (1, 2):
            raise UserError(
                f"`better` is {row['better']!r}, which names no side",
                where=where,
                fix="give 1 or 2; a tie teaches nothing: leave it out, or set drop_malformed=true",
            )
        replies = (row["response_1"], row["response_2"])
        chosen, rejected = replies if row["better"] == 1 else replies[::-1]
        row = {**row, "chosen": chosen, "rejected": rejected}
    if "chosen" not in row or "rejected" not in row:
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
    if chosen_start:
        start = Conversation(messages=tuple(chosen_start))
    elif prompt is None:
        raise UserError("a pair has no prompt", where=where, fix="add a prompt, or give whole conversations")
    else:
        start = _prompt(prompt, where)
    meta = dict(start.meta) | {key: row[key] for key in ("id",) if key in row}
    return Preference(
        prompt=start.model_copy(update={"meta": meta}),
        chosen=chosen,
        rejected=rejected,
        probability=row.get("probability", 1.0),
        source=row.get("source") or "",
    )


def _reply(value: Any, where: str, is_transcript: bool) -> tuple[Message, list[Message]]:
    """A reply and, where the value is a whole conversation, what came before it."""
    if isinstance(value, dict):
        return Message.model_validate(value), []
    if isinstance(value, str):
        if not is_transcript:  # a reply to a given prompt may well say "Human:"
            return assistant(value), []
        turns = transcript(value.lstrip(), where)
    else:
        turns = list(conversation_of_messages(value, where).messages)
    if not turns or turns[-1].role != "assistant":
        raise UserError(
            "a reply does not end with the assistant", where=where, fix="end it with an assistant turn"
        )
    return turns[-1], turns[:-1]


def _prompt(value: Any, where: str) -> Conversation:
    if isinstance(value, dict):
        return Conversation.model_validate(value)
    if isinstance(value, list):
        return conversation_of_messages(value, where)
    return Conversation(messages=(user(value),))


def prompt_of(row: Row, where: str) -> Conversation:
    """The prompt a row holds: a conversation that ends with the user.

    Shapes: `prompt` (text or messages), `first_user_turn`, `question` alone, `user_input` with the system
    text in `test_case_prompt`, or any conversation, whose last reply is dropped. What the row says besides
    (category, id, expected answers) is kept in `meta`.

    Raises:
        UserError: naming `where`, as `preference_of`.
    """
    try:
        prompt = _build_prompt(row, where)
    except (ValidationError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise malformed(error, where) from error
    if prompt.messages and prompt.messages[-1].role == "assistant":
        prompt = prompt.model_copy(update={"messages": prompt.messages[:-1]})
    check_roles(prompt, where)
    return prompt


def _build_prompt(row: Row, where: str) -> Conversation:
    used = {"prompt", "first_user_turn", "question", "user_input", "test_case_prompt", "meta"}
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
    return conversation_of(row, where)
