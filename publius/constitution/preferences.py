"""RL-CAI: pairs of answers from the policy, labelled by the judge under one sampled principle each.

Bai et al. (2022), section 4: soft, unclamped labels for the plain judge, labels clamped to 0.4-0.6
for chain of thought. The arms of the paper's comparison (section 4.3) are settings:

| labels | settings |
| --- | --- |
| hard | `labels=hard` |
| soft | (the default) |
| chain of thought, unclamped | `chain_of_thought=true clamp=none` |
| chain of thought, 20-80 | `chain_of_thought=true clamp=0.2,0.8` |
| chain of thought, 40-60 | `chain_of_thought=true` |
"""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field

from publius.constitution.grading import disagreement, record_remote, silence
from publius.constitution.judges import JudgeConfig, Judgement, Pair, Ruling, clamped, seated
from publius.constitution.judges.bench import check_seats
from publius.constitution.principles import Principle
from publius.constitution.raw_text import visible
from publius.constitution.revise import sample_replies, split_prefill
from publius.core.device import pick_device, set_threads
from publius.core.errors import UserError
from publius.core.messages import Conversation, Message
from publius.core.stats import mean_estimate, wilson
from publius.data.artifacts import Preferences, Prompts, write_preferences
from publius.data.types import Preference
from publius.inference.engine import Engine
from publius.model.checkpoint import Checkpoint
from publius.pipeline.run import Run
from publius.pipeline.stage import stage
from publius.tokenizer.renderer import Renderer

__all__ = ["LabelConfig", "Posed", "label", "pose", "write_labels"]


class LabelConfig(JudgeConfig):
    """How preference pairs are made and labelled.

    Attributes:
        labels: the judge's probability (`soft`), or 1 for the side it prefers (`hard`).
        pairs: answer pairs sampled per prompt.
        max_prompts: use only this many prompts (drawn with `seed`); None uses all.
        source: written into each preference, for metrics by source.
        hold_out: keep labelled validation prompts as held-out pairs ("right" is what the judge says).
    """

    labels: Literal["soft", "hard"] = "soft"
    pairs: int = Field(default=1, ge=1)
    max_prompts: int | None = Field(default=None, ge=1)
    answer_tokens: int = Field(default=128, ge=1)
    source: str = "ai"
    hold_out: bool = True


@stage(version=4)
def label(
    run: Run,
    config: LabelConfig,
    *,
    policy: Checkpoint,
    prompts: Prompts,
    judge: Checkpoint | None = None,
    panel: list[Checkpoint] | None = None,
    policies: list[Checkpoint] | None = None,
) -> Preferences:
    """Two answers per prompt at T=1, labelled by the judge: `chosen` is answer 1, `probability` how likely.

    With `policies`, answer 1 comes from `policy` and answer 2 from one of all of them, drawn per pair. The
    judge is `judge`, a remote model of the config, or where there are several, with those of `panel`, all
    of them together. The answers are kept when judging fails: the next run goes on with them.

    Metrics: label.pairs, label.dropped (reply empty or cut off), label.identical, label.ties (dropped),
    label.failures, label.abstentions, label.skipped, label.entropy (nats), judge.inconsistency, of a panel
    judge.disagreement, label.principle.<id>, of remote judges remote.*.
    """
    set_threads(config.threads)
    checkpoints = [*([judge] if judge else []), *(panel or [])]
    check_seats(config, checkpoints)
    posed = pose(run, config, policy=policy, prompts=prompts, policies=policies)
    with seated(config, checkpoints) as bench:
        verdicts = bench.judge.judge(posed.pairs, posed.principles)
        record_remote(run, bench.stats())
    return write_labels(run, config, posed, verdicts)


class Posed(NamedTuple):
    """Pairs to be judged, each with its principle, and whether it stays held out."""

    pairs: list[Pair]
    principles: list[Principle]
    held_out: list[bool]


def pose(
    run: Run,
    config: LabelConfig,
    *,
    policy: Checkpoint,
    prompts: Prompts,
    policies: list[Checkpoint] | None = None,
) -> Posed:
    """Sample the answers and draw the principles, or take up those that an earlier execution saved."""
    if (state := run.restore()) is not None:
        return _read_posed(state / "posed.jsonl", config)
    rng = random.Random(config.seed)
    parts = [_choose(split, config, rng) for split in (prompts.train(), prompts.val())]
    every = [p for part in parts for p in part for _ in range(config.pairs)]
    cut = len(parts[0]) * config.pairs
    answers = _answers(config, [policy, *(policies or [])], every, rng)
    pairs, positions = _usable(run, every, answers)
    principles = [config.constitution.sample(rng) for _ in pairs]
    posed = Posed(pairs, principles, [position >= cut for position in positions])
    run.save(lambda folder: _write_posed(folder / "posed.jsonl", posed))
    return posed


def _write_posed(path: Path, posed: Posed) -> None:
    with path.open("w", encoding="utf-8") as file:
        for pair, principle, held_out in zip(*posed, strict=True):
            row = [[part.model_dump(mode="json") for part in pair], principle.id, held_out]
            file.write(json.dumps(row) + "\n")


def _read_posed(path: Path, config: LabelConfig) -> Posed:
    posed = Posed([], [], [])
    for line in path.read_text("utf-8").splitlines():
        (prompt, a, b), principle, held_out = json.loads(line)
        pair = (Conversation.model_validate(prompt), Message.model_validate(a), Message.model_validate(b))
        posed.pairs.append(pair)
        posed.principles.append(config.constitution.principle(principle))
        posed.held_out.append(held_out)
    return posed


def write_labels(run: Run, config: LabelConfig, posed: Posed, verdicts: Sequence[Ruling]) -> Preferences:
    """Write the pairs that were judged, clamped and hardened as the config says; metrics as `label`.

    Raises:
        UserError: when no pair was judged, saying what became of them.
    """
    verdicts = [clamped(verdict, config.interval) for verdict in verdicts]
    made: tuple[list[Preference], list[Preference]] = ([], [])
    for (conversation, a, b), held_out, verdict in zip(posed.pairs, posed.held_out, verdicts, strict=True):
        if isinstance(verdict, Judgement) and verdict.probability != 0.5:
            said = verdict.probability
            prompt = conversation.model_copy(
                update={"meta": {**conversation.meta, "principle": verdict.principle_id}}
            )
            made[held_out].append(
                Preference(
                    prompt=prompt,
                    chosen=a,
                    rejected=b,
                    probability=float(said > 0.5) if config.labels == "hard" else said,
                    source=config.source,
                )
            )
    _report_labels(run, verdicts)
    if not any(made):
        counted = Counter(type(verdict).__name__ for verdict in verdicts)
        told = ", ".join(f"{count} {name}" for name, count in counted.most_common())
        raise UserError(
            "the judge labelled no pair",
            where=f"label: {len(verdicts)} usable pairs" + (f" ({told})" if told else ""),
            fix="use a larger judge, more prompts or longer answer_tokens",
        )
    write_preferences(run.output, train=made[0], val=made[1] if config.hold_out else ())
    return Preferences(run.output)


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


def _report_labels(run: Run, verdicts: Sequence[Ruling]) -> None:
    read = [v for v in verdicts if isinstance(v, Judgement)]
    run.metric("label.pairs", len(read))
    for name, estimate in silence("label", verdicts).items():
        run.metric(name, estimate)
    run.metric("label.ties", wilson(sum(v.probability == 0.5 for v in read), len(read)))
    run.metric("judge.inconsistency", wilson(sum(not v.consistent for v in read), len(read)))
    if any(v.votes for v in read):
        run.metric("judge.disagreement", disagreement(read))
    run.metric("label.entropy", mean_estimate([_entropy(v.probability) for v in read]))
    for name in sorted({v.principle_id for v in read}):
        run.metric(f"label.principle.{name}", sum(v.principle_id == name for v in read))


def _entropy(p: float) -> float:
    return -sum(q * math.log(q) for q in (p, 1 - p) if q > 0)
