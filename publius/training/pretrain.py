"""Pretraining: a language model from tokenized text, from scratch or from a checkpoint."""

from __future__ import annotations

import math

from pydantic import model_validator

from publius.core.errors import UserError
from publius.model.checkpoint import Checkpoint, save_checkpoint
from publius.model.config import ModelConfig, Scale, Tier, preset
from publius.model.transformer import Transformer
from publius.pipeline import Run, stage
from publius.tokenizer.shards import Shards, Split
from publius.tokenizer.tokenizer import Tokenizer, TokenizerArtifact
from publius.training.batches import Example, PackedBatches
from publius.training.language import (
    LanguageConfig,
    check_length,
    held_out_loss,
    language_loss,
    steps_for,
)
from publius.training.lookup import LookupBatches, LookupConfig, lookup_rows, measure_lookup, plain_ids
from publius.training.loop import train_loop
from publius.training.mimetic import mimetic

__all__ = ["ASSUMED_VOCABULARY", "PretrainConfig", "predict_pretrain", "pretrain"]

ASSUMED_VOCABULARY: dict[Scale, int] = {
    "pocket": 2048,
    "laptop": 16_384,
    "one_gpu": 65_536,
    "cluster": 131_072,
}
"""What plans take a preset's vocabulary for, before there is a tokenizer."""


class PretrainConfig(LanguageConfig):
    """Which model, and how long. `model` overrides `tier` and `scale`; an `init` checkpoint all three."""

    tier: Tier = "haiku"
    scale: Scale = "pocket"
    model: ModelConfig | None = None
    lookup: LookupConfig | None = None
    """Rows of segments that come again, among those of text: they teach looking back."""

    mimetic: bool = False
    """First weights with most of what looking back takes (`publius.training.mimetic`); the model must have
    `qkv_bias`."""

    @model_validator(mode="after")
    def _epochs_are_of_text(self) -> PretrainConfig:
        if self.text_rows == 0 and self.planned_tokens() is None:
            raise ValueError("epochs are of text, and lookup leaves no row of a batch for it: give tokens")
        if self.lookup and self.attention == "varlen":
            raise ValueError("rows of lookups come without the lists that varlen reads: use flex or sdpa")
        return self

    @property
    def text_rows(self) -> int:
        """Rows of text in a batch."""
        return self.rows - (lookup_rows(self.lookup, self.rows) if self.lookup else 0)


def predict_pretrain(config: PretrainConfig) -> dict[str, float | str]:
    """For `publius plan`: parameters, and tokens and FLOPs when the config alone fixes them.

    With a preset the vocabulary is not known yet and the usual one of its scale is assumed.
    """
    shape = config.model or preset(config.tier, config.scale, ASSUMED_VOCABULARY[config.scale])
    return predicted(config, shape)


def predicted(config: LanguageConfig, shape: ModelConfig) -> dict[str, float | str]:
    """Parameters of `shape`; tokens and FLOPs of `config` when known."""
    numbers: dict[str, float | str] = {"params": shape.parameters()}
    if (tokens := config.planned_tokens()) is not None:
        numbers["tokens"] = tokens
        numbers["flops"] = tokens * shape.flops_per_token(config.sequence_length)
    return numbers


@stage(version=1, predict=predict_pretrain, parallel=True, wide=True)
def pretrain(
    run: Run,
    config: PretrainConfig,
    *,
    shards: Shards,
    tokenizer: TokenizerArtifact,
    init: Checkpoint | None = None,
) -> Checkpoint:
    """Train on the documents of `shards`, packed and masked so that none sees another.

    Metrics: `val_loss` (nats per token), `val_bpb` (bits per byte of held-out text; when there is any),
    `train_loss`, `parameters`, `tokens_per_second`, `fill` (share of the text's places that are not padding);
    with `lookup`, `lookup_accuracy` (share of what can be looked up, in fresh rows, that is the likeliest).

    Raises:
        UserError: for no training text, a damaged shard, rows longer than the model's positions, a
            vocabulary that does not fit, or a mimetic start that the model cannot have.
    """
    shards.verify()
    words = tokenizer.load()
    model = _started(config, words, init)
    check_length(config.sequence_length, model.config.max_position, "pretrain.sequence_length")
    if shards.vocab_size > model.config.vocab_size:
        raise UserError(
            f"shards use {shards.vocab_size} token ids, the model has {model.config.vocab_size}",
            where="pretrain",
            fix="tokenize with the tokenizer of the model, or leave the model's vocab_size to the tokenizer",
        )
    examples = [Example(ids) for ids in shards.documents("train")]
    text = PackedBatches(
        examples, sequence_length=config.sequence_length, rows=config.text_rows, seed=config.seed
    )
    ids = plain_ids(words)
    batches = (
        LookupBatches(text, ids, config.lookup, rows=config.rows, seed=config.seed) if config.lookup else text
    )
    steps = steps_for(config, text)
    result = train_loop(
        run,
        model,
        batches,
        language_loss,
        config,
        steps=steps,
        tokens=steps * config.step_tokens,
        flops_per_token=model.config.flops_per_token(config.sequence_length),
        evaluate=lambda: _measure(model, shards, words, config) | _looked_up(model, words, config),
        label="pretrain",
    )
    run.lead()
    for name, value in result.evaluation.items():
        run.metric(name, value)
    run.metric("train_loss", result.loss)
    run.metric("parameters", model.config.parameters())
    run.metric("tokens_per_second", result.tokens_per_second)
    run.metric("fill", text.fill)
    save_checkpoint(run.output, model, words)
    return Checkpoint(run.output)


def _started(config: PretrainConfig, tokenizer: Tokenizer, init: Checkpoint | None) -> Transformer:
    if init and config.mimetic:
        raise UserError(
            "a mimetic start is for fresh weights, and there is an init",
            where="pretrain.mimetic",
            fix="leave one of them out",
        )
    if init:
        return init.load()
    model = Transformer(_shape(config, tokenizer), seed=config.seed)
    if config.mimetic:
        mimetic(model)
    return model


def _shape(config: PretrainConfig, tokenizer: Tokenizer) -> ModelConfig:
    shape = config.model or preset(config.tier, config.scale, tokenizer.vocab_size)
    if shape.vocab_size < tokenizer.vocab_size:
        raise UserError(
            f"the tokenizer has {tokenizer.vocab_size} ids, model.vocab_size is {shape.vocab_size}",
            where="pretrain.model.vocab_size",
            fix="raise model.vocab_size, or train a smaller tokenizer",
        )
    return shape


def _with_lookups(
    text: PackedBatches, tokenizer: Tokenizer, config: PretrainConfig
) -> PackedBatches | LookupBatches:
    if config.lookup is None:
        return text
    return LookupBatches(text, plain_ids(tokenizer), config.lookup, rows=config.rows, seed=config.seed)


def _looked_up(model: Transformer, tokenizer: Tokenizer, config: PretrainConfig) -> dict[str, float]:
    """`lookup_accuracy`, where lookups train."""
    if config.lookup is None:
        return {}
    return {"lookup_accuracy": measure_lookup(model, plain_ids(tokenizer), config.sequence_length)}


def _measure(
    model: Transformer, shards: Shards, tokenizer: Tokenizer, config: PretrainConfig, split: Split = "val"
) -> dict[str, float]:
    """`val_loss` and `val_bpb` over the split's first documents, up to `eval_tokens`."""
    chosen: list[Example] = []
    tokens = 0
    for ids in shards.documents(split):
        if tokens >= config.eval_tokens:
            break
        chosen.append(Example(ids))
        tokens += len(ids)
    if tokens <= len(chosen):
        return {}
    batches = PackedBatches(chosen, sequence_length=config.sequence_length, rows=config.rows, seed=0)
    held = held_out_loss(model, batches.once())
    size = (
        shards.bytes(split)
        if tokens == shards.tokens(split)
        else sum(len(tokenizer.id_bytes(int(i))) for example in chosen for i in example.tokens)
    )
    return {"val_loss": held.nll / held.weight, "val_bpb": held.nll / math.log(2) / max(1, size)}
