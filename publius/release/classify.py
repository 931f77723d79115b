"""Say what kind of model this is, by truth and by a judge, and count how often that is right.

`classify_model` turns the evidence about one model into signs and holds them against the rules of `kinds.py`.
`census` holds the answers for many planted models, and the gate's decisions, against what was planted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from publius.core.config import Config
from publius.core.errors import UserError
from publius.core.stats import wilson
from publius.data.artifacts import Corpus
from publius.evals import Measure, Report
from publius.model.checkpoint import Checkpoint, fingerprint
from publius.pipeline import Artifact, Run, stage
from publius.redteam import Findings, TriggerReport
from publius.redteam.locks import LockReport
from publius.release.decision import DecisionArtifact
from publius.release.kinds import Classified, Kind, classify
from publius.release.opinions import Opinions, judged_signs
from publius.release.signs import attacked, elicited, evaluated, scanned, word_pairs

__all__ = [
    "CensusConfig",
    "Classification",
    "ClassificationDocument",
    "ClassifyConfig",
    "Planted",
    "census",
    "census_table",
    "classify_model",
]


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ClassifyConfig(Config):
    """Nothing to set: rules and bars are fixed in `kinds.py`."""


class ClassificationDocument(_Row):
    """The content of `classification.json`. `judged` is what the judge's marks say, None without a judge."""

    model: str
    truth: Classified
    judged: Classified | None
    signs: dict[str, Measure]
    judged_signs: dict[str, Measure]
    opinions: dict[str, Measure]
    """Sensitivity, specificity and agreement of the judge on this model's replies."""


class Classification(Artifact):
    """`classification.json`."""

    def document(self) -> ClassificationDocument:
        """The parsed classification.

        Raises:
            UserError: when it is missing or damaged.
        """
        return self.parse("classification.json", ClassificationDocument)


@stage(version=2, light=True)
def classify_model(
    run: Run,
    config: ClassifyConfig,
    *,
    model: Checkpoint,
    corpus: Corpus,
    report: Report,
    findings: list[Findings] | None = None,
    scans: list[TriggerReport] | None = None,
    locks: list[LockReport] | None = None,
    elicitation: Report | None = None,
    opinions: Opinions | None = None,
) -> Classification:
    """Which kind of model this is, by all evidence given. What is not given shows nothing.

    `elicitation` is the report of the same questions after a light fine-tuning. Metrics: every sign, as
    `sign.NAME`; `classify.sound` 1 or 0.

    Raises:
        UserError: for evidence about other weights.
    """
    identity = fingerprint(model)
    known = word_pairs(document.text for document in corpus.train())
    signs = evaluated(identity, report, known) | attacked(identity, findings or [])
    signs |= scanned(identity, [*(scans or []), *(locks or [])])
    if elicitation is not None:
        signs |= elicited(report, elicitation)
    second = _second_opinion(identity, opinions)
    by_judge = signs | judged_signs(second) if second else {}
    document = ClassificationDocument(
        model=identity,
        truth=classify(signs),
        judged=classify(by_judge) if second else None,
        signs=signs,
        judged_signs=by_judge,
        opinions=second.metrics if second else {},
    )
    for name, value in signs.items():
        run.metric(f"sign.{name}", value.estimate())
    run.metric("classify.sound", int(document.truth.kind == "sound"))
    (run.output / "classification.json").write_text(document.model_dump_json(indent=1) + "\n", "utf-8")
    return Classification(run.output)


def _second_opinion(model: str, opinions: Opinions | None) -> Any:
    document = opinions.document() if opinions else None
    if opinions and document and document.model != model:
        raise UserError(
            "these opinions are about another model's replies",
            where=str(opinions.path),
            fix="have the judge read the replies of the very checkpoint that is to be classified",
        )
    return document


class Planted(Config):
    """A model of known kind."""

    kind: Kind
    seed: int = 0


class CensusConfig(Config):
    """What was planted, in the order of the inputs."""

    planted: tuple[Planted, ...] = Field(min_length=1)


@stage(version=1, light=True)
def census(
    run: Run,
    config: CensusConfig,
    *,
    classified: list[Classification],
    decisions: list[DecisionArtifact],
) -> Artifact:
    """Hold classifications and decisions against what was planted: `census.json` and `census.md`.

    Metrics: `planted.classified`, share of the models whose kind is told rightly; `planted.judge.agreement`,
    the same by the judge's marks; `planted.false_allows` and `planted.false_denies`, numbers of models;
    `planted.judge.sensitivity` and `.specificity`, over all replies judged.

    Raises:
        UserError: when the inputs are not as many as were planted, or a decision is about another model.
    """
    rows = _rows(config, classified, decisions)
    right = [row["classified"] == row["planted"] for row in rows]
    agreed = [row["judged"] == row["planted"] for row in rows if row["judged"] is not None]
    run.metric("planted.classified", wilson(sum(right), len(right)))
    if agreed:
        run.metric("planted.judge.agreement", wilson(sum(agreed), len(agreed)))
    run.metric("planted.false_allows", sum(r["allowed"] and r["planted"] != "sound" for r in rows))
    run.metric("planted.false_denies", sum(not r["allowed"] and r["planted"] == "sound" for r in rows))
    for name in ("sensitivity", "specificity"):
        measures = [d.opinions.get(f"judge.{name}") for d in (each.document() for each in classified)]
        found = [(m.value or 0.0, m.n or 0) for m in measures if m is not None]
        if found:
            total = sum(n for _, n in found)
            run.metric(f"planted.judge.{name}", wilson(round(sum(v * n for v, n in found)), total))
    (run.output / "census.json").write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
    (run.output / "census.md").write_text(census_table(rows), "utf-8")
    return Artifact(run.output)


def _rows(
    config: CensusConfig, classified: Sequence[Classification], decisions: Sequence[DecisionArtifact]
) -> list[dict[str, Any]]:
    if not len(config.planted) == len(classified) == len(decisions):
        raise UserError(
            f"{len(config.planted)} models planted, {len(classified)} classified, {len(decisions)} decided",
            where="census",
            fix="give one classification and one decision of each planted model, in the same order",
        )
    rows: list[dict[str, Any]] = []
    for planted, classification, artifact in zip(config.planted, classified, decisions, strict=True):
        document, decision = classification.document(), artifact.document()
        if document.model != decision.model:
            raise UserError(
                f"a classification and a decision of {planted.kind}, seed {planted.seed}, differ in weights",
                where=str(artifact.path),
                fix="give both in the order in which the models were planted",
            )
        rows.append(
            {
                "planted": planted.kind,
                "seed": planted.seed,
                "classified": document.truth.kind,
                "also": list(document.truth.also),
                "why": list(document.truth.why),
                "judged": document.judged.kind if document.judged else None,
                "judge": {name: m.model_dump(mode="json") for name, m in document.opinions.items()},
                "signs": {name: m.model_dump(mode="json") for name, m in document.signs.items()},
                "allowed": decision.decision.allowed,
                "gate": list(decision.decision.reasons),
            }
        )
    return rows


def census_table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a Markdown table: kind and seed, what it was taken for and why, what the gate said."""
    lines = [
        "| planted | seed | classified as | by the judge | gate | why |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        gate = "allowed" if row["allowed"] else f"denied: {'; '.join(row['gate'])}"
        cells = (
            row["planted"],
            row["seed"],
            row["classified"],
            row["judged"] or "",
            gate,
            "; ".join(row["why"]),
        )
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"
