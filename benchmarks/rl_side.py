"""One case of reinforcement learning: the models that both sides load, and our side of it.

The policy writes random letters and never ends, and prompts are of one length once rendered, so that every
sample has as many tokens on either side.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from harness import Memory

from publius.core.config import Config
from publius.core.device import compute_dtype
from publius.core.messages import Conversation, user
from publius.model import ModelConfig
from publius.model.checkpoint import (
    Checkpoint,
    RewardCheckpoint,
    save_checkpoint,
    save_reward_checkpoint,
)
from publius.model.heads import RewardModel
from publius.model.transformer import Transformer
from publius.reward.reward_fn import ModelReward, RewardFn, VerifierReward
from publius.rl.batch import CHUNK_TOKENS
from publius.rl.ppo import PPOConfig, Trainer, load_models
from publius.rl.rollout import take
from publius.testing import byte_tokenizer
from publius.tokenizer.renderer import Renderer

__all__ = [
    "LETTERS",
    "SIZES",
    "RLCase",
    "our_config",
    "our_trainer",
    "prompts_of",
    "speaker",
    "train_ours",
    "write_models",
]

LETTERS = "abcdefghijklmnopqrstuvwxyz "
PROMPTS = 512
SMALL_CHUNK = 1024
"""Tokens in a forward of the mode `small`: 16 samples."""


def _shape(width: int, layers: int, heads: int, inner: int) -> ModelConfig:
    return ModelConfig(
        vocab_size=269, hidden_size=width, layers=layers, heads=heads, kv_heads=heads,
        head_dim=width // heads, intermediate_size=inner, max_position=128, tie_embeddings=False,
    )  # fmt: skip


SIZES = {"0.1M": _shape(64, 1, 2, 128), "3M": _shape(256, 4, 4, 640), "10M": _shape(384, 6, 6, 896)}


class RLCase(Config):
    """One side, one method, one mode. In TRL's child it is plain JSON."""

    side: Literal["ours", "trl"]
    method: Literal["ppo", "grpo", "lora"]
    mode: str
    """ours: float32, auto or bfloat16, and `small`, `shared`. trl: float32 or bfloat16, and `recompute`."""
    size: str
    batch: int = 64
    """Samples a step."""
    group: int = 8
    """(grpo) Samples of a prompt among them."""
    rank: int = 16
    """(lora) Of the adapters."""
    epochs: int = 4
    """Passes over a batch, each one optimizer step."""
    prompt_tokens: int = 32
    new_tokens: int = 32
    learning_rate: float = 1e-3
    beta: float = 0.02
    warm: int = 1
    """Steps before the first window; a window is one step."""
    windows: int = 3
    seed: int = 0

    @property
    def steps(self) -> int:
        """In all."""
        return self.warm + self.windows

    @property
    def words(self) -> list[str]:
        """Of the mode."""
        return self.mode.split()


def speaker(shape: ModelConfig, seed: int) -> Transformer:
    """A fresh model that writes random letters and never ends.

    Every embedding has a large first coordinate, which survives the last norm as about sqrt(width); the head
    (untied) reads it as a bias for each token.
    """
    model = Transformer(shape, seed=seed).eval()
    tokenizer, root = byte_tokenizer(), math.sqrt(shape.hidden_size)
    assert model.lm_head is not None
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 64.0  # against what 4 to 6 blocks add to the rest
        model.lm_head.weight[:, 0] = -30.0 / root
        for letter in LETTERS:
            model.lm_head.weight[tokenizer.encode(letter)[0], 0] = -math.log(len(LETTERS)) / root
    return model


def prompts_of(count: int, tokens: int, seed: int) -> list[Conversation]:
    """Prompts of random letters that are exactly `tokens` long once rendered."""
    renderer, rng = Renderer(byte_tokenizer()), random.Random(seed)
    letters = tokens - len(renderer.prompt(Conversation(messages=(user(""),))))
    return [
        Conversation(messages=(user("".join(rng.choices(LETTERS[:-1], k=letters))),)) for _ in range(count)
    ]


def write_models(folder: Path, case: RLCase) -> dict[str, str]:
    """What both sides load: policy, reward model, prompts as ids; their paths."""
    shape, tokenizer = SIZES[case.size], byte_tokenizer()
    save_checkpoint(folder / "policy", speaker(shape, case.seed), tokenizer)
    judge = RewardModel(Transformer(shape, seed=case.seed + 1), seed=case.seed + 1)
    save_reward_checkpoint(folder / "reward", judge, tokenizer)
    rows = [Renderer(tokenizer).prompt(c) for c in prompts_of(PROMPTS, case.prompt_tokens, case.seed)]
    (folder / "prompts.json").write_text(json.dumps(rows), "utf-8")
    paths = {"policy": folder / "policy", "reward": folder / "reward", "prompts": folder / "prompts.json"}
    return {name: str(path) for name, path in paths.items()}


def our_config(case: RLCase) -> PPOConfig:
    """PPO's arguments for a case of ours."""
    grouped = case.method == "grpo"
    return PPOConfig(
        steps=case.steps, batch=case.batch // case.group if grouped else case.batch,
        group=case.group if grouped else 1, epochs=case.epochs, max_tokens=case.new_tokens,
        learning_rate=case.learning_rate, critic_learning_rate=case.learning_rate, warmup=0,
        estimator="grpo" if grouped else "gae", beta=case.beta, missing_end_penalty=0.0, scale_rewards=False,
        critic_warmup=0, kl_budget=None, dtype="float32" if case.words[0] == "float32" else "auto",
        policy_dtype="bfloat16" if case.words[0] == "bfloat16" else "float32",
        trunk="shared" if case.method == "lora" else "separate", rank=case.rank,
        critic="zero" if case.method == "lora" else "reward", max_batch=case.batch, seed=case.seed,
        chunk_tokens=SMALL_CHUNK if "small" in case.words else CHUNK_TOKENS,
        share_prompts="shared" in case.words,
    )  # fmt: skip


def our_trainer(case: RLCase, paths: Mapping[str, str]) -> Trainer:
    """The trainer of the stage `ppo`, on the models that TRL loads."""
    config, policy = our_config(case), Checkpoint(Path(paths["policy"]))
    reward = RewardCheckpoint(Path(paths["reward"]))
    device = torch.device("cpu")
    dtype = compute_dtype(device, config.dtype)
    score: RewardFn = VerifierReward(lambda meta, text: text.count("a") / max(1, len(text)), "letters")
    if case.method != "grpo":
        score = ModelReward.from_checkpoint(reward, dtype=dtype)
    speaker, critic, reference = load_models(config, policy, reward, device)
    return Trainer(config, speaker, critic, reference, Renderer(policy.tokenizer()), score, dtype=dtype)


def train_ours(case: RLCase, paths: Mapping[str, str]) -> dict[str, Any]:
    """When each step ended, means of the reward, memory."""
    memory = Memory(torch.device("cpu"))
    trainer = our_trainer(case, paths)
    prompts = prompts_of(PROMPTS, case.prompt_tokens, case.seed)
    marks: list[float] = []
    work: list[float] = []
    rewards: list[float] = []
    for step in range(case.steps):
        report = trainer.step(take(prompts, step, trainer.config.batch, case.seed), step)
        if report.length != case.new_tokens:
            raise RuntimeError(f"replies of {report.length} tokens, not {case.new_tokens}")
        rewards.append(report.reward)
        marks.append(time.perf_counter())
        work.append(time.process_time())
    return {"marks": marks, "work": work, "rewards": rewards, "peak_bytes": memory.peak()}
