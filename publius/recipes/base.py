"""One base model on your text by one dial: a tier and its tokens; batch, steps, rows and rates follow.

    publius run base --set data=my/text --set tier=haiku --set scale=laptop --set tokens=50M
    publius plan base --set data=my/text --set tier=opus --set scale=one_gpu

`data` is files, folders or globs, comma-separated. The rules are in `training.scaling`.
"""

from __future__ import annotations

from publius.core.config import Seed
from publius.data.ingest import IngestTextConfig, ingest_text
from publius.data.refine import RefineConfig, refine
from publius.evals.compression import CompressionConfig, compression_baselines
from publius.model.config import Scale, Tier
from publius.pipeline import Recipe
from publius.tokenizer.bpe import TokenizerConfig, train_tokenizer
from publius.tokenizer.shards import TokenizeConfig, tokenize
from publius.training.pretrain import ASSUMED_VOCABULARY, pretrain
from publius.training.scaling import pretrain_config, read_amount

__all__ = ["base"]


def base(
    data: str,
    held_out: str = "",
    tier: Tier = "haiku",
    scale: Scale = "laptop",
    tokens: str = "",
    vocab_size: int | None = None,
    seed: Seed = 0,
) -> Recipe:
    """Text to a pretrained checkpoint.

    Args:
        held_out: held-out text; without it a hundredth of `data` is kept aside.
        tokens: to train on (`50M`, `1e9`); none is 20 a weight.
        vocab_size: the tokenizer's; none is what is usual at that scale.
    """
    r = Recipe("base")
    vocabulary = vocab_size or ASSUMED_VOCABULARY[scale]
    reading = IngestTextConfig(
        paths=_listed(data), val_paths=_listed(held_out), drop_malformed=True, seed=seed
    )
    text = r.stage("refined", refine, RefineConfig(), corpus=r.stage("text", ingest_text, reading))
    tokenizer = r.stage("tokenizer", train_tokenizer, TokenizerConfig(vocab_size=vocabulary), corpus=text)
    shards = r.stage("shards", tokenize, TokenizeConfig(), corpus=text, tokenizer=tokenizer)
    amount = read_amount(tokens, "--set tokens") if tokens else None
    config = pretrain_config(tier, scale, amount, vocabulary, seed=seed)
    model = r.stage(tier, pretrain, config, shards=shards, tokenizer=tokenizer)
    baselines = r.stage(
        "baselines", compression_baselines, CompressionConfig(), corpus=text, shards=shards,
        tokenizer=tokenizer,
    )  # fmt: skip
    r.publish("pretrain.bpb", model, "val_bpb")
    for name in ("baseline.ngram_bpb", "baseline.gzip_bpb"):
        r.publish(name, baselines, name)
    return r


def _listed(paths: str) -> tuple[str, ...]:
    return tuple(path for path in paths.split(",") if path)
