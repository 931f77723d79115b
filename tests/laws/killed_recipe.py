"""A whole small recipe for `test_pipeline` to kill: a world, a tokenizer, shards, two trainings."""

from __future__ import annotations

from publius.data.pocket.corpus import Amounts
from publius.data.pocket.world import DemonstrationsConfig, PocketConfig, demonstrations, make_pocket
from publius.model.config import ModelConfig
from publius.pipeline import Recipe
from publius.tokenizer.bpe import TokenizerConfig, train_tokenizer
from publius.tokenizer.shards import TokenizeConfig, tokenize
from publius.training.pretrain import PretrainConfig, pretrain
from publius.training.sft import SFTConfig, sft

AMOUNTS = Amounts(
    entity_exposures=2,
    almanac_pages=10,
    craft_exposures=1,
    note_exposures=1,
    sums=10,
    copybooks=10,
    transcripts=10,
    critiques=10,
    comparisons=10,
    stories=5,
)
WORLD = PocketConfig(
    towns=10,
    people=12,
    hazards_per_category=10,
    crafts=10,
    demonstrations=60,
    questions=4,
    comparisons=10,
    amounts=AMOUNTS,
)
SHAPE = ModelConfig(
    vocab_size=400,
    hidden_size=32,
    layers=1,
    heads=2,
    kv_heads=1,
    head_dim=16,
    intermediate_size=64,
    max_position=256,
)


def killed() -> Recipe:
    r = Recipe("killed")
    world = r.stage("world", make_pocket, WORLD)
    tokenizer = r.stage("tokenizer", train_tokenizer, TokenizerConfig(vocab_size=400), corpus=world)
    shards = r.stage("shards", tokenize, TokenizeConfig(), corpus=world, tokenizer=tokenizer)
    config = PretrainConfig(model=SHAPE, steps=200, batch_tokens=512, sequence_length=128, save_every=5)
    base = r.stage("base", pretrain, config, shards=shards, tokenizer=tokenizer)
    chats = r.stage("chats", demonstrations, DemonstrationsConfig(), world=world)
    config = SFTConfig(steps=160, batch_tokens=512, sequence_length=128, save_every=5)
    r.stage("sft", sft, config, base=base, chats=[chats])
    return r
