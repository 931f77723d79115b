"""The preference model: which of two replies is better, as the difference of two scores.

Binary cross-entropy on a target *probability*, so hard human labels, soft AI labels and clamped labels
share one path (Bradley-Terry; Bai et al. 2022, section 4). A score is read at the final <|end|>.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from publius.core.config import Config, execution
from publius.core.errors import UserError
from publius.core.messages import text_of
from publius.core.stats import Estimate, calibration_error, clustered_rate, wilson
from publius.data.artifacts import Preferences
from publius.data.splits import by_prompt, things
from publius.data.types import Preference
from publius.model.checkpoint import Checkpoint, RewardCheckpoint, save_reward_checkpoint
from publius.model.heads import RewardModel
from publius.pipeline.run import Run
from publius.pipeline.stage import stage
from publius.reward.reward_fn import ModelReward, pad_rows
from publius.tokenizer.renderer import Renderer
from publius.training.batches import ShuffledBatches
from publius.training.loop import LoopConfig, LossSum, train_loop
from publius.training.optimizer import OptimizerConfig

__all__ = [
    "PairBatch",
    "RewardConfig",
    "expected_calibration_error",
    "preference_loss",
    "reward_report",
    "train_reward",
]


Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""Below 0 it would teach the opposite of a source's labels, without an end."""


class RewardConfig(Config):
    """How a preference model is trained.

    Attributes:
        epochs: passes over the pairs; more than 1 overfits (paper).
        pairs: pairs per step, both sides of each in the batch.
        sequence_length: pairs with a longer side are dropped and counted; None is the model's context.
        source_weights: loss weight by preference source, 0 or more; 1 where not named.
        half: train on one half of the seeded shuffle (None: on all); models of one seed get the two halves.
        reference: training replies whose mean score becomes 0 (held-out ones only measure).
    """

    epochs: float = Field(default=1.0, gt=0)
    pairs: int = Field(default=32, ge=1)
    sequence_length: int | None = Field(default=None, ge=8)
    source_weights: dict[str, Weight] = Field(default_factory=dict)
    half: int | None = Field(default=None, ge=0, le=1)
    reference: int = Field(default=256, ge=2)
    seed: int = 0
    loop: LoopConfig = LoopConfig(optimizer=OptimizerConfig(muon_lr=0.002, adamw_lr=0.0003))
    max_batch: int = execution(64, ge=1)


class PairBatch(NamedTuple):
    """Both sides of B pairs: rows 0..B-1 are `chosen`, rows B..2B-1 `rejected`."""

    tokens_2BT: Tensor
    last_2B: Tensor
    target_B: Tensor
    weight_B: Tensor


class _Pair(NamedTuple):
    chosen: list[int]
    rejected: list[int]
    item: Preference
    source: str


def preference_loss(scores_2B: Tensor, target_B: Tensor, weight_B: Tensor) -> Tensor:
    """Weighted sum of -p log sigmoid(d) - (1 - p) log sigmoid(-d), d = chosen - rejected."""
    chosen_B, rejected_B = scores_2B.float().chunk(2)
    return F.binary_cross_entropy_with_logits(
        chosen_B - rejected_B, target_B, weight=weight_B, reduction="sum"
    )


def _loss(model: RewardModel, batch: PairBatch) -> LossSum:
    scores = model(batch.tokens_2BT, batch.last_2B)
    total = preference_loss(scores, batch.target_B, batch.weight_B)
    return LossSum(total, batch.weight_B.sum(), int((batch.last_2B + 1).sum()))


@stage(version=3, parallel=True, wide=True)
def train_reward(
    run: Run, config: RewardConfig, *, base: Checkpoint, preferences: list[Preferences]
) -> RewardCheckpoint:
    """Train a preference model on `base`'s trunk.

    Metrics, all on held-out pairs: reward.accuracy (also .<source> and .length_matched), reward.ece,
    reward.baseline.shorter and .sorry, reward.loss; reward.dropped and reward.pairs of the training set.

    Raises:
        UserError: when no pair fits the context, or a weight names a source that no pair has.
    """
    tokenizer = base.tokenizer()
    renderer = Renderer(tokenizer)
    trunk = base.load()
    limit = min(config.sequence_length or trunk.config.max_position, trunk.config.max_position)
    every = [pair for part in preferences for pair in _pairs(part.train(), renderer, config)]
    train = [p for p in every if max(len(p.chosen), len(p.rejected)) <= limit]
    held_out = [pair for part in preferences for pair in _pairs(part.val(), renderer, config)]
    held_out = [p for p in held_out if max(len(p.chosen), len(p.rejected)) <= limit]
    _check_sources([*every, *held_out], config.source_weights)
    train, held_out = _divide(train, held_out, config)
    run.metric(
        "reward.dropped", wilson(sum(max(len(p.chosen), len(p.rejected)) > limit for p in every), len(every))
    )
    run.metric("reward.pairs", len(train))
    model = RewardModel(trunk, seed=config.seed)
    source: ShuffledBatches[_Pair, PairBatch] = ShuffledBatches(
        train,
        lambda pairs: _batch(pairs, tokenizer.pad_id, config.source_weights),
        rows=config.pairs,
        seed=config.seed,
    )
    steps = max(1, math.ceil(config.epochs * len(train) / (config.pairs * config.loop.accumulation)))
    result = train_loop(
        run,
        model,
        source,
        _loss,
        config.loop,
        steps=steps,
        label="reward model",
        flops_per_token=trunk.config.flops_per_token(limit),
    )
    run.lead()
    run.metric("reward.train_loss", result.loss)
    scorer = ModelReward(model, pad_id=tokenizer.pad_id, end_id=tokenizer.end_id, batch=config.max_batch)
    scores = scorer.score([row for p in held_out for row in (p.chosen, p.rejected)])
    differences = [scores[2 * i] - scores[2 * i + 1] for i in range(len(held_out))]
    items = [p.item.model_copy(update={"source": p.source}) for p in held_out]
    for name, value in reward_report(items, differences).items():
        run.metric(name, value)
    chosen = [row for p in train[: config.reference // 2] for row in (p.chosen, p.rejected)]
    reference = torch.tensor(scorer.score(chosen), dtype=torch.float64)
    facts = {"bias": float(reference.mean()), "std": max(float(reference.std()), 1e-6)}
    # beside the weights, not in them: a sequence-classification head has no bias
    (run.output / "reward.json").write_text(json.dumps(facts) + "\n", "utf-8")
    save_reward_checkpoint(run.output, model, tokenizer)
    return RewardCheckpoint(run.output)


def _pairs(items: Sequence[Preference], renderer: Renderer, config: RewardConfig) -> list[_Pair]:
    return [
        _Pair(
            renderer.render(item.prompt.then(item.chosen)).tokens,
            renderer.render(item.prompt.then(item.rejected)).tokens,
            item,
            item.source or "unnamed",
        )
        for item in items
    ]


def _check_sources(pairs: Sequence[_Pair], weights: dict[str, float]) -> None:
    """A weight for a source that is not there would silently weigh nothing."""
    known = sorted({pair.source for pair in pairs})
    unknown = sorted(weights.keys() - set(known))
    if unknown:
        raise UserError(
            f"no preference pair has the source {', '.join(map(repr, unknown))}",
            where="train_reward: source_weights",
            fix=f"use the names the pairs have: {', '.join(map(repr, known)) or '(no pairs)'}",
        )


def _divide(
    train: list[_Pair], held_out: list[_Pair], config: RewardConfig
) -> tuple[list[_Pair], list[_Pair]]:
    """Hold out a tenth when there is no validation split, then take the asked half of the training pairs.

    By prompts: one that has several pairs is on one side with all of them.
    """
    groups = by_prompt(train, lambda pair: pair.item.prompt)
    random.Random(config.seed).shuffle(groups)
    if not held_out:
        count = max(1, len(groups) // 10)
        groups, held_out = groups[count:], [pair for group in groups[:count] for pair in group]
    if config.half is not None:
        # by place after a shuffle with the seed: two models with one seed get the two halves
        groups = groups[config.half :: 2]
    train = [pair for group in groups for pair in group]
    if not train or not held_out:
        raise UserError(
            "too few preference pairs fit the model's context",
            where="train_reward: preferences",
            fix="give more or shorter pairs, or a model with a longer context",
        )
    return train, held_out


def _batch(pairs: Sequence[_Pair], pad_id: int, weights: dict[str, float]) -> PairBatch:
    rows = [p.chosen for p in pairs] + [p.rejected for p in pairs]
    return PairBatch(
        pad_rows(rows, pad_id, torch.device("cpu")),
        torch.tensor([len(row) - 1 for row in rows]),
        torch.tensor([p.item.probability for p in pairs]),
        torch.tensor([weights.get(p.source, 1.0) for p in pairs]),
    )


def reward_report(items: Sequence[Preference], differences: Sequence[float]) -> dict[str, Any]:
    """Metrics of score differences (chosen - rejected) on pairs.

    Pairs labelled exactly 0.5 have no right answer and count only for calibration and loss.

    Length-matched pairs differ by at most a tenth in characters. "Says sorry" is counted where exactly
    one reply does; "shorter wins" where lengths differ.
    """
    graded = [(item, d) for item, d in zip(items, differences, strict=True) if item.probability != 0.5]
    right = [(d > 0) == (item.probability > 0.5) for item, d in graded]
    about = things(item.prompt for item, _ in graded)
    lengths = [(len(text_of(i.chosen)), len(text_of(i.rejected))) for i, _ in graded]
    matched = [r for r, (a, b) in zip(right, lengths, strict=True) if abs(a - b) <= 0.1 * max(a, b)]
    out: dict[str, Any] = {
        "reward.accuracy": clustered_rate(right, about),
        "reward.accuracy.length_matched": wilson(sum(matched), len(matched)),
        "reward.baseline.shorter": _rule(
            [(a < b, i) for (i, _), (a, b) in zip(graded, lengths, strict=True) if a != b]
        ),
        "reward.baseline.sorry": _rule(
            [(_sorry(i.chosen), i) for i, _ in graded if _sorry(i.chosen) != _sorry(i.rejected)]
        ),
        "reward.ece": expected_calibration_error(differences, [i.probability for i in items]),
        "reward.loss": sum(_cross_entropy(d, i.probability) for i, d in zip(items, differences, strict=True))
        / len(items),
    }
    sources = sorted({i.source for i, _ in graded})
    for source in sources if len(sources) > 1 else []:
        hits = [r for r, (i, _) in zip(right, graded, strict=True) if i.source == source]
        those = [a for a, (i, _) in zip(about, graded, strict=True) if i.source == source]
        out[f"reward.accuracy.{source}"] = clustered_rate(hits, those)
    return out


def _rule(guesses: Sequence[tuple[bool, Preference]]) -> Estimate:
    """How often a rule that names the chosen side (True) agrees with the label."""
    return wilson(sum(guess == (item.probability > 0.5) for guess, item in guesses), len(guesses))


def _sorry(message: Any) -> bool:
    return "sorry" in text_of(message).lower()


def _cross_entropy(difference: float, target: float) -> float:
    return math.log1p(math.exp(-abs(difference))) + max(difference, 0.0) - difference * target


def expected_calibration_error(
    differences: Sequence[float], targets: Sequence[float], bins: int = 10
) -> float:
    """Mean gap between sigmoid(difference) and target over equal-width bins of confidence (Guo et al. 2017).

    Each pair is turned so that the model's favourite comes first; soft targets count as they are.
    """
    said = [
        (1 / (1 + math.exp(-abs(difference))), target if difference >= 0 else 1 - target)
        for difference, target in zip(differences, targets, strict=True)
    ]
    return calibration_error(said, bins=bins, low=0.5)
