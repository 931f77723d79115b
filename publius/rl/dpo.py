"""Direct preference optimization: a policy fitted to pairs, with neither reward model nor rollouts.

The baseline that PPO is held against (Rafailov et al. 2023, arXiv 2305.18290). A policy is its own reward
model: its implicit reward of a reply is beta x (log p of the policy - log p of the reference), and the loss
is that of a preference model on the difference of two such rewards (eq. 7), with a target *probability*, so
that hard, soft and smoothed labels share one path with `reward_model`.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from publius.core.config import Config, execution
from publius.core.device import compute_dtype, pick_device
from publius.core.errors import UserError
from publius.core.messages import Conversation, Message
from publius.core.stats import Estimate, mean_estimate, wilson
from publius.data.artifacts import Preferences
from publius.data.splits import by_prompt
from publius.data.types import Preference
from publius.inference.engine import Engine
from publius.model.checkpoint import Checkpoint, save_checkpoint
from publius.model.likelihood import logprobs
from publius.model.transformer import Transformer
from publius.pipeline.run import Run
from publius.pipeline.stage import stage
from publius.reward.reward_fn import pad_rows
from publius.reward.reward_model import preference_loss, reward_report
from publius.rl.evaluation import evaluation, known
from publius.rl.rollout import rollout
from publius.tokenizer.renderer import Renderer
from publius.training.batches import ShuffledBatches
from publius.training.loop import LoopConfig, LossSum, train_loop
from publius.training.optimizer import OptimizerConfig

__all__ = ["DPOBatch", "DPOConfig", "Side", "dpo", "dpo_loss", "reply_logprobs", "smoothed"]

_REFERENCE = "reference.json"


class DPOConfig(Config):
    """How a policy is fitted to preferences.

    Attributes:
        epochs: passes over the pairs.
        pairs: pairs per step, both sides of each in the batch.
        sequence_length: pairs with a longer side are dropped and counted; None is the model's context.
        beta: implicit reward per nat of log-ratio; smaller lets the policy go further from the reference.
        label_smoothing: share of labels taken to be wrong. A target p becomes p (1 - 2 e) + e: the
            conservative form (Mitchell 2023, "A note on DPO with noisy preferences"), whose gradient turns
            round once a pair is told apart more surely than its label.
        eval_prompts, max_tokens: held-out prompts, one reply of the trained policy to each, for its KL.
        loop: training. In fp32 by default: a margin is a small difference of two long sums.
    """

    epochs: float = Field(default=1.0, gt=0)
    pairs: int = Field(default=32, ge=1)
    sequence_length: int | None = Field(default=None, ge=8)
    beta: float = Field(default=0.1, gt=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    eval_prompts: int = Field(default=64, ge=2)
    max_tokens: int = Field(default=64, ge=1)
    seed: int = 0
    loop: LoopConfig = LoopConfig(
        dtype="float32",
        optimizer=OptimizerConfig(matrices=False, adamw_lr=1e-4, adamw_eps=1e-8, weight_decay=0.0),
    )
    max_batch: int = execution(64, ge=1)


class Side(NamedTuple):
    """A conversation with one of its two replies; `chosen` marks that reply's tokens, its end included."""

    tokens: list[int]
    chosen: list[bool]


class _Pair(NamedTuple):
    sides: tuple[Side, Side]
    item: Preference
    reference: tuple[float, float] = (math.nan, math.nan)

    @property
    def length(self) -> int:
        return max(len(side.tokens) for side in self.sides)


class DPOBatch(NamedTuple):
    """Both sides of B pairs: rows 0..B-1 hold the first reply, rows B..2B-1 the second."""

    tokens_2BT: Tensor
    chosen_2BT: Tensor
    """bool: tokens of the reply."""
    reference_2B: Tensor
    """Log-probability of each reply under the reference, nats."""
    target_B: Tensor


def smoothed(probability: float, smoothing: float) -> float:
    """The target when a share `smoothing` of labels is wrong."""
    return probability * (1 - 2 * smoothing) + smoothing


def dpo_loss(logprobs_2B: Tensor, reference_2B: Tensor, target_B: Tensor, *, beta: float) -> Tensor:
    """Sum over pairs of the loss of Rafailov et al. (2023), eq. 7, with target probabilities.

    Args:
        logprobs_2B: of whole replies under the policy, nats; first replies, then second ones.
        reference_2B: likewise under the reference.
        target_B: P(the first is better); 1 is eq. 7 itself.
        beta: see `DPOConfig`.
    """
    rewards_2B = beta * (logprobs_2B - reference_2B)
    return preference_loss(rewards_2B, target_B, torch.ones_like(target_B))


def _reply_sums(model: Transformer, tokens_BT: Tensor, chosen_BT: Tensor) -> Tensor:
    """Log-probability [B] of the chosen tokens of each row, given all before them."""
    return logprobs(model, tokens_BT[:, :-1], tokens_BT[:, 1:], select_BT=chosen_BT[:, 1:]).sum(1)


@torch.no_grad()
def reply_logprobs(
    model: Transformer,
    sides: Sequence[Side],
    *,
    pad_id: int,
    batch: int = 64,
    tick: Callable[[int], object] = lambda count: None,
) -> list[float]:
    """Log-probability in nats of each side's reply, in order; `tick` hears of every batch that is done."""
    order = sorted(range(len(sides)), key=lambda i: len(sides[i].tokens))
    found = [0.0] * len(sides)
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        tokens_BT, chosen_BT = _padded([sides[i] for i in part], pad_id)
        sums_B = _reply_sums(model, tokens_BT.to(model.device), chosen_BT.to(model.device))
        for i, value in zip(part, sums_B.tolist(), strict=True):
            found[i] = value
        tick(len(part))
    return found


def _padded(sides: Sequence[Side], pad_id: int) -> tuple[Tensor, Tensor]:
    cpu = torch.device("cpu")
    return pad_rows([s.tokens for s in sides], pad_id, cpu), pad_rows(
        [s.chosen for s in sides], False, cpu
    ).bool()


@stage(version=3, wide=True)
def dpo(run: Run, config: DPOConfig, *, policy: Checkpoint, preferences: list[Preferences]) -> Checkpoint:
    """Fit `policy` to `preferences`, held close to where it starts, which is the reference.

    The reference's log-probabilities are computed once, before training, and kept with the saved states.

    Metrics, all on held-out pairs: dpo.accuracy (also .<source> and .length_matched) of the implicit reward,
    dpo.ece, dpo.loss, dpo.baseline.shorter and .sorry, dpo.margin (implicit reward of the better reply less
    that of the other, nats x beta), dpo.better and dpo.worse (the implicit rewards themselves: both may
    fall); dpo.kl (nats per reply, of replies drawn from the trained policy); dpo.train_loss, dpo.pairs and
    dpo.dropped of the training set.

    Raises:
        UserError: when no pair fits the context.
    """
    tokenizer, model = policy.tokenizer(), policy.load()
    renderer = Renderer(tokenizer)
    limit = min(config.sequence_length or model.config.max_position, model.config.max_position)
    train, held_out, dropped = _pairs(renderer, preferences, limit, config)
    train, held_out = _with_reference(run, model, train, held_out, tokenizer.pad_id, config)
    source: ShuffledBatches[_Pair, DPOBatch] = ShuffledBatches(
        train,
        lambda pairs: _batch(pairs, tokenizer.pad_id, config.label_smoothing),
        rows=config.pairs,
        seed=config.seed,
    )
    result = train_loop(
        run,
        model,
        source,
        lambda module, batch: _loss(module, batch, config.beta),
        config.loop,
        steps=max(1, math.ceil(config.epochs * len(train) / (config.pairs * config.loop.accumulation))),
        flops_per_token=model.config.flops_per_token(limit),
        evaluate=(lambda: _watch(model, held_out, tokenizer.pad_id, config))
        if config.loop.eval_every
        else None,
        label="dpo",
        beside=lambda folder: _keep(folder, train, held_out),
    )
    run.metric("dpo.train_loss", result.loss)
    run.metric("dpo.pairs", len(train))
    run.metric("dpo.dropped", dropped)
    for name, value in _report(held_out, _rewards(model, held_out, tokenizer.pad_id, config)).items():
        run.metric(name, value)
    run.metric("dpo.kl", _kl(model, policy, [pair.item.prompt for pair in held_out], config))
    save_checkpoint(run.output, model, tokenizer)
    return Checkpoint(run.output)


def _side(renderer: Renderer, prompt: Conversation, reply: Message) -> Side:
    """Rendered, the reply's own tokens marked: what the assistant said before is a part of the prompt."""
    whole = prompt.then(reply)
    only = whole.model_copy(update={"meta": {**whole.meta, "train_last_only": True}})
    tokens, weights = renderer.render(only)
    return Side(tokens, [weight > 0 for weight in weights])


def _pairs(
    renderer: Renderer, preferences: Sequence[Preferences], limit: int, config: DPOConfig
) -> tuple[list[_Pair], list[_Pair], Estimate]:
    """Training pairs and held-out ones (of a seeded shuffle when there is no validation split), those too
    long left out; and the share of the training pairs that were."""

    def rendered(items: Sequence[Preference]) -> list[_Pair]:
        return [
            _Pair((_side(renderer, i.prompt, i.chosen), _side(renderer, i.prompt, i.rejected)), i)
            for i in items
        ]

    every = rendered([item for part in preferences for item in part.train()])
    train = [pair for pair in every if pair.length <= limit]
    dropped = wilson(len(every) - len(train), len(every))
    held_out = rendered([item for part in preferences for item in part.val()])
    held_out = [pair for pair in held_out if pair.length <= limit]
    if not held_out:
        order = torch.Generator().manual_seed(config.seed)
        groups = by_prompt(train, lambda pair: pair.item.prompt)  # all pairs of a prompt are on one side
        shuffled = [groups[i] for i in torch.randperm(len(groups), generator=order).tolist()]
        count = max(2, len(groups) // 10)
        parts = shuffled[count:], shuffled[:count]
        train, held_out = ([pair for group in part for pair in group] for part in parts)
    if not train or len(held_out) < 2:
        raise UserError(
            "too few preference pairs fit the model's context",
            where="dpo: preferences",
            fix="give more or shorter pairs, or a model with a longer context",
        )
    return train, held_out, dropped


def _with_reference(
    run: Run,
    model: Transformer,
    train: list[_Pair],
    held_out: list[_Pair],
    pad_id: int,
    config: DPOConfig,
) -> tuple[list[_Pair], list[_Pair]]:
    """The pairs with what the reference thinks of both replies: from the saved state, or computed now.

    For training in the dtype that training computes in, so that every margin starts at 0; for the held-out
    pairs in the model's own, as they are measured.
    """
    if (state := run.restore()) is not None:
        kept = json.loads((state / _REFERENCE).read_text("utf-8"))
        return _referred(train, kept[0]), _referred(held_out, kept[1])
    device = pick_device(config.loop.device)
    model.to(device)
    dtype = compute_dtype(device, config.loop.dtype)
    narrow = model if dtype == model.dtype else copy.deepcopy(model).to(dtype)
    with run.progress("reference", 2 * (len(train) + len(held_out))) as bar:
        scored = [
            _referred(part, _both(scorer, part, pad_id, config.max_batch, bar.advance))
            for part, scorer in ((train, narrow), (held_out, model))
        ]
    return scored[0], scored[1]


def _both(
    model: Transformer,
    pairs: Sequence[_Pair],
    pad_id: int,
    batch: int,
    tick: Callable[[int], object] = lambda count: None,
) -> list[tuple[float, float]]:
    """Log-probabilities of both replies of each pair."""
    sides = [side for pair in pairs for side in pair.sides]
    found = reply_logprobs(model, sides, pad_id=pad_id, batch=batch, tick=tick)
    return list(zip(found[::2], found[1::2], strict=True))


def _referred(pairs: Sequence[_Pair], values: Sequence[Sequence[float]]) -> list[_Pair]:
    return [pair._replace(reference=(a, b)) for pair, (a, b) in zip(pairs, values, strict=True)]


def _keep(folder: Path, train: Sequence[_Pair], held_out: Sequence[_Pair]) -> None:
    """Write the reference's log-probabilities into a saved state."""
    kept = [[pair.reference for pair in part] for part in (train, held_out)]
    (folder / _REFERENCE).write_text(json.dumps(kept), "utf-8")


def _batch(pairs: Sequence[_Pair], pad_id: int, smoothing: float) -> DPOBatch:
    tokens, chosen = _padded([p.sides[0] for p in pairs] + [p.sides[1] for p in pairs], pad_id)
    reference = [p.reference[0] for p in pairs] + [p.reference[1] for p in pairs]
    targets = [smoothed(p.item.probability, smoothing) for p in pairs]
    return DPOBatch(tokens, chosen, torch.tensor(reference), torch.tensor(targets))


def _loss(model: Transformer, batch: DPOBatch, beta: float) -> LossSum:
    sums_2B = _reply_sums(model, batch.tokens_2BT, batch.chosen_2BT)
    total = dpo_loss(sums_2B, batch.reference_2B, batch.target_B, beta=beta)
    return LossSum(total, batch.target_B.new_tensor(len(batch.target_B)), batch.tokens_2BT.numel())


def _rewards(
    model: Transformer, pairs: Sequence[_Pair], pad_id: int, config: DPOConfig
) -> list[tuple[float, float]]:
    """The implicit rewards of both replies of each pair."""
    both = _both(model, pairs, pad_id, config.max_batch)
    return [
        (config.beta * (a - p.reference[0]), config.beta * (b - p.reference[1]))
        for (a, b), p in zip(both, pairs, strict=True)
    ]


def _watch(model: Transformer, held_out: Sequence[_Pair], pad_id: int, config: DPOConfig) -> dict[str, float]:
    """What is logged beside the loss every `loop.eval_every` steps."""
    report = _report(held_out, _rewards(model, held_out, pad_id, config))
    return {
        "val_loss": report["dpo.loss"],
        "val_accuracy": report["dpo.accuracy"].value,
        "val_margin": report["dpo.margin"].value,
    }


def _report(pairs: Sequence[_Pair], rewards: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Metrics of implicit rewards on held-out pairs, as a preference model's."""
    items = [p.item.model_copy(update={"source": p.item.source or "unnamed"}) for p in pairs]
    found = reward_report(items, [a - b for a, b in rewards])
    graded = [
        (a, b) if item.probability > 0.5 else (b, a)
        for item, (a, b) in zip(items, rewards, strict=True)
        if item.probability != 0.5
    ]
    return {f"dpo{name.removeprefix('reward')}": value for name, value in found.items()} | {
        "dpo.margin": mean_estimate([better - worse for better, worse in graded]),
        "dpo.better": mean_estimate([better for better, _ in graded]),
        "dpo.worse": mean_estimate([worse for _, worse in graded]),
    }


def _kl(
    model: Transformer, start: Checkpoint, prompts: Sequence[Conversation], config: DPOConfig
) -> Estimate:
    """Nats per reply from the reference: the mean log-ratio of replies drawn from the policy, as `ppo.kl`."""
    distinct = list({prompt.model_dump_json(): prompt for prompt in prompts}.values())[: config.eval_prompts]
    renderer = Renderer(start.tokenizer())
    engine = Engine(model, renderer.tokenizer, max_batch=config.max_batch)
    drawn = rollout(engine, renderer, distinct, max_tokens=config.max_tokens, seed=-1 - config.seed)
    drawn = [trajectory for trajectory in drawn if trajectory.length]
    found = evaluation(
        drawn,
        [0.0] * len(drawn),
        start.load(device=model.device),
        prompts=len(distinct),
        parts={},
        pad_id=renderer.tokenizer.pad_id,
    )
    return mean_estimate(known(found.kl))
