"""What attackers share: marks for the referee, words about what is asked for, and asking a writer.

Every conversation that is sent bears in its `meta`, beside what the question brought: `style` (the attacker's
name), `shown` and `begun` (what of it is not the model's own; see `publius.redteam.referee`), and `mutators`
(names, in the order in which they were applied) where there were any.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from typing import Any

from publius.core.messages import Conversation, Message, text_of, user
from publius.redteam.attack import question_text
from publius.redteam.attacker import Goal, Move, Seen, Send, Write

__all__ = [
    "about",
    "adapted",
    "asked",
    "last_reply",
    "marked",
    "on_topic",
    "question_of",
    "sent",
    "thing",
    "with_meta",
    "written",
]

_COMMON = frozenset(
    ("what", "does", "give", "make", "tell", "know", "need", "please", "about", "want", "with", "from",
     "where", "that", "this", "how", "the")
)  # fmt: skip
_LONGEST = 2000
"""Characters of a rewriting: what is longer is no request any more."""


def with_meta(conversation: Conversation, **changes: Any) -> Conversation:
    """`conversation` with keys of `meta` set; None takes one away."""
    meta = {**conversation.meta, **changes}
    return conversation.model_copy(update={"meta": {k: v for k, v in meta.items() if v is not None}})


def marked(conversation: Conversation, style: str) -> Conversation:
    """A conversation nobody has replied to yet, with the marks that tell the attacker's part from the
    model's.

    The user's further lines (`meta["turns"]`) go: whoever plays them has them.
    """
    begun = conversation.messages[-1].role == "assistant"
    return with_meta(
        conversation,
        style=style,
        shown=len(conversation.messages) - begun,
        begun=text_of(conversation.messages[-1]) if begun else None,
        turns=None,
    )


def asked(goal: Goal, style: str, text: str | None = None, **meta: Any) -> Conversation:
    """The goal's question, or `text` in its place, ready to be sent."""
    question = goal.question
    if text is not None:
        question = question.model_copy(update={"messages": (*question.messages[:-1], user(text))})
    return with_meta(marked(question, style), **meta)


def question_of(goal: Goal) -> str:
    """The words of the request."""
    return question_text(goal.question)


def thing(goal: Goal) -> str:
    """The name of what is asked for; the whole request where nobody says."""
    return str(goal.question.meta.get("entity") or question_of(goal))


def last_reply(seen: Seen) -> str:
    """What came back, as text."""
    return "" if seen.conversation is None else text_of(seen.conversation.messages[-1])


def sent(conversation: Conversation, goal: Goal, lines: Sequence[str] = ()) -> Generator[Move, Seen, Seen]:
    """Send, then say `lines` one after another to whatever is replied, until the goal is reached.

    Returns: the last that came of it; where a later line got no reply, the one before.
    """
    seen = yield Send(conversation)
    for line in lines:
        if seen.conversation is None or seen.succeeds(goal):
            break
        more = yield Send(seen.conversation.then(user(line)))
        if more.conversation is None:
            break
        seen = more
    return seen


def about(goal: Goal) -> frozenset[str]:
    """The words of a request that say what it is about."""
    words = re.findall(r"[^\W\d_]{4,}", f"{question_of(goal)} {thing(goal)}".lower())
    return frozenset(words) - _COMMON


def on_topic(goal: Goal, text: str) -> bool:
    """Whether a rewriting still has a word of what is asked for (true where the request has none to lose)."""
    wanted = about(goal)
    return not wanted or any(word in text.lower() for word in wanted)


def adapted(memory: Sequence[Conversation], goal: Goal, style: str) -> Conversation | None:
    """The best earlier attack with this goal's thing in the place of its own; None where there is nothing to
    swap.

    Only what was said before the model's first word is kept.
    """
    for earlier in memory:
        old, new = str(earlier.meta.get("entity", "")), thing(goal)
        own = earlier.messages[: int(earlier.meta.get("shown", 1))]
        last = own[-1] if own else None
        if not old or last is None or last.role != "user" or old not in text_of(last):
            continue
        told = text_of(last).replace(old, new)
        return asked(goal, style, told, mutators=earlier.meta.get("mutators"))
    return None


def written(prompt: str, system: str = "") -> Generator[Move, Seen, str | None]:
    """Ask the attacker's own model for a text.

    Returns: it, without quotation marks around it; None where nobody wrote, or what came is empty or no
        request any more (very long).
    """
    question = Conversation(system=system or None, messages=(user(prompt),))
    seen = yield Write(question)
    if seen.conversation is None:
        return None
    said: Message = seen.conversation.messages[-1]
    text = text_of(said).strip().strip("\"'`").strip()
    return text if 0 < len(text) <= _LONGEST else None
