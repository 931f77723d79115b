"""Small real things for the tests of constitution, reward and rl: a byte tokenizer and two-layer models."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from publius.core.messages import Conversation, assistant, user
from publius.data.artifacts import Conversations, Prompts, write_conversations, write_prompts
from publius.model.checkpoint import Checkpoint, RewardCheckpoint, save_checkpoint, save_reward_checkpoint
from publius.model.config import ModelConfig
from publius.model.heads import RewardModel
from publius.model.transformer import Transformer
from publius.tokenizer.bpe import TokenizerConfig, train_bpe
from publius.tokenizer.tokenizer import Tokenizer


def tokenizer() -> Tokenizer:
    """Bytes and special tokens, no merges."""
    return train_bpe([""], TokenizerConfig(vocab_size=269))


def shape(max_position: int = 256) -> ModelConfig:
    return ModelConfig(
        vocab_size=269,
        hidden_size=32,
        layers=2,
        heads=4,
        kv_heads=2,
        head_dim=8,
        intermediate_size=64,
        max_position=max_position,
    )


def model(seed: int = 0, max_position: int = 256) -> Transformer:
    return Transformer(shape(max_position), seed=seed).eval()


def talker(end: float = 0.25, seed: int = 0, max_position: int = 512) -> Transformer:
    """A model that writes random small letters and ends its turn with probability about `end` at each token.

    Every embedding has a large first coordinate, which survives the final norm as sqrt(width); the head
    reads it as a bias for each token.
    """
    config = shape(max_position).model_copy(update={"tie_embeddings": False})
    made = Transformer(config, seed=seed).eval()
    tok = tokenizer()
    letters = [tok.encode(c)[0] for c in "abcdefgh "]
    assert made.lm_head is not None
    with torch.no_grad():
        made.model.embed_tokens.weight[:, 0] = 4.0
        made.lm_head.weight.mul_(0.3)
        made.lm_head.weight[:, 0] = -20.0 / 32**0.5
        for letter in letters:
            made.lm_head.weight[letter, 0] = math.log((1 - end) / len(letters)) / 32**0.5
        made.lm_head.weight[tok.end_id, 0] = math.log(end) / 32**0.5
    return made


def talker_checkpoint(folder: Path, end: float = 0.25, seed: int = 0, max_position: int = 512) -> Checkpoint:
    save_checkpoint(folder, talker(end, seed, max_position), tokenizer())
    return Checkpoint(folder)


def checkpoint(folder: Path, seed: int = 0, max_position: int = 256) -> Checkpoint:
    save_checkpoint(folder, model(seed, max_position), tokenizer())
    return Checkpoint(folder)


def reward_checkpoint(folder: Path, seed: int = 1, max_position: int = 256) -> RewardCheckpoint:
    save_reward_checkpoint(folder, RewardModel(model(seed, max_position), seed=seed), tokenizer())
    return RewardCheckpoint(folder)


def chats(count: int) -> list[Conversation]:
    return [Conversation(messages=(user(f"q{i}"),)) for i in range(count)]


def conversations(folder: Path, count: int = 8) -> Conversations:
    said = [Conversation(messages=(user(f"q{i}"), assistant("abcabc"))) for i in range(count)]
    write_conversations(folder, train=said)
    return Conversations(folder)


def prompts(folder: Path, count: int = 12, held_out: int = 4) -> Prompts:
    every = chats(count + held_out)
    write_prompts(folder, train=every[:count], val=every[count:])
    return Prompts(folder)
