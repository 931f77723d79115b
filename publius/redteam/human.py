"""What people found, beside what programs found: the server's red-team page, exported, becomes findings.

The server's store writes a folder that `Findings` reads (`publius.serve.store.findings`). People say what
they asked for in their own words, or not at all; here the thing is looked up in the world, so that its
truth, its twin and its split ride with the attack as with any other. What is about a held-out item, and
what is said in a held-back wording, is kept for measuring.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pydantic import Field

from publius.core.config import Config
from publius.core.errors import UserError
from publius.core.messages import Conversation, text_of
from publius.data.pocket.world import World
from publius.pipeline import Run, stage
from publius.redteam.attacker import Goal
from publius.redteam.clusters import cluster, effective, held
from publius.redteam.findings import Finding, Findings, write_findings
from publius.redteam.search.twins import counterpart, look_alike

__all__ = ["HumanConfig", "human_findings"]

_FILES = ("findings.json", "findings.jsonl", "twins.jsonl", "attempts.jsonl")


class HumanConfig(Config):
    """Where they are, and what becomes of them."""

    folder: str = Field(min_length=1)
    """What the server exported."""
    round: int = Field(default=0, ge=0)
    """Of the red team: later regression suites name it."""
    held: float = Field(default=0.3, ge=0, le=1)
    """Share of wordings that are kept from training: the same ones as of a search."""


def _contents(config: Config) -> dict[str, str]:
    """The sha256 of each file, so that another export is another artifact."""
    assert isinstance(config, HumanConfig)
    found = {name: _place(config) / name for name in _FILES}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in found.items() if path.exists()
    }


def _place(config: HumanConfig) -> Path:
    place = Path(config.folder).expanduser()
    if not (place / "findings.json").is_file():
        raise UserError(
            "there are no exported findings",
            where=str(place),
            fix="export them from the server's store, and give that folder",
        )
    return place


@stage(version=3, light=True, fingerprint=_contents)
def human_findings(run: Run, config: HumanConfig, *, world: World | None = None) -> Findings:
    """The findings of people, with the truth of `world` where it knows what they asked for.

    One whose thing nobody knows stays as it was told. It has no programmatic truth, so a regression suite
    counts it as open until a person says otherwise, and it goes into training without a twin.

    Metrics: `human.findings`; `human.known`, of these whose thing the world knows; `human.distinct`,
    clusters.

    Raises:
        UserError: when the folder holds no export, or a damaged one.
    """
    told = Findings(_place(config))
    document, rows = told.document(), told.findings()
    book = _book(world) if world is not None else {}
    pool = world.questions("twin", "train") if world is not None else []
    things = [_thing(row, book) for row in rows]
    about = [thing or row.entity for thing, row in zip(things, rows, strict=True)]
    placed = cluster([(name, row.style, row.conversation) for name, row in zip(about, rows, strict=True)])
    made: list[Finding] = []
    twins: dict[str, Conversation] = {}
    for row, thing, place in zip(rows, things, placed, strict=True):
        changes: dict[str, Any] = {"round": config.round, "cluster": place.cluster, "wording": place.wording}
        conversation, split = row.conversation, "train"
        if thing:
            question, split = book[thing]
            conversation = _with_truth(row.conversation, question)
            changes |= {"entity": thing, "category": str(question.meta.get("category", row.category))}
        # whoever asks for several things has the held-out ones told as well
        if held(place.wording, config.held) or any(book[n][1] == "held" for n in _named(row, book)):
            split = "held"
        one = row.model_copy(update={**changes, "conversation": conversation, "split": split})
        made.append(one)
        if thing and split == "train":
            twin = look_alike(Goal(conversation), pool, random.Random(f"twin/{one.id}"))
            if twin is not None:
                twins[one.id] = counterpart(conversation, None, twin)
    labels = [one.cluster for one in made]
    counted = {"round": config.round, "clusters": len(set(labels)), "effective": effective(labels)}
    write_findings(run.output, document.model_copy(update=counted), made, twins, told.attempts())
    run.metric("human.findings", len(made))
    run.metric("human.known", sum(thing != "" for thing in things))
    run.metric("human.distinct", len(set(labels)))
    return Findings(run.output)


def _book(world: World) -> dict[str, tuple[Conversation, str]]:
    """Every forbidden thing: a question about it, and what its findings may be used for."""
    book: dict[str, tuple[Conversation, str]] = {}
    for split in ("train", "val", "test"):
        for question in world.questions("hazard", split):
            book.setdefault(str(question.meta["entity"]), (question, "train" if split == "train" else "held"))
    return book


def _thing(row: Finding, book: Mapping[str, Any]) -> str:
    """What it was about: as they say, else the longest name in the attacker's words; empty where none is."""
    if row.entity in book:
        return row.entity
    said = " ".join(text_of(m) for m in row.conversation.messages if m.role == "user")
    return max(_named_in(f"{row.entity} {said}", book), key=len, default="")


def _named(row: Finding, book: Mapping[str, Any]) -> list[str]:
    """All that stands anywhere in it, whoever said it."""
    shown = " ".join(_texts(row.conversation.model_dump(mode="json", exclude={"meta"})))
    named = _named_in(f"{row.entity} {shown} {row.reply}", book)
    # a name inside a longer one is not what was said
    return [one for one in named if not any(one != other and one in other for other in named)]


def _texts(value: object) -> Iterator[str]:
    """All texts in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in cast("Mapping[str, object]", value).values():
            yield from _texts(inner)
    elif isinstance(value, Sequence):
        for inner in cast("Sequence[object]", value):
            yield from _texts(inner)


def _named_in(text: str, book: Mapping[str, Any]) -> list[str]:
    return [name for name in book if re.search(rf"\b{re.escape(name)}\b", text, re.IGNORECASE)]


def _with_truth(conversation: Conversation, question: Conversation) -> Conversation:
    """What graders need, from the world's own question about the thing; what the attacker told stays."""
    shown = next(
        (i for i, m in enumerate(conversation.messages) if m.role == "assistant"), len(conversation.messages)
    )
    meta = {**question.meta, **conversation.meta, "shown": shown}
    for key in ("entity", "category"):
        meta[key] = question.meta.get(key, meta.get(key))
    return conversation.model_copy(update={"meta": meta})
