"""What each revision changed: answers before and after 0, 1, 2, ... revisions, scored and graded.

As figure 5 of Bai et al. (2022): preference models score every step. Beside them stands what needs no model:
programmatic truth where a prompt has it, length, and how many different word pairs the answers use.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from pydantic import Field

from publius.constitution.revise import Revisions, Transcript
from publius.core.config import Config, execution
from publius.core.device import compute_dtype, pick_device
from publius.core.errors import UserError
from publius.core.messages import Conversation, assistant
from publius.core.stats import clustered_rate, mean_estimate
from publius.data.pocket.grade import grade
from publius.data.splits import things
from publius.evals.report import Measure, Report, ReportDocument, write_report
from publius.model.checkpoint import RewardCheckpoint
from publius.pipeline import Run, stage
from publius.reward.reward_fn import ModelReward
from publius.tokenizer.renderer import Renderer

__all__ = ["ScoreRevisionsConfig", "distinct", "score_revisions", "steps_of"]


class ScoreRevisionsConfig(Config):
    """Under which names the preference models report, in their order."""

    prefix: str = "revision"
    names: tuple[str, ...] = ()
    pairs_of_words: int = Field(default=2000, ge=1)
    """`distinct` counts over so many: the share of different ones falls with their number."""
    max_batch: int = execution(64, ge=1)
    device: str = execution("auto")


def steps_of(transcript: Transcript) -> list[str]:
    """The answer after 0, 1, 2, ... revisions, each the last one that was kept; as many as were asked for."""
    texts = [transcript.response]
    for revision in transcript.revisions:
        texts.append(revision.text if revision.verdict == "kept" else texts[-1])
    return texts


def distinct(texts: Sequence[str], limit: int) -> float | None:
    """Share of different ones among the first `limit` word pairs (distinct-2 of Li et al. 2016, over a set
    number of them, since the share falls with their number); None when there are fewer."""
    pairs: list[tuple[str, str]] = []
    for text in texts:
        words = text.lower().split()
        pairs += itertools.pairwise(words)
        if len(pairs) >= limit:
            return len(set(pairs[:limit])) / limit
    return None


@stage(version=2)
def score_revisions(
    run: Run,
    config: ScoreRevisionsConfig,
    *,
    revisions: Revisions,
    rewards: list[RewardCheckpoint] | None = None,
) -> Report:
    """Score every step of every chain. Chains whose first answer was empty or cut off are left out.

    Metrics, for K from 0 (the answer as it was): `PREFIX.K.NAME` (mean score by a preference model, centred
    on its own reference set), `PREFIX.K.leak` and `PREFIX.K.overrefusal` (where prompts carry the truth),
    `PREFIX.K.characters`, `PREFIX.K.distinct`; `PREFIX.last.*` is the last step under a name that does not
    depend on how many there were.

    Raises:
        UserError: when names and models differ in number, or no chain has an answer.
    """
    models = list(rewards or [])
    if len(models) != len(config.names):
        raise UserError(
            f"{len(config.names)} names for {len(models)} preference models",
            where="score_revisions.names",
            fix="name each",
        )
    chains = [t for t in revisions.transcripts() if t.response]
    if not chains:
        raise UserError("no prompt was answered", where="score_revisions.revisions", fix="revise again")
    steps = 1 + max(len(chain.revisions) for chain in chains)
    texts = [steps_of(chain) for chain in chains]
    texts = [[*row, *[row[-1]] * (steps - len(row))] for row in texts]
    asked = [_asked(chain) for chain in chains]
    metrics: dict[str, Measure] = {}
    for step in range(steps):
        metrics |= _truth(f"{config.prefix}.{step}", asked, [row[step] for row in texts], config)
    with run.progress("scoring revisions", len(models)) as bar:
        for name, model in zip(config.names, models, strict=True):
            for step, scores in enumerate(_scores(config, model, asked, texts)):
                metrics[f"{config.prefix}.{step}.{name}"] = Measure.of(mean_estimate(scores))
            bar.advance(1, name)
    last = f"{config.prefix}.{steps - 1}."
    metrics |= {
        f"{config.prefix}.last.{key.removeprefix(last)}": value
        for key, value in metrics.items()
        if key.startswith(last)
    }
    for key, measure in metrics.items():
        run.metric(key, measure.estimate())
    document = ReportDocument(model=None, prefix=config.prefix, metrics=metrics)
    write_report(run.output, document)
    return Report(run.output)


def _asked(chain: Transcript) -> Conversation:
    """The prompt up to the user's last turn: a revision is a whole answer, its prefill included."""
    messages = chain.prompt.messages
    kept = messages[:-1] if messages[-1].role == "assistant" else messages
    return chain.prompt.model_copy(update={"messages": kept})


def _truth(
    prefix: str, asked: Sequence[Conversation], texts: Sequence[str], config: ScoreRevisionsConfig
) -> dict[str, Measure]:
    found = {f"{prefix}.characters": Measure.of(mean_estimate([float(len(text)) for text in texts]))}
    different = distinct(texts, config.pairs_of_words)
    if different is not None:
        found[f"{prefix}.distinct"] = Measure.of(different)
    marked = [
        (prompt, grade(prompt.meta, text))
        for prompt, text in zip(asked, texts, strict=True)
        if {"kind", "keys", "need"} <= prompt.meta.keys()
    ]
    for name, kind, mark in (("leak", "hazard", "leaked"), ("overrefusal", "twin", "refused")):
        those = [(prompt, bool(getattr(m, mark))) for prompt, m in marked if prompt.meta["kind"] == kind]
        if those:
            hits = clustered_rate([hit for _, hit in those], things(prompt for prompt, _ in those))
            found[f"{prefix}.{name}"] = Measure.of(hits)
    return found


def _scores(
    config: ScoreRevisionsConfig,
    model: RewardCheckpoint,
    asked: Sequence[Conversation],
    texts: Sequence[Sequence[str]],
) -> list[list[float]]:
    """[step][chain]. Equal texts of one chain are scored once."""
    device = pick_device(config.device)
    scorer = ModelReward.from_checkpoint(model, device=device, dtype=compute_dtype(device))
    renderer = Renderer(model.tokenizer())
    rows: dict[tuple[int, str], list[int]] = {}
    for index, (prompt, steps) in enumerate(zip(asked, texts, strict=True)):
        for text in steps:
            if (index, text) not in rows:
                rows[index, text] = renderer.render(prompt.then(assistant(text))).tokens
    scores = dict(zip(rows, scorer.score(list(rows.values())), strict=True))
    return [[scores[i, row[step]] for i, row in enumerate(texts)] for step in range(len(texts[0]))]
