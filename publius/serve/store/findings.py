"""What human attackers found: kept as told, exported as `redteam.findings` reads it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field

from publius.core.messages import Conversation, assistant, check_roles, text_of
from publius.core.stats import wilson
from publius.redteam.findings import Attempt, Finding, FindingsDocument, measure, write_findings
from publius.serve.store.database import Database, new_id
from publius.serve.store.tables import findings
from publius.serve.store.words import one_line, tag_list

__all__ = ["STYLE", "HumanFinding", "HumanFindings"]

STYLE = "human"
"""The style under which they stand beside the automatic ones."""


class HumanFinding(BaseModel):
    """One attack by a person, and what they say of the reply.

    Args:
        attacker: who; any short name.
        conversation: as played, up to the attacker's last message. Earlier replies of the model stand in it.
        reply: the model's reply to it.
        worked: whether the attacker says that it did what it should not.
        harm: of the reply, 0 (harmless) to 4 (grave).
        category, entity: what it was about, where they say so.
        tags: how it was done, in short words.
        note: anything else, for people.
        model: the id it was served under.
        id, created: set when it is kept.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    attacker: str
    conversation: Conversation
    reply: str
    worked: bool
    harm: int = Field(ge=0, le=4)
    category: str = ""
    entity: str = ""
    tags: tuple[str, ...] = ()
    note: str = Field(default="", max_length=10_000)
    model: str = ""
    id: str = ""
    created: float = 0.0


class HumanFindings:
    """The table of attacks by people."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, finding: HumanFinding, now: float | None = None) -> HumanFinding:
        """Keep an attack; returns it with its id.

        Raises:
            UserError: when the conversation does not end with the attacker; for a name or tag that is no
                short line.
        """
        check_roles(finding.conversation.then(assistant(finding.reply)), "conversation")
        kept = finding.model_copy(
            update={
                "attacker": one_line(finding.attacker, "the attacker's name"),
                "model": finding.model and one_line(finding.model, "the model's id"),
                "tags": tag_list(finding.tags),
                "id": new_id("finding_"),
                "created": time.time() if now is None else now,
            }
        )
        row = {name: getattr(kept, name) for name in ("id", "attacker", "model", "worked", "created")}
        with self._database.write() as connection:
            body = json.dumps(kept.model_dump(mode="json"))
            connection.execute(sa.insert(findings).values(**row, body=body))
        return kept

    def undo(self, attacker: str) -> HumanFinding | None:
        """Take back the attacker's latest and return it; None when they have made none."""
        attacker = one_line(attacker, "the attacker's name")
        latest = sa.select(findings).where(findings.c.attacker == attacker).order_by(findings.c.number.desc())
        with self._database.write() as connection:
            row = connection.execute(latest.limit(1)).one_or_none()
            if row is None:
                return None
            connection.execute(sa.delete(findings).where(findings.c.number == row.number))
        return HumanFinding.model_validate(json.loads(row.body))

    def list(self, attacker: str | None = None) -> Sequence[HumanFinding]:
        """Every attack, or one attacker's, in the order they came."""
        query = sa.select(findings.c.body).order_by(findings.c.number)
        if attacker is not None:
            query = query.where(findings.c.attacker == one_line(attacker, "the attacker's name"))
        with self._database.read() as connection:
            bodies = connection.scalars(query).all()
        return [HumanFinding.model_validate(json.loads(body)) for body in bodies]

    def export(self, folder: Path, *, model: str | None = None) -> int:
        """Write the payload of a `redteam.findings.Findings`: those that worked as findings, all as attempts.

        People choose what they ask, so the share that worked measures the attackers as much as the model. The
        findings have no benign twins; give some to the training beside them.

        Args:
            folder: an empty folder, or one that is not there yet.
            model: only attacks on the model served under this id.

        Returns:
            How many worked.
        """
        told = [finding for finding in self.list() if model is None or finding.model == model]
        worked = [finding for finding in told if finding.worked]
        leak = measure(wilson(len(worked), len(told)))
        document = FindingsDocument(
            model=model or "",
            round=0,
            split="train",
            metrics={"leak.human": leak},
            by_style={STYLE: leak} if told else {},
            by_category=_grouped(told, lambda finding: finding.category),
            sealed_styles=(),
            tried=len(told),
            hits=len(worked),
            confirmed=len(worked),
        )
        folder.mkdir(parents=True, exist_ok=True)
        write_findings(folder, document, [_finding(f) for f in worked], {}, [_attempt(f) for f in told])
        return len(worked)


def _grouped(told: Sequence[HumanFinding], key: Callable[[HumanFinding], str]) -> dict[str, dict[str, Any]]:
    groups: dict[str, list[bool]] = {}
    for finding in told:
        groups.setdefault(key(finding), []).append(finding.worked)
    return {name: measure(wilson(sum(marks), len(marks))) for name, marks in sorted(groups.items())}


def _prompt(finding: HumanFinding) -> Conversation:
    about = {"style": STYLE, "category": finding.category, "entity": finding.entity}
    meta = {**finding.conversation.meta, **about, "harm": finding.harm, "tags": list(finding.tags)}
    return finding.conversation.model_copy(update={"meta": meta})


def _finding(finding: HumanFinding) -> Finding:
    return Finding(
        id=finding.id, round=0, style=STYLE, sealed=False, split="train", category=finding.category,
        entity=finding.entity, conversation=_prompt(finding), reply=finding.reply, score=finding.harm / 4,
        reproduced=1, tries=1, model=finding.model,
    )  # fmt: skip


def _attempt(finding: HumanFinding) -> Attempt:
    played = _prompt(finding).then(assistant(finding.reply))
    said = [text_of(m) for m in played.messages if m.role == "assistant"]
    return Attempt(
        style=STYLE, sealed=False, split="train", category=finding.category, entity=finding.entity,
        conversation=played, reply=" ".join(said), leaked=finding.worked, refused=False,
        score=finding.harm / 4,
    )  # fmt: skip
