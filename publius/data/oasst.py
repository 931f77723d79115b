"""Open Assistant's message trees -> pairs of replies that people ranked.

A tree is one row: a prompter's message with `replies`, each with its own, and among the replies to one
message a `rank` from 0 (best) where people gave one (Köpf et al. 2023, arXiv 2304.07327).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any, cast

from publius.core.messages import Conversation, Message, assistant, user
from publius.data.chat_shapes import Row
from publius.data.types import Preference

__all__ = ["is_tree", "tree_preferences"]


def is_tree(row: Row) -> bool:
    """Is the row a message tree?"""
    return isinstance(row.get("prompt"), dict) and "replies" in row["prompt"]


def tree_preferences(row: Row, source: str = "oasst") -> list[Preference]:
    """Every pair of ranked replies to one message, the better first; equal ranks make a tie (0.5).

    Deleted messages, with what follows them, and replies that nobody ranked are left out.
    """
    if row["prompt"].get("deleted"):
        return []
    tree = str(row.get("message_tree_id") or row["prompt"].get("message_id") or "")
    return list(_walk(row["prompt"], (), {"id": tree}, str(row.get("source") or source)))


def _walk(
    node: dict[str, Any], before: tuple[Message, ...], meta: dict[str, Any], source: str
) -> Iterator[Preference]:
    said = assistant(node["text"]) if node["role"] == "assistant" else user(node["text"])
    path = (*before, said)
    replies = [r for r in cast("list[dict[str, Any]]", node.get("replies") or []) if not r.get("deleted")]
    if node["role"] != "assistant":
        yield from _pairs(replies, Conversation(messages=path, meta=meta), source)
    for reply in replies:
        yield from _walk(reply, path, meta, source)


def _pairs(replies: Sequence[dict[str, Any]], prompt: Conversation, source: str) -> Iterator[Preference]:
    ranked = sorted((r for r in replies if r.get("rank") is not None), key=lambda r: int(r["rank"]))
    for better, worse in combinations(ranked, 2):
        yield Preference(
            prompt=prompt,
            chosen=assistant(better["text"]),
            rejected=assistant(worse["text"]),
            probability=0.5 if better["rank"] == worse["rank"] else 1.0,
            source=source,
        )
