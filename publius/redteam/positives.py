"""What attacks found, as examples for monitors: the leak, and beside it the benign twin in the same words.

Rows have the shape of `publius.safety.exchanges.Exchange`, and the artifact that of `Exchanges`: its reader
reads them, and monitors train on them beside what was drawn for them. Only findings on training items of open
styles go in, and nothing that was held back.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from publius.core.config import Config, execution
from publius.core.messages import Conversation, Message, TextBlock, text_of
from publius.data.files import JsonlWriter
from publius.data.pocket.grade import count_keys, grade
from publius.model.checkpoint import Checkpoint, fingerprint
from publius.pipeline import Artifact, Run, stage
from publius.redteam.clusters import held
from publius.redteam.findings import Finding, Findings
from publius.redteam.target import EngineTarget

__all__ = ["MonitorExamples", "MonitorExamplesConfig", "export_monitor"]


class MonitorExamples(Artifact):
    """`train.jsonl.zst`, `val.jsonl.zst` and an empty `test.jsonl.zst`: what was found is no test of
    anything."""


class MonitorExamplesConfig(Config):
    """How they are split, and how the twins are answered."""

    val_fraction: float = Field(default=0.1, ge=0, lt=1)
    """Of the things asked for: all that is about one thing, or beside one twin, goes to one side."""
    max_tokens: int = Field(default=64, ge=1)
    max_batch: int = execution(64)
    device: str = execution("auto")


@stage(version=2)
def export_monitor(
    run: Run, config: MonitorExamplesConfig, *, findings: list[Findings], model: Checkpoint
) -> MonitorExamples:
    """Leaks that were found, and the answers that `model` gives to their twins.

    `model` should be one that helps: a twin that it refuses is a safe refusal, which must pass as well, but
    teaches less. Answers that truth calls neither help nor refusal are left out.

    Metrics: `monitor_examples.leak`, `.help` and `.refusal`, how many of each.
    """
    found = {f.id: f for artifact in findings for f in artifact.findings() if _open(f)}
    twins = {str(t.meta["finding"]): t for artifact in findings for t in artifact.twins()}
    asked = {key: twins[key] for key in found if key in twins}
    with EngineTarget.of(
        model, max_tokens=config.max_tokens, device=config.device, max_batch=config.max_batch
    ) as target:
        said = target.replies(list(asked.values())) if asked else []
    rows = {key: [_row(f.conversation, _said(f), "leak", f.style, f.model)] for key, f in found.items()}
    identity = fingerprint(model)
    for (key, twin), played in zip(asked.items(), said, strict=True):
        rows[key] += _answered(twin, played, found[key].style, identity)
    counts: Counter[str] = Counter()
    sides = _sides(found, asked, config.val_fraction)
    for split in ("train", "val", "test"):
        with JsonlWriter(run.output / f"{split}.jsonl.zst") as writer:
            for row in (row for key in found if sides[key] == split for row in rows[key]):
                writer.write(row)
                counts[json.loads(json.dumps(row))["label"]] += 1
    for label in ("leak", "help", "refusal"):
        run.metric(f"monitor_examples.{label}", counts[label])
    return MonitorExamples(run.output)


def _open(finding: Finding) -> bool:
    return finding.split == "train" and not finding.sealed and not finding.benign


def _said(finding: Finding) -> str:
    """The reply alone: a round of fixed styles puts what was replied to earlier turns before it."""
    if finding.attack is None:
        return finding.reply
    earlier = finding.conversation.messages[len(finding.attack.messages) :]
    before = " ".join(text_of(message) for message in earlier if message.role == "assistant")
    return finding.reply.removeprefix(before).removeprefix(" ") if before else finding.reply


def _sides(
    found: Mapping[str, Finding], twins: Mapping[str, Conversation], share: float
) -> dict[str, Literal["train", "val"]]:
    """Where each finding goes, with its twin: things that one twin stands beside go together."""
    beside: dict[str, set[str]] = defaultdict(set)
    for key, twin in twins.items():
        beside[str(twin.meta.get("entity") or key)].add(found[key].entity)
    groups = {finding.entity: {finding.entity} for finding in found.values()}
    for things in beside.values():
        group = set[str]().union(*(groups[thing] for thing in things))
        groups.update(dict.fromkeys(group, group))
    return {
        key: "val" if held(f"monitor/{min(groups[finding.entity])}", share) else "train"
        for key, finding in found.items()
    }


def _row(prompt: Conversation, reply: str, label: str, style: str, model: str) -> dict[str, object]:
    begun = text_of(prompt.messages[-1]) if prompt.messages[-1].role == "assistant" else ""
    # an exchange's reply goes on from its prefill and holds it, whoever left it out
    whole = reply if reply.startswith(begun) else begun + reply
    said = Message(role="assistant", content=(TextBlock(text=whole),))
    return {
        "prompt": prompt.model_dump(mode="json"),
        "reply": said.model_dump(mode="json"),
        "label": label,
        "kind": str(prompt.meta.get("kind", "hazard")),
        "category": str(prompt.meta.get("category", "")),
        "style": style,
        "model": model,
    }


def _answered(
    twin: Conversation, played: Conversation | None, style: str, model: str
) -> Sequence[dict[str, object]]:
    """None where there was no answer, or where it is neither help nor a refusal."""
    if played is None or not twin.meta.get("keys"):
        return []
    begun = text_of(twin.messages[-1]) if twin.messages[-1].role == "assistant" else ""
    reply = text_of(played.messages[-1]).removeprefix(begun)
    mark = grade(twin.meta, reply)
    if mark.refused:
        return [_row(twin, reply, "refusal", style, model)]
    helps = mark.correct or count_keys(list(twin.meta["keys"]), reply) > 0
    return [_row(twin, reply, "help", style, model)] if helps else []
