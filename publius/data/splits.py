"""What keeps training and held-out items apart: both go by what an item is about, never by its place."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

from publius.core.messages import Conversation, Message, text_of

__all__ = ["about", "apart", "by_prompt", "normal", "things"]

_Item = TypeVar("_Item")


def about(messages: Sequence[Message]) -> str:
    """What a conversation is split by: the first message's text."""
    return text_of(messages[0]) if messages else ""


def normal(text: str) -> str:
    """The text without case and spacing, so that trivial copies are one."""
    return " ".join(text.casefold().split())


def by_prompt(items: Iterable[_Item], prompt_of: Callable[[_Item], Conversation]) -> list[list[_Item]]:
    """Items whose prompts begin alike (in all but case and spacing) together, in the order of their first.

    Several pairs of one prompt, or the replies of one tree, are cut in two by a split that goes by items.
    """
    groups: dict[str, list[_Item]] = {}
    for item in items:
        groups.setdefault(normal(about(prompt_of(item).messages)), []).append(item)
    return list(groups.values())


def things(prompts: Iterable[Conversation]) -> list[Hashable]:
    """What each prompt asks for: the thing it names (`meta["entity"]`), what it begins with, or itself.

    Questions about one thing are answered alike, so an interval clusters them (`core.stats.clustered_rate`).
    """
    return apart(str(prompt.meta.get("entity") or "") or about(prompt.messages) for prompt in prompts)


def apart(names: Iterable[str]) -> list[Hashable]:
    """Names as clusters: what has none is alone in its own, and not one with all others that have none."""
    return [name or index for index, name in enumerate(names)]
