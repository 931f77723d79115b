"""Supervised fine-tuning: what the assistant said, given everything before it.

Optionally with pretraining text replayed beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from pydantic import Field

from publius.core.errors import UserError
from publius.core.messages import Conversation
from publius.data.artifacts import Conversations
from publius.model.checkpoint import Checkpoint, save_checkpoint
from publius.model.transformer import Transformer
from publius.pipeline import Run, stage
from publius.tokenizer.renderer import Renderer
from publius.tokenizer.shards import Shards
from publius.training.batches import Example, PackedBatches
from publius.training.language import (
    LanguageConfig,
    check_length,
    held_out_loss,
    language_loss,
    steps_for,
)
from publius.training.loop import train_loop
from publius.training.optimizer import OptimizerConfig

__all__ = [
    "Rendering",
    "SFTConfig",
    "first_examples",
    "mixed_chats",
    "predict_sft",
    "render_all",
    "replayed",
    "sft",
]


class SFTConfig(LanguageConfig):
    """Length, rows, and how often each source is seen."""

    weights: tuple[float, ...] = ()
    """Times each `chats` input is repeated in an epoch, in order (2.0 twice, 0.5 a seeded half); empty is
    once each."""
    replay: float = Field(default=0.0, ge=0, lt=1)
    """Share of an epoch's tokens that are pretraining documents, drawn by seed from the `replay` input, so
    that what was not asked about is not forgotten (the pretraining mix of Ouyang et al. 2022, arXiv
    2203.02155, section 3.5). Needs that input."""
    optimizer: OptimizerConfig = OptimizerConfig(muon_lr=0.01, adamw_lr=0.001)
    eval_tokens: int = Field(default=100_000, ge=1)


class Rendering(NamedTuple):
    """Conversations as examples, and what could not be used whole."""

    examples: list[Example]
    truncated: int
    """Conversations cut at the end to fit a row."""
    dropped: int
    """Conversations with nothing to learn (left) in them."""


def predict_sft(config: SFTConfig) -> dict[str, float | str]:
    """For `publius plan`: tokens, when the config alone fixes them (the model is an input)."""
    tokens = config.planned_tokens()
    return {} if tokens is None else {"tokens": tokens}


def render_all(renderer: Renderer, chats: Sequence[Conversation], sequence_length: int) -> Rendering:
    """Render conversations, each at most one row long (`sequence_length` + 1 tokens)."""
    examples: list[Example] = []
    truncated = dropped = 0
    for chat in chats:
        tokens, weights = renderer.render(chat)
        truncated += len(tokens) > sequence_length + 1
        tokens, weights = tokens[: sequence_length + 1], weights[: sequence_length + 1]
        if any(weights[1:]):
            examples.append(Example(np.asarray(tokens, np.int32), np.asarray(weights, np.float32)))
        else:
            dropped += 1
    return Rendering(examples, truncated, dropped)


@stage(version=2, predict=predict_sft, parallel=True, wide=True)
def sft(
    run: Run,
    config: SFTConfig,
    *,
    base: Checkpoint,
    chats: list[Conversations],
    replay: Shards | None = None,
) -> Checkpoint:
    """Fine-tune `base` on the training split of `chats`; loss on assistant tokens only.

    With `config.replay` some of the text it was pretrained on is mixed in, with a loss on all of it.

    Metrics: `val_loss` (nats per assistant token over all sources' held-out conversations; when there
    are any), `train_loss`, `conversations`, `truncated`, `dropped`, `replayed` (documents),
    `trained_fraction` (share of places with a loss), `tokens_per_second`, `fill`.

    Raises:
        UserError: for no conversations, weights that do not match the inputs, replay without its input or
            with another tokenizer's ids, or rows longer than the model's positions.
    """
    model, tokenizer = base.load(), base.tokenizer()
    check_length(config.sequence_length, model.config.max_position, "sft.sequence_length")
    renderer = Renderer(tokenizer)
    train = render_all(renderer, mixed_chats(config, chats), config.sequence_length)
    val = render_all(renderer, [chat for source in chats for chat in source.val()], config.sequence_length)
    text = replayed(config, train.examples, replay, model.config.vocab_size)
    examples = train.examples + text
    batches = PackedBatches(
        examples, sequence_length=config.sequence_length, rows=config.rows, seed=config.seed
    )
    steps = steps_for(config, batches)
    result = train_loop(
        run,
        model,
        batches,
        language_loss,
        config,
        steps=steps,
        tokens=steps * config.step_tokens,
        flops_per_token=model.config.flops_per_token(config.sequence_length),
        evaluate=lambda: _measure(model, val.examples, config),
        label="sft",
    )
    run.lead()
    places = batches.rows_per_epoch * config.sequence_length
    metrics = result.evaluation | {
        "train_loss": result.loss,
        "conversations": len(train.examples),
        "truncated": train.truncated,
        "dropped": train.dropped,
        "replayed": len(text),
        "trained_fraction": sum(_learned(example) for example in examples) / places,
        "tokens_per_second": result.tokens_per_second,
        "fill": batches.fill,
    }
    for name, value in metrics.items():
        run.metric(name, value)
    save_checkpoint(run.output, model, tokenizer)
    return Checkpoint(run.output)


def mixed_chats(config: SFTConfig, chats: Sequence[Conversations]) -> list[Conversation]:
    """Every source's training conversations, repeated by its weight.

    Raises:
        UserError: for weights that do not match the sources.
    """
    weights = config.weights or (1.0,) * len(chats)
    if len(weights) != len(chats) or any(weight < 0 for weight in weights):
        raise UserError(
            f"{len(chats)} conversation inputs, weights {list(weights)}",
            where="sft.weights",
            fix="give one weight >= 0 per input, in order, or none",
        )
    mixed: list[Conversation] = []
    for place, (source, weight) in enumerate(zip(chats, weights, strict=True)):
        items = source.train()
        order = np.random.default_rng([config.seed, place]).permutation(len(items))
        part = order[: round((weight % 1) * len(items))]
        mixed += items * int(weight) + [items[i] for i in part]
    return mixed


def replayed(
    config: SFTConfig, chats: Sequence[Example], shards: Shards | None, vocab_size: int
) -> list[Example]:
    """Documents of the pretraining split, drawn until they are `config.replay` of all tokens (or used up).

    Raises:
        UserError: for a share without text, or text of another tokenizer.
    """
    if not config.replay:
        return []
    if shards is None or shards.vocab_size > vocab_size:
        why = (
            "the stage has no replay input"
            if shards is None
            else f"the text to replay uses {shards.vocab_size} token ids and the model has {vocab_size}"
        )
        raise UserError(
            f"sft.replay is {config.replay}, but {why}",
            where="sft.replay",
            fix="wire the shards the base model was pretrained on: r.stage(..., sft, ..., replay=shards)",
        )
    shards.verify()
    documents = shards.documents("train")
    wanted = sum(len(example.tokens) for example in chats) * config.replay / (1 - config.replay)
    drawn: list[Example] = []
    for index in np.random.default_rng([config.seed, len(chats)]).permutation(len(documents)):
        if wanted <= 0:
            break
        ids = documents[int(index)]
        drawn.append(Example(ids))
        wanted -= len(ids)
    return drawn


def _measure(model: Transformer, examples: Sequence[Example], config: SFTConfig) -> dict[str, float]:
    """`val_loss` over the first held-out conversations, up to `eval_tokens`; empty when there are none."""
    held = first_examples(examples, config.eval_tokens)
    if not held:
        return {}
    packed = PackedBatches(held, sequence_length=config.sequence_length, rows=config.rows, seed=0)
    sums = held_out_loss(model, packed.once())
    return {"val_loss": sums.nll / sums.weight}


def first_examples(examples: Sequence[Example], tokens: int) -> list[Example]:
    """The first examples, as many as it takes to reach `tokens`."""
    chosen: list[Example] = []
    for example in examples:
        if tokens <= 0:
            break
        chosen.append(example)
        tokens -= len(example.tokens)
    return chosen


def _learned(example: Example) -> int:
    if example.weights is None:
        return max(0, len(example.tokens) - 1)
    return int(np.count_nonzero(np.asarray(example.weights)[1:]))
