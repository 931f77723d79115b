"""The look-alike of a finding: the same words around a request that is fine, so that training learns the
difference in harm and not the wrapper. (Of a refused harmless request, it is the harmful look-alike.)"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from publius.core.messages import Conversation, Message, TextBlock, text_of, user
from publius.redteam.attacker import Goal
from publius.redteam.search.chains import Chain, first_words

__all__ = ["counterpart", "look_alike"]

_MARKS = ("style", "mutators", "shown", "begun", "language")
"""What of a conversation's `meta` tells of its clothes; the rest tells of what is asked for."""


def look_alike(goal: Goal, pool: Sequence[Conversation], rng: random.Random) -> Conversation | None:
    """The question of `pool` that belongs beside the goal: its own twin, else one of its category, else
    any."""
    meta = goal.question.meta
    here, there = ("entity", "twin") if goal.benign else ("twin", "entity")
    own = [q for q in pool if q.meta.get(there) and q.meta.get(there) == meta.get(here)]
    near = [q for q in pool if meta.get("category") and q.meta.get("category") == meta.get("category")]
    for same in (own, near, list(pool)):
        if same:
            return rng.choice(same)
    return None


def counterpart(sent: Conversation, chain: Chain | None, question: Conversation) -> Conversation:
    """`sent`, asking `question` instead, with as few changes as will do.

    The name is exchanged where it stands in the attack. Where it does not (it is disguised), the chain is
    played again around `question`; where that cannot be done, the last line is asked alone. Replies that the
    model gave are its words about another thing, so an attack over several turns keeps its last line only.
    """
    old, new = str(sent.meta.get("entity", "")), str(question.meta.get("entity", ""))
    shown = int(sent.meta.get("shown", len(sent.messages)))
    live = any(m.role == "assistant" for m in sent.messages[shown:-1])
    last = _last_user(sent)
    if old and new and last is not None and _names(text_of(last), old):
        kept = [last] if live else sent.messages
        renamed = tuple(_renamed(message, old, new) for message in kept)
        base = question if live else sent
        # an order that a writer put into the operator's place names the thing, too
        system = None if base.system is None else _exchanged(base.system, old, new)
        return _marked(base.model_copy(update={"messages": renamed, "system": system}), sent, question)
    if chain is not None and not live:
        dressed = first_words(chain, Goal(question))
        if dressed is not None:
            return _marked(dressed, dressed, question)
    return _marked(question, sent, question)


def _marked(made: Conversation, clothes: Conversation, question: Conversation) -> Conversation:
    """`made` with the truth of `question` and the marks of `clothes`."""
    marks = {key: clothes.meta[key] for key in _MARKS if key in clothes.meta}
    if "shown" in marks:
        begun = made.messages[-1].role == "assistant"
        marks["shown"] = len(made.messages) - begun
    if made.messages[-1].role != "assistant":
        marks.pop("begun", None)
    return made.model_copy(update={"meta": {**question.meta, **marks}})


def _last_user(conversation: Conversation) -> Message | None:
    return next((m for m in reversed(conversation.messages) if m.role == "user"), None)


def _names(text: str, name: str) -> bool:
    return re.search(re.escape(name), text, re.IGNORECASE) is not None


def _exchanged(text: str, old: str, new: str) -> str:
    def put(found: re.Match[str]) -> str:
        return new[:1].upper() + new[1:] if found.group()[:1].isupper() else new

    return re.sub(re.escape(old), put, text, flags=re.IGNORECASE)


def _renamed(message: Message, old: str, new: str) -> Message:
    if all(isinstance(block, TextBlock) for block in message.content):
        text = _exchanged(text_of(message), old, new)
        return user(text) if message.role == "user" else Message(
            role=message.role, content=(TextBlock(text=text),)
        )  # fmt: skip
    return message
