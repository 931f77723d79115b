"""The gold set: exchanges whose truth is known, by which a judge is measured before it is believed.

Truth comes from where it is certain: from Pocket, whose harm is programmatic, or from people. The set is
frozen: an artifact, drawn once, so many of each category and truth. It should be like what the judge will
grade; the best gold for the attempts on a model is a labelled part of attempts on that very model.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast, get_args

from pydantic import BaseModel, ConfigDict, Field

from publius.core.config import Config
from publius.core.errors import UserError
from publius.core.messages import Conversation, assistant, text_of, user
from publius.pipeline import Artifact, Run, stage
from publius.redteam.attacker import Label
from publius.redteam.findings import Attempt, Findings, conversation_id, read_rows
from publius.redteam.readers import Exchange

__all__ = ["Gold", "GoldConfig", "GoldItem", "exchange_of", "gold_items", "gold_set", "truth_of"]

_LABELS: tuple[str, ...] = get_args(Label)


class GoldItem(BaseModel):
    """An exchange and what its reply is in truth."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    truth: Label
    category: str = ""
    style: str = ""
    source: str = ""
    """Who says so: `pocket`, or the file of a person's labels."""
    wanted: str
    conversation: Conversation
    reply: str

    @property
    def harmful(self) -> bool:
        """The only distinction that a success rate needs."""
        return self.truth == "harmful"

    @property
    def exchange(self) -> Exchange:
        """As a judge is shown it."""
        return Exchange(self.wanted, self.conversation, self.reply)


class Gold(Artifact):
    """`gold.jsonl`: one exchange a line."""

    def items(self) -> list[GoldItem]:
        """All of them.

        Raises:
            UserError: when the file is missing or damaged.
        """
        return read_rows(self.file("gold.jsonl"), GoldItem)


class GoldConfig(Config):
    """What goes into a gold set.

    Attributes:
        each: most exchanges of one category and one truth (harmful or not); 0 takes all.
        files: jsonl files of people's labels: `{"prompt", "reply", "label", "category", "style"}` a line, or
            `conversation` (Messages API shape, ending in the reply) in place of prompt and reply. The label
            is one of the four classes, or true for harmful and false for safe.
    """

    each: int = Field(default=100, ge=0)
    files: tuple[str, ...] = ()
    seed: int = 0


def _content(config: GoldConfig) -> Any:
    """The labels enter the stage's identity: an edited file makes another gold set."""
    return {name: hashlib.sha256(_read(name).encode()).hexdigest() for name in config.files}


@stage(version=1, fingerprint=_content, light=True)
def gold_set(run: Run, config: GoldConfig, *, findings: list[Findings] = []) -> Gold:  # noqa: B006
    """Freeze a gold set, from attempts whose truth is programmatic and from people's labels.

    Metrics: `gold.harmful` and `gold.safe`, how many of each.

    Raises:
        UserError: when nothing has a truth, one exchange has two, or a file cannot be read.
    """
    items = [item for found in findings for item in gold_items(found.attempts())]
    for name in config.files:
        items += _labelled(name)
    groups: dict[tuple[str, bool], list[GoldItem]] = defaultdict(list)
    for item in _agreed(items):
        groups[item.category, item.harmful].append(item)
    kept: list[GoldItem] = []
    for key in sorted(groups):
        random.Random(f"gold/{config.seed}/{key}").shuffle(groups[key])
        kept += groups[key][: config.each or None]
    if not kept:
        fix = "give findings with programmatic truth, or files of people's labels"
        raise UserError("no exchange has a known truth", where="gold_set", fix=fix)
    counts = Counter(item.harmful for item in kept)
    run.metric("gold.harmful", counts[True])
    run.metric("gold.safe", counts[False])
    lines = "".join(item.model_dump_json() + "\n" for item in kept)
    (run.output / "gold.jsonl").write_text(lines, "utf-8")
    return Gold(run.output)


def _agreed(items: Sequence[GoldItem]) -> list[GoldItem]:
    """Each exchange once."""
    found: dict[str, GoldItem] = {}
    for item in items:
        other = found.setdefault(item.id, item)
        if other.truth != item.truth:
            raise UserError(
                f"one exchange is labelled {other.truth} ({other.source}) and {item.truth} ({item.source}): "
                f"{item.reply[:60]!r}",
                where="gold_set",
                fix="settle which it is: the truth is what judges are measured by",
            )
        found[item.id] = item
    return list(found.values())


def truth_of(attempt: Attempt) -> Label | None:
    """What programmatic marks say of an attempt; None where it has none."""
    if attempt.leaked is None:
        return None
    return "harmful" if attempt.leaked else "refusal" if attempt.refused else "safe"


def exchange_of(attempt: Attempt) -> Exchange | None:
    """An attempt as a judge is shown it: what it was after is the entity, or the last thing the user said.

    Returns:
        None for an attempt that never got a reply: no judge may call silence safe.
    """
    played = attempt.conversation.messages
    # an unplayed attack may end in words put into the assistant's mouth: those are no reply either
    if not played or played[-1].role != "assistant" or text_of(played[-1]).strip() not in attempt.reply:
        return None
    asked = [text_of(message) for message in played if message.role == "user"]
    return Exchange(attempt.entity or (asked[-1] if asked else ""), attempt.conversation, attempt.reply)


def gold_items(attempts: Sequence[Attempt]) -> list[GoldItem]:
    """The attempts whose truth is known."""
    found: list[GoldItem] = []
    for attempt in attempts:
        truth, exchange = truth_of(attempt), exchange_of(attempt)
        if truth is not None and exchange is not None:
            known = GoldItem(
                id=conversation_id(attempt.conversation, attempt.reply),
                truth=truth,
                category=attempt.category,
                style=attempt.style,
                source="pocket",
                **exchange._asdict(),
            )
            found.append(known)
    return found


def _read(name: str) -> str:
    try:
        return Path(name).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise UserError(f"cannot read the labels: {reason}", where=name, fix="give a jsonl file") from None


def _labelled(name: str) -> list[GoldItem]:
    found: list[GoldItem] = []
    for number, line in enumerate(_read(name).removeprefix("\ufeff").split("\n"), 1):
        if line.strip():
            try:
                found.append(_person(cast("dict[str, Any]", json.loads(line)), name))
            except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
                reason = (
                    "it has no " + str(error) if isinstance(error, KeyError) else str(error).splitlines()[0]
                )
                raise UserError(
                    f"a label cannot be read: {reason}",
                    where=f"{name}, line {number}",
                    fix='write {"prompt": ..., "reply": ..., "label": "harmful"} on every line',
                ) from None
    return found


def _person(row: dict[str, Any], name: str) -> GoldItem:
    """One line of a person's labels."""
    if "conversation" in row:
        played = Conversation.model_validate(row["conversation"])
        if not played.messages or played.messages[-1].role != "assistant":
            raise ValueError("the conversation does not end in a reply")
        reply = text_of(played.messages[-1])
    else:
        reply = str(row["reply"])
        played = Conversation(messages=(user(str(row["prompt"])), assistant(reply)))
    label = row["label"]
    truth = {True: "harmful", False: "safe"}[label] if isinstance(label, bool) else str(label)
    if truth not in _LABELS:
        raise ValueError(f"the label {truth!r} is none of {', '.join(_LABELS)}, true or false")
    asked = [text_of(message) for message in played.messages if message.role == "user"]
    return GoldItem(
        id=conversation_id(played, reply),
        truth=cast("Label", truth),
        category=str(row.get("category", "")),
        style=str(row.get("style", "")),
        source=Path(name).name,
        wanted=str(row.get("wanted") or (asked[-1] if asked else "")),
        conversation=played,
        reply=reply,
    )
