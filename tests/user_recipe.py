"""What a user might write: the recipes that `test_bad_input` runs on bad input, some of them wrong."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from publius.constitution.grading import JudgeEvalConfig, evaluate_judge
from publius.constitution.revise import ReviseConfig, revise
from publius.data.artifacts import Corpus
from publius.data.ingest import (
    IngestConfig,
    IngestPreferencesConfig,
    IngestTextConfig,
    ingest_chats,
    ingest_preferences,
    ingest_prompts,
    ingest_text,
)
from publius.model.checkpoint import Checkpoint, RewardCheckpoint, save_reward_checkpoint
from publius.model.config import ModelConfig
from publius.model.heads import RewardModel
from publius.pipeline import Artifact, Recipe, Run, stage
from publius.rl.ppo import PPOConfig, ppo
from publius.tokenizer.bpe import TokenizerConfig, train_tokenizer
from publius.tokenizer.shards import TokenizeConfig, tokenize
from publius.training.pretrain import PretrainConfig, pretrain
from publius.training.sft import SFTConfig, sft

SHAPE = ModelConfig(
    vocab_size=320,
    hidden_size=16,
    layers=1,
    heads=2,
    kv_heads=1,
    head_dim=8,
    intermediate_size=32,
    max_position=128,
)


def words(text: str = "text.jsonl") -> Recipe:
    r = Recipe("words")
    corpus = r.stage("text", ingest_text, IngestTextConfig(paths=(text,)))
    r.stage("tokenizer", train_tokenizer, TokenizerConfig(vocab_size=320), corpus=corpus)
    return r


def chats(chats: str = "chats.jsonl") -> Recipe:
    r = Recipe("chats")
    r.stage("chats", ingest_chats, IngestConfig(paths=(chats,)))
    return r


def mine(text: str = "text.jsonl", chats: str = "chats.jsonl") -> Recipe:
    r = Recipe("mine")
    corpus = r.stage("text", ingest_text, IngestTextConfig(paths=(text,)))
    said = r.stage("chats", ingest_chats, IngestConfig(paths=(chats,)))
    tokenizer = r.stage("tokenizer", train_tokenizer, TokenizerConfig(vocab_size=320), corpus=corpus)
    shards = r.stage("shards", tokenize, TokenizeConfig(), corpus=corpus, tokenizer=tokenizer)
    config = PretrainConfig(model=SHAPE, steps=2, batch_tokens=128, sequence_length=64, save_every=1)
    base = r.stage("base", pretrain, config, shards=shards, tokenizer=tokenizer)
    config = SFTConfig(steps=2, batch_tokens=128, sequence_length=64)
    r.stage("sft", sft, config, base=base, chats=[said])
    return r


def revised(constitution: str = "default") -> Recipe:
    r = mine()
    prompts = r.stage("prompts", ingest_prompts, IngestConfig(paths=("chats.jsonl",)))
    policy = r.nodes["sft"]
    config = ReviseConfig(constitution=constitution)  # pyright: ignore[reportArgumentType]
    r.stage("revise", revise, config, policy=policy, critic=policy, prompts=prompts)
    return r


def judged() -> Recipe:
    """The judge is a remote one, given by `--set judge.remote=`."""
    r = Recipe("judged")
    known = r.stage(
        "pairs", ingest_preferences, IngestPreferencesConfig(paths=("pairs.jsonl",), val_fraction=0.5)
    )
    r.stage("judge", evaluate_judge, JudgeEvalConfig(shots=0), pairs=known)
    return r


@stage(version=1)
def diverged(run: Run, config: TokenizeConfig, *, base: Checkpoint) -> RewardCheckpoint:
    """A preference model whose weights are no numbers any more."""
    model = RewardModel(base.load())
    torch.nn.init.constant_(model.score.weight, float("nan"))
    save_reward_checkpoint(run.output, model, base.tokenizer())
    return RewardCheckpoint(run.output)


def rewarded() -> Recipe:
    r = mine()
    policy = r.nodes["sft"]
    prompts = r.stage("prompts", ingest_prompts, IngestConfig(paths=("chats.jsonl",), val_fraction=0.2))
    liked = r.stage("liked", diverged, TokenizeConfig(), base=policy)
    config = PPOConfig(steps=2, batch=2, max_tokens=4, eval_prompts=2)
    r.stage("rl", ppo, config, policy=policy, reward=liked, prompts=[prompts])
    return r


def miswired() -> Recipe:
    r = Recipe("miswired")
    said = r.stage("chats", ingest_chats, IngestConfig(paths=("chats.jsonl",)))
    r.stage("tokenizer", train_tokenizer, TokenizerConfig(vocab_size=320), corpus=said)
    return r


def unwired() -> Recipe:
    r = Recipe("unwired")
    corpus = r.stage("text", ingest_text, IngestTextConfig(paths=("text.jsonl",)))
    r.stage("shards", tokenize, TokenizeConfig(), corpus=corpus)
    return r


@stage(version=1)
def hold(run: Run, config: TokenizeConfig, *, corpus: Corpus) -> Artifact:
    """Saves a state, says that it is here, and waits to be told to go on."""
    if run.restore() is None:
        run.save(lambda folder: (folder / "state").write_text("half way"))
    Path("here").touch()
    while not Path("go").exists():
        time.sleep(0.01)
    return Artifact(run.output)


def held() -> Recipe:
    r = Recipe("held")
    corpus = r.stage("text", ingest_text, IngestTextConfig(paths=("text.jsonl",)))
    r.stage("hold", hold, TokenizeConfig(), corpus=corpus)
    return r


def misspelt() -> Recipe:
    r = Recipe("misspelt")
    r.stage("text", ingest_text, IngestTextConfig(paths=("text.jsonl",), max_byte=10))  # pyright: ignore[reportCallIssue]
    return r
