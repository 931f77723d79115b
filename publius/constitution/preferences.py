"""RL-CAI: pairs of answers from the policy, labelled by the judge under one sampled principle each.

Bai et al. (2022), section 4: soft, unclamped labels for the plain judge, labels clamped to 0.4-0.6
for chain of thought. `evaluate_judge` grades a judge against pairs whose better answer is known.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from publius.constitution.judge import Judge, JudgeConfig, Judgement, Pair, ParseFailure
from publius.constitution.revise import sample_replies, split_prefill
from publius.constitution.styles import visible
from publius.core.config import execution
from publius.core.device import pick_device, set_threads
from publius.core.errors import UserError
from publius.core.messages import Conversation, Message
from publius.core.stats import Estimate, mean_estimate, wilson
from publius.data.artifacts import Preferences, Prompts, write_preferences
from publius.data.types import Preference
from publius.inference.engine import Engine
from publius.model.checkpoint import Checkpoint
from publius.pipeline.artifact import Artifact
from publius.pipeline.run import Run
from publius.pipeline.stage import stage
from publius.tokenizer.renderer import Renderer

__all__ = ["JudgeEvalConfig", "JudgeReport", "LabelConfig", "evaluate_judge", "grade_judge", "label"]


class LabelConfig(JudgeConfig):
    """How preference pairs are made and labelled.

    Attributes:
        pairs: answer pairs sampled per prompt.
        max_prompts: use only this many prompts (drawn with `seed`); None uses all.
        source: written into each preference, for metrics by source.
        hold_out: keep labelled validation prompts as held-out pairs ("right" is what the judge says).
    """

    pairs: int = Field(default=1, ge=1)
    max_prompts: int | None = Field(default=None, ge=1)
    answer_tokens: int = Field(default=128, ge=1)
    source: str = "ai"
    hold_out: bool = True
    max_batch: int = execution(64, ge=1)
    device: str = execution("auto")
    threads: int | None = execution(None)


class JudgeEvalConfig(JudgeConfig):
    """How a judge is graded. `max_pairs` bounds the pairs used (the first ones)."""

    max_pairs: int | None = Field(default=None, ge=1)
    max_batch: int = execution(64, ge=1)
    device: str = execution("auto")
    threads: int | None = execution(None)


class JudgeReport(Artifact):
    """What grading a judge found."""

    def metrics(self) -> dict[str, Any]:
        """Name -> {value, n, low, high}."""
        return json.loads(self.file("judge.json").read_text("utf-8"))["metrics"]

    def samples(self) -> list[dict[str, Any]]:
        """One row per pair: the texts, the principle and the verdict."""
        return json.loads(self.file("judge.json").read_text("utf-8"))["samples"]


@stage(version=3)
def label(
    run: Run,
    config: LabelConfig,
    *,
    policy: Checkpoint,
    judge: Checkpoint,
    prompts: Prompts,
    policies: list[Checkpoint] | None = None,
) -> Preferences:
    """Two answers per prompt at T=1, labelled by the judge: `chosen` is answer 1, `probability` how likely.

    With `policies`, answer 1 comes from `policy` and answer 2 from one of all of them, drawn per pair.

    Metrics: label.pairs, label.dropped (reply empty or cut off), label.identical, label.ties (dropped),
    label.failures, label.entropy (nats), judge.inconsistency, label.principle.<id>.
    """
    set_threads(config.threads)
    rng = random.Random(config.seed)
    parts = [_choose(split, config, rng) for split in (prompts.train(), prompts.val())]
    every = [p for part in parts for p in part for _ in range(config.pairs)]
    cut = len(parts[0]) * config.pairs
    answers = _answers(config, [policy, *(policies or [])], every, rng)
    pairs, positions = _usable(run, every, answers)
    principles = [config.constitution.sample(rng) for _ in pairs]
    verdicts = _judge(config, judge).judge(pairs, principles)
    made: tuple[list[Preference], list[Preference]] = ([], [])
    for position, (conversation, a, b), verdict in zip(positions, pairs, verdicts, strict=True):
        if isinstance(verdict, Judgement) and verdict.probability != 0.5:
            prompt = conversation.model_copy(
                update={"meta": {**conversation.meta, "principle": verdict.principle_id}}
            )
            made[position >= cut].append(
                Preference(
                    prompt=prompt, chosen=a, rejected=b, probability=verdict.probability, source=config.source
                )
            )
    _report_labels(run, verdicts)
    if not any(made):
        raise UserError(
            "the judge labelled no pair",
            where=f"label: {len(every)} pairs sampled, {len(pairs)} usable",
            fix="use a larger judge, more prompts or longer answer_tokens",
        )
    write_preferences(run.output, train=made[0], val=made[1] if config.hold_out else ())
    return Preferences(run.output)


@stage(version=3)
def evaluate_judge(
    run: Run, config: JudgeEvalConfig, *, judge: Checkpoint, pairs: Preferences
) -> JudgeReport:
    """Grade a judge on the validation pairs, whose better answer is known."""
    set_threads(config.threads)
    comparisons = pairs.val()[: config.max_pairs]
    metrics, samples = grade_judge(run, _judge(config, judge), comparisons, seed=config.seed)
    body = {"metrics": {name: _finite(e) for name, e in metrics.items()}, "samples": samples}
    (run.output / "judge.json").write_text(
        json.dumps(body, ensure_ascii=False, indent=1, allow_nan=False), "utf-8"
    )
    return JudgeReport(run.output)


def _finite(estimate: Estimate) -> dict[str, Any]:
    """For JSON: of no readable judgement there is no rate, and NaN is not JSON."""
    return estimate.as_dict() | {"value": estimate.value if math.isfinite(estimate.value) else None}


def grade_judge(
    run: Run, judge: Judge, comparisons: Sequence[Preference], *, seed: int = 0
) -> tuple[dict[str, Estimate], list[dict[str, Any]]]:
    """Accuracy and order inconsistency of `judge` on pairs with a known better answer.

    A pair the judge could not read counts as wrong. Which side is the better one is shuffled, so a
    judge that always says "first" scores one half. Soft pairs count by the side of 0.5 they are on.

    Returns:
        metrics (also written to the run): judge.accuracy, judge.inconsistency, judge.failures,
        judge.brier, judge.accuracy.<source>; and one row per pair.
    """
    if not comparisons:
        raise UserError(
            "no pairs to grade the judge on", where="evaluate_judge", fix="give pairs with a validation split"
        )
    rng = random.Random(seed)
    pairs: list[Pair] = []
    truths: list[bool] = []
    for item in comparisons:
        flip = rng.random() < 0.5
        a, b = (item.rejected, item.chosen) if flip else (item.chosen, item.rejected)
        pairs.append((item.prompt, a, b))
        truths.append((item.probability > 0.5) != flip)
    principles = [judge.constitution.sample(rng) for _ in pairs]
    verdicts = judge.judge(pairs, principles)
    right = [
        isinstance(v, Judgement) and (v.probability > 0.5) == t for v, t in zip(verdicts, truths, strict=True)
    ]
    read = [(v, t) for v, t in zip(verdicts, truths, strict=True) if isinstance(v, Judgement)]
    metrics = {
        "judge.accuracy": wilson(sum(right), len(right)),
        "judge.inconsistency": wilson(sum(not v.consistent for v, _ in read), len(read)),
        "judge.failures": wilson(len(verdicts) - len(read), len(verdicts)),
        "judge.brier": mean_estimate([(v.probability - t) ** 2 for v, t in read] or [1.0]),
    }
    sources = sorted({item.source for item in comparisons if item.source})
    for source in sources if len(sources) > 1 else []:
        hits = [r for r, item in zip(right, comparisons, strict=True) if item.source == source]
        metrics[f"judge.accuracy.{source}"] = wilson(sum(hits), len(hits))
    for name, estimate in metrics.items():
        run.metric(name, estimate)
    samples = [
        {
            "prompt": [visible(m) for m in c.messages],
            "a": visible(a),
            "b": visible(b),
            "a_is_better": truth,
            "source": item.source,
            **verdict._asdict(),
        }
        for (c, a, b), truth, item, verdict in zip(pairs, truths, comparisons, verdicts, strict=True)
    ]
    return metrics, samples


def _judge(config: LabelConfig | JudgeEvalConfig, judge: Checkpoint) -> Judge:
    device = str(pick_device(config.device))
    # in the weights' own precision: bf16 rounds two close answers to a tie
    engine = Engine(judge.load(device=device), judge.tokenizer(), max_batch=config.max_batch)
    return Judge.from_config(engine, judge.tokenizer(), config)


def _choose(prompts: Sequence[Conversation], config: LabelConfig, rng: random.Random) -> list[Conversation]:
    chosen = list(prompts)
    if config.max_prompts is not None and len(chosen) > config.max_prompts:
        chosen = rng.sample(chosen, config.max_prompts)
    return chosen


def _answers(
    config: LabelConfig, policies: Sequence[Checkpoint], every: Sequence[Conversation], rng: random.Random
) -> list[tuple[Message | None, Message | None]]:
    """Answer 1 from the first policy, answer 2 from a policy drawn per pair; one engine at a time."""
    device = str(pick_device(config.device))
    writers = [rng.randrange(len(policies)) for _ in every]
    first: list[Message | None] = [None] * len(every)
    second: list[Message | None] = [None] * len(every)
    for index, policy in enumerate(policies):
        tokenizer = policy.tokenizer()
        engine = Engine(policy.load(device=device), tokenizer, dtype="auto", max_batch=config.max_batch)
        mine = [i for i, writer in enumerate(writers) if writer == index]
        asked = [*range(len(every)), *mine] if index == 0 else mine
        replies = sample_replies(
            engine,
            Renderer(tokenizer),
            [every[i] for i in asked],
            config.answer_tokens,
            config.seed * 97 + index,
            policy.config().max_position,
        )
        if index == 0:
            first, replies = replies[: len(every)], replies[len(every) :]
        for i, reply in zip(mine, replies, strict=True):
            second[i] = reply
    return list(zip(first, second, strict=True))


def _usable(
    run: Run, every: Sequence[Conversation], answers: Sequence[tuple[Message | None, Message | None]]
) -> tuple[list[Pair], list[int]]:
    pairs: list[Pair] = []
    positions: list[int] = []
    dropped = identical = 0
    for i, (prompt, (a, b)) in enumerate(zip(every, answers, strict=True)):
        if a is None or b is None:
            dropped += 1
        elif visible(a).strip() == visible(b).strip():
            identical += 1
        else:
            pairs.append((split_prefill(prompt)[0], a, b))
            positions.append(i)
    run.metric("label.dropped", wilson(dropped, len(every)))
    run.metric("label.identical", wilson(identical, len(every)))
    return pairs, positions


def _report_labels(run: Run, verdicts: Sequence[Judgement | ParseFailure]) -> None:
    read = [v for v in verdicts if isinstance(v, Judgement)]
    run.metric("label.pairs", len(read))
    run.metric("label.failures", wilson(len(verdicts) - len(read), len(verdicts)))
    run.metric("label.ties", wilson(sum(v.probability == 0.5 for v in read), len(read)))
    run.metric("judge.inconsistency", wilson(sum(not v.consistent for v in read), len(read)))
    run.metric("label.entropy", mean_estimate([_entropy(v.probability) for v in read]))
    for name in sorted({v.principle_id for v in read}):
        run.metric(f"label.principle.{name}", sum(v.principle_id == name for v in read))


def _entropy(p: float) -> float:
    return -sum(q * math.log(q) for q in (p, 1 - p) if q > 0)
