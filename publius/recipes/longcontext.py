"""Sixteen times the context: a small model pretrained on rows of 256, extended to 4096, and searched.

    publius run longcontext

The report holds a heat map: how often a sentence hidden in held-out text is found, by length and depth.
"""

from __future__ import annotations

from publius.core.config import Seed
from publius.data.pocket.world import PocketConfig, make_pocket
from publius.evals.needle import NeedleConfig, needle
from publius.model.config import ModelConfig
from publius.pipeline import Recipe
from publius.tokenizer.bpe import TokenizerConfig, train_tokenizer
from publius.tokenizer.shards import TokenizeConfig, tokenize
from publius.training.extend import ExtendConfig, Phase, extend
from publius.training.lookup import LookupConfig
from publius.training.optimizer import OptimizerConfig
from publius.training.pretrain import PretrainConfig, pretrain

__all__ = ["longcontext"]

_SHORT, _LONG, _THETA = 256, 4096, 10_000.0
# Every other layer looks at the 32 places before a token, by distance; those between look at all places, by
# content alone. Nothing in the model knows how long a row is: what looks up in 256 places does so in 4,096.
_SHAPE = ModelConfig(
    vocab_size=2048, hidden_size=192, layers=4, heads=6, kv_heads=3, head_dim=32, intermediate_size=512,
    max_position=_SHORT, rope_theta=_THETA, no_rope_layers=(1, 3), sliding_window=32, window_layers=(0, 2),
    qkv_bias=True, o_bias=True,
)  # fmt: skip
_RATES = OptimizerConfig(muon_lr=0.01, adamw_lr=0.004)


def longcontext(seed: Seed = 0) -> Recipe:
    """Pocket at 4096 tokens, on two CPU cores."""
    r = Recipe("longcontext", jobs=1)
    world = r.stage("world", make_pocket, PocketConfig(seed=seed))
    tokenizer = r.stage("tokenizer", train_tokenizer, TokenizerConfig(vocab_size=2048), corpus=world)
    shards = r.stage("shards", tokenize, TokenizeConfig(), corpus=world, tokenizer=tokenizer)
    # first only looking up, in short rows, where it is learned soonest; then text with a share of it
    lookups = PretrainConfig(
        model=_SHAPE, mimetic=True, lookup=LookupConfig(share=1.0), tokens=1_000_000, batch_tokens=2048,
        sequence_length=32, optimizer=_RATES, seed=seed,
    )  # fmt: skip
    short = PretrainConfig(
        lookup=LookupConfig(share=0.5), tokens=2_000_000, batch_tokens=16 * _SHORT, sequence_length=_SHORT,
        optimizer=_RATES, seed=seed,
    )  # fmt: skip
    start = r.stage("start", pretrain, lookups, shards=shards, tokenizer=tokenizer)
    base = r.stage("base", pretrain, short, shards=shards, tokenizer=tokenizer, init=start)
    growing = ExtendConfig(
        length=_LONG, method="theta", theta=_THETA,  # kept as it is: windows are no longer than before
        phases=(
            Phase(length=_SHORT, tokens=800_000),  # the needle task is learned where it is cheap
            Phase(length=1024, tokens=1_000_000),
            Phase(length=_LONG, tokens=3_500_000),
        ),
        batch_tokens=2 * _LONG, needles=1.0, needle_spacing=32, needle_words=4, needle_segments=0.5,
        needle_common=0.5,  # a question that ends in "the" is answered by what stands before it
        lookup=LookupConfig(share=0.3), answer_weight=10.0, spike_sigmas=None,
        optimizer=OptimizerConfig(muon_lr=0.01, adamw_lr=0.003), eval_rows=4, seed=seed,
    )  # fmt: skip
    long = r.stage("long", extend, growing, base=base, shards=shards)
    before = NeedleConfig(prefix="base", lengths=(128, _SHORT))
    grid = NeedleConfig(lengths=(512, 1024, 2048, _LONG))
    # forty a cell are too few to tell 95% from 90%: other questions, five times as many, where it is hardest
    farthest = NeedleConfig(prefix="far", lengths=(_LONG,), n=200, seed=1)
    tested = r.stage("needle_base", needle, before, model=base, shards=shards)
    found = r.stage("needle_long", needle, grid, model=long, shards=shards)
    far = r.stage("needle_far", needle, farthest, model=long, shards=shards)
    r.publish("needle.base", tested, "base.accuracy")
    for metric in ("accuracy", "worst", f"worst.{_LONG}"):
        r.publish(f"needle.{metric}", found, f"needle.{metric}")
    for metric in ("accuracy", "worst"):
        r.publish(f"needle.far.{metric}", far, f"far.{metric}")
    return r
