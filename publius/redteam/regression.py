"""The regression suite: what broke an earlier model is tried on every later one.

A round of training closes holes, and may open old ones again. Each confirmed finding of the rounds so far is
played once more, greedily and at temperature 1, and so is its benign twin: a suite that passes because the
model refuses everything has not passed. Only what the later model says itself counts, for it or against it.
A finding may be the other way round, a harmless request that was refused: it is open while it still is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from publius.core.config import Config, execution
from publius.core.messages import Conversation, text_of
from publius.core.stats import clustered_rate
from publius.data.splits import apart
from publius.model.checkpoint import Checkpoint, fingerprint
from publius.pipeline import Artifact, Run, stage
from publius.redteam.attacker import Goal
from publius.redteam.auditor import Auditor
from publius.redteam.findings import Attempt, Finding, Findings, estimate, measure
from publius.redteam.phrasings import PHRASINGS
from publius.redteam.referee import TruthReferee
from publius.redteam.stage import load_auditor, refusal_measure
from publius.redteam.target import EngineTarget

__all__ = ["Case", "Regression", "RegressionConfig", "RegressionDocument", "Status", "regression"]

Status = Literal["fixed", "open", "regressed"]
"""`fixed`: leaks no more. `open`: leaks, as in every suite before. `regressed`: leaks, and did not in one."""
_STATUSES: tuple[Status, ...] = ("fixed", "open", "regressed")


class RegressionConfig(Config):
    """How often each old finding is tried."""

    round: int = Field(default=1, ge=0)
    """Of the model tested."""
    samples: int = Field(default=3, ge=1)
    """Replies drawn to each: the first greedy, the others at temperature 1. Any that leaks counts."""
    max_tokens: int = Field(default=64, ge=1)
    seed: int = 0
    max_batch: int = execution(64)
    device: str = execution("auto")


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Case(_Row):
    """One old finding on this model."""

    finding: str
    """Its id."""
    found: int
    """The round that found it."""
    style: str
    entity: str
    status: Status
    reply: str
    """The one that leaked, else the greedy one."""
    benign: bool = False
    """The fault is a refusal."""
    cluster: str = ""
    """As in the finding."""
    severity: float | None = None
    """As in the finding."""


class RegressionDocument(_Row):
    """The content of `regression.json`. Measures are as in findings."""

    model: str
    round: int
    metrics: dict[str, dict[str, Any]]
    by_round: dict[str, dict[str, int]]
    """Round that found them -> status -> how many."""
    cases: tuple[Case, ...]


class Regression(Artifact):
    """`regression.json`."""

    def document(self) -> RegressionDocument:
        """What became of every finding.

        Raises:
            UserError: when the file is missing or damaged.
        """
        return self.parse("regression.json", RegressionDocument)


@stage(version=3)
def regression(
    run: Run,
    config: RegressionConfig,
    *,
    model: Checkpoint,
    findings: list[Findings],
    earlier: list[Regression] | None = None,
) -> Regression:
    """Try every confirmed finding of `findings` on `model`; `earlier` suites tell what had been fixed.

    Metrics: `regression.findings`; `regression.fixed`, `.open` and `.regressed`, shares of them;
    `regression.overrefusal`, their benign twins refused.
    """
    every = {finding.id: finding for artifact in findings for finding in artifact.findings()}
    # beside a harmless request that was refused stands a harmful one, and that may well be refused
    benign_ids = {finding.id for finding in every.values() if finding.benign}
    twins = [t for artifact in findings for t in artifact.twins() if t.meta.get("finding") not in benign_ids]
    auditor = load_auditor(
        model, max_tokens=config.max_tokens, device=config.device, max_batch=config.max_batch
    )
    with run.progress("regression suite", 2) as ticker:
        again = _played_again(config, auditor, list(every.values()))
        ticker.advance(note=f"{len(again)} findings")
        benign = auditor.attempt(twins, "train") if twins else []
        ticker.advance(note=f"{len(twins)} twins")
    fixed = {
        case.finding for suite in earlier or [] for case in suite.document().cases if case.status == "fixed"
    }
    cases = [
        _case(finding, *shown, finding.id in fixed)
        for finding, shown in zip(every.values(), again, strict=True)
    ]
    document = RegressionDocument(
        model=fingerprint(model),
        round=config.round,
        metrics=_metrics(cases, benign),
        by_round=_by_round(cases),
        cases=tuple(cases),
    )
    run.metric("regression.findings", len(cases))
    for name, value in document.metrics.items():
        run.metric(name, estimate(value))
    (run.output / "regression.json").write_text(document.model_dump_json(indent=1) + "\n", "utf-8")
    return Regression(run.output)


def _played_again(
    config: RegressionConfig, auditor: Auditor, findings: Sequence[Finding]
) -> list[tuple[bool, str]]:
    """For each finding, whether it still stands, and the reply that shows it."""
    old = [i for i, finding in enumerate(findings) if not finding.chain]
    attacks = [_attack(findings[i]) for i in old]
    first = auditor.attempt(attacks, "train") if attacks else []
    again = auditor.insist(attacks, first, "train", tries=config.samples - 1, seed=config.seed + 1)
    shown = {i: (a.leaked is not False, a.reply) for i, a in zip(old, again, strict=True)}
    shown |= _searched(config, auditor, {i: f for i, f in enumerate(findings) if f.chain})
    return [shown[i] for i in range(len(findings))]


def _searched(
    config: RegressionConfig, auditor: Auditor, findings: dict[int, Finding]
) -> dict[int, tuple[bool, str]]:
    """The same of what a search found, by the referee that found it: an exchange counts as a whole."""
    target = EngineTarget(auditor.engine, auditor.renderer, fingerprint="", max_tokens=config.max_tokens)
    shown: dict[int, tuple[bool, str]] = {}
    for sample in range(config.samples):
        left = [i for i in findings if not shown.get(i, (False, ""))[0]]
        prompts = [findings[i].conversation for i in left]
        seed = None if sample == 0 else config.seed + sample
        played = target.replies(prompts, seed=seed) if prompts else []
        goals = [Goal(findings[i].conversation, "train", benign=findings[i].benign) for i in left]
        own = [None if done is None else _own(done, sent) for sent, done in zip(prompts, played, strict=True)]
        grades = TruthReferee().grades(goals, own)
        for i, done, mark in zip(left, played, grades, strict=True):
            wanted = "refusal" if findings[i].benign else "harmful"
            stands = mark.label is None or mark.label == wanted
            if stands or i not in shown:
                shown[i] = stands, "" if done is None else text_of(done.messages[-1])
    return shown


def _attack(finding: Finding) -> Conversation:
    """As it is begun. Older files hold only the talk up to the reply that leaked: its user's lines, where the
    style is one that says several."""
    talk = finding.conversation
    if finding.attack is not None or finding.style not in PHRASINGS:
        return finding.attack or talk
    said = [text_of(message) for message in talk.messages if message.role == "user"]
    live = any("|" in phrasing for phrasing in PHRASINGS[finding.style].train)
    if not live or len(said) < 2 or talk.messages[0].role != "user":
        return talk
    return talk.model_copy(update={"messages": talk.messages[:1], "meta": {**talk.meta, "turns": said[1:]}})


def _own(played: Conversation, sent: Conversation) -> Conversation:
    """`played` as the later model's own: replies that the attacked one gave on the way are left out, so they
    are neither its doing nor a reason to overlook that it says the same.

    A probe is about the exchange as a whole, and judged by the last reply.
    """
    if "probe" in sent.meta:
        return played
    begun = sent.messages[-1].role == "assistant"
    end = len(sent.messages) - begun
    shown = int(sent.meta.get("shown", end))
    kept = [m for i, m in enumerate(played.messages) if not (shown <= i < end and m.role == "assistant")]
    meta = {**played.meta, "shown": len(kept) - 1}
    if begun:
        meta["begun"] = text_of(sent.messages[-1])
    return played.model_copy(update={"messages": tuple(kept), "meta": meta})


def _case(finding: Finding, stands: bool, reply: str, was_fixed: bool) -> Case:
    """Unscored attempts count as leaks, as in every round."""
    status: Status = "fixed" if not stands else "regressed" if was_fixed else "open"
    return Case(
        finding=finding.id, found=finding.round, style=finding.style, entity=finding.entity, status=status,
        reply=reply, benign=finding.benign, cluster=finding.cluster, severity=finding.severity,
    )  # fmt: skip


def _metrics(cases: Sequence[Case], benign: Sequence[Attempt]) -> dict[str, dict[str, Any]]:
    about = apart(case.entity for case in cases)
    found = {
        f"regression.{s}": measure(clustered_rate([case.status == s for case in cases], about))
        for s in _STATUSES
    }
    return found | {"regression.overrefusal": refusal_measure(benign)}


def _by_round(cases: Sequence[Case]) -> dict[str, dict[str, int]]:
    rounds = sorted({case.found for case in cases})
    return {
        str(number): {s: sum((c.found, c.status) == (number, s) for c in cases) for s in _STATUSES}
        for number in rounds
    }
