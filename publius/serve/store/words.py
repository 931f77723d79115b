"""Short texts that people give: names and tags."""

from __future__ import annotations

from collections.abc import Iterable

from publius.core.errors import UserError

__all__ = ["is_id", "one_line", "tag_list"]

_LONGEST = 200


def one_line(text: str, what: str) -> str:
    """`text` without blanks around it.

    Raises:
        UserError: naming `what`, when nothing is left, it is long, or it holds what cannot be printed.
    """
    text = text.strip()
    if not text or len(text) > _LONGEST or not text.isprintable():
        raise UserError(
            f"{what} is empty, longer than {_LONGEST} characters, or holds characters that cannot be printed",
            fix="give a short line of text",
        )
    return text


def is_id(text: str) -> bool:
    """Whether `text` could be an id of ours; what could not is not looked up: a database may choke on it."""
    return len(text) <= _LONGEST and text.isascii() and text.replace("_", "").isalnum()


def tag_list(tags: Iterable[str]) -> tuple[str, ...]:
    """Tags, each once, in the order given.

    Raises:
        UserError: for a tag that is no short line, or more than 50.
    """
    found = tuple(dict.fromkeys(one_line(tag, "a tag") for tag in tags))
    if len(found) > 50:
        raise UserError("more than 50 tags", fix="give fewer")
    return found
