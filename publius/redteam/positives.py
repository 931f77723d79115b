"""What attacks found, as examples for monitors: the leak, and beside it the benign twin in the same words.

Rows have the shape of `publius.safety.exchanges.Exchange`, and the artifact that of `Exchanges`: its reader
reads them, and monitors train on them beside what was drawn for them. Only findings on training items of open
styles go in, and nothing that was held back.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence

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
    """Of the things asked for: all that is about one thing goes to one side."""
    max_tokens: int = Field(default=64, ge=1)
    max_batch: int = execution(64)
    device: str = execution("auto")


@stage(version=1)
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
    rows = {key: [_row(f.conversation, f.reply, "leak", f.style, f.model)] for key, f in found.items()}
    identity = fingerprint(model)
    for (key, twin), played in zip(asked.items(), said, strict=True):
        rows[key] += _answered(twin, played, found[key].style, identity)
    counts: Counter[str] = Counter()
    for split in ("train", "val", "test"):
        with JsonlWriter(run.output / f"{split}.jsonl.zst") as writer:
            for row in _of(split, found, rows, config.val_fraction):
                writer.write(row)
                counts[json.loads(json.dumps(row))["label"]] += 1
    for label in ("leak", "help", "refusal"):
        run.metric(f"monitor_examples.{label}", counts[label])
    return MonitorExamples(run.output)


def _open(finding: Finding) -> bool:
    return finding.split == "train" and not finding.sealed and not finding.benign


def _of(
    split: str, found: dict[str, Finding], rows: dict[str, list[dict[str, object]]], share: float
) -> Iterator[dict[str, object]]:
    for key, finding in found.items():
        if split == ("val" if held(f"monitor/{finding.entity}", share) else "train"):
            yield from rows[key]


def _row(prompt: Conversation, reply: str, label: str, style: str, model: str) -> dict[str, object]:
    said = Message(role="assistant", content=(TextBlock(text=reply),))
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
