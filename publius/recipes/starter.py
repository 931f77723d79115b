"""The same stages on files a user brings: real text, real demonstrations, real preferences.

Long because a recipe is read straight down.

    publius run starter --set data=my/data
    publius run starter --set data=my/data --set haiku.tokens=50000000 --set text.max_bytes=null

`data` holds four folders: `pretrain/` (documents; files named `val*` are held out), `sft/`
(conversations), `preference/` (pairs), `safety/` (prompts). The globs below say which files of them are
read and which held out; give your own with `--set`. The default is small enough for a laptop CPU in well
under an hour; such a model is not clever, and every number it gets is true.
"""

from __future__ import annotations

from publius.constitution.preferences import LabelConfig, label
from publius.constitution.principles import Constitution
from publius.constitution.revise import ReviseConfig, revise
from publius.constitution.verdicts import FilterConfig
from publius.core.config import Seed
from publius.data.ingest import (
    IngestConfig,
    IngestPreferencesConfig,
    IngestTextConfig,
    ingest_chats,
    ingest_preferences,
    ingest_prompts,
    ingest_text,
)
from publius.data.refine import RefineConfig, refine
from publius.evals.compression import CompressionConfig, compression_baselines
from publius.evals.replies import RepliesConfig, evaluate_replies
from publius.model.config import ModelConfig
from publius.pipeline import Node, Recipe
from publius.release.gate import GateConfig, gate
from publius.reward.reward_model import RewardConfig, train_reward
from publius.rl.ppo import PPOConfig, ppo
from publius.tokenizer.bpe import TokenizerConfig, train_tokenizer
from publius.tokenizer.shards import TokenizeConfig, tokenize
from publius.training.optimizer import OptimizerConfig
from publius.training.pretrain import PretrainConfig, pretrain
from publius.training.sft import SFTConfig, sft

__all__ = ["starter"]

_VOCABULARY, _ROW = 4096, 256


def _tier(width: int, layers: int) -> ModelConfig:
    return ModelConfig(
        vocab_size=_VOCABULARY, hidden_size=width, layers=layers, heads=width // 32, kv_heads=width // 64,
        head_dim=32, intermediate_size=width * 8 // 3 // 32 * 32, max_position=1024,
    )  # fmt: skip


def starter(
    data: str = "data",
    text: str = "pretrain/*",
    held_out_text: str = "pretrain/val*",
    chats: str = "sft/*",
    pairs: str = "preference/*firstturn*,preference/oasst*",
    held_out_pairs: str = "preference/hh_harmless_pairs*",
    prompts: str = "safety/redteam*",
    harmful: str = "safety/strongreject*",
    harmless: str = "safety/overrefusal*",
    seed: Seed = 0,
) -> Recipe:
    """Publius on your own files, on two CPU cores."""
    r = Recipe("starter", jobs=2)
    constitution = Constitution.load("default")

    def files(globs: str) -> tuple[str, ...]:
        return tuple(g if "://" in g or g.startswith("/") else f"{data}/{g}" for g in globs.split(",") if g)

    # --- text, tokenizer, two tiers
    raw = r.stage(
        "text",
        ingest_text,
        IngestTextConfig(
            paths=files(text),
            val_paths=files(held_out_text),
            max_bytes=12_000_000,
            drop_malformed=True,
            seed=seed,
        ),
    )
    corpus = r.stage("refined", refine, RefineConfig(), corpus=raw)
    tokenizer = r.stage("tokenizer", train_tokenizer, TokenizerConfig(vocab_size=_VOCABULARY), corpus=corpus)
    shards = r.stage("shards", tokenize, TokenizeConfig(), corpus=corpus, tokenizer=tokenizer)
    wired = {"shards": shards, "tokenizer": tokenizer}

    def pretrained(name: str, shape: ModelConfig, tokens: int) -> Node:
        config = PretrainConfig(
            model=shape, tokens=tokens, batch_tokens=8 * _ROW, sequence_length=_ROW,
            optimizer=OptimizerConfig(muon_lr=0.01, adamw_lr=0.005), seed=seed,
        )  # fmt: skip
        return r.stage(name, pretrain, config, **wired)

    haiku, opus = pretrained("haiku", _tier(256, 4), 5_000_000), pretrained("opus", _tier(320, 5), 2_500_000)
    baselines = r.stage("baselines", compression_baselines, CompressionConfig(), corpus=corpus, **wired)

    # --- demonstrations, and what people ask of it
    def prompts_of(name: str, globs: str, most: int) -> Node:
        config = IngestConfig(
            paths=files(globs), val_fraction=0.1, max_items=most, drop_malformed=True, seed=seed
        )
        return r.stage(name, ingest_prompts, config)

    said = r.stage(
        "chats",
        ingest_chats,
        IngestConfig(paths=files(chats), max_items=6000, drop_malformed=True, seed=seed),
    )
    tuning = SFTConfig(
        tokens=600_000, batch_tokens=8 * _ROW, sequence_length=_ROW,
        optimizer=OptimizerConfig(muon_lr=0.005, adamw_lr=0.002), seed=seed,
    )  # fmt: skip
    helpful = r.stage("sft", sft, tuning, base=haiku, chats=[said])
    asked = prompts_of("prompts", prompts, 400)
    bad, good = prompts_of("harmful", harmful, 120), prompts_of("harmless", harmless, 120)

    def tested(name: str, model: Node, prefix: str) -> Node:
        return r.stage(
            name, evaluate_replies, RepliesConfig(prefix=prefix), model=model, harmful=bad, harmless=good
        )

    test_sft = tested("test_sft", helpful, "sft")

    # --- Constitutional AI with the default constitution, the larger tier as critic and judge
    revising = ReviseConfig(
        constitution=constitution, revisions=1, shots=1, max_prompts=200, answer_tokens=128,
        critique_tokens=96, revision_tokens=128, seed=seed,
        filters=FilterConfig(refused=True, copied=0.8, drift=0.3),
    )  # fmt: skip
    revisions = r.stage("revisions", revise, revising, policy=helpful, critic=opus, prompts=asked)
    slcai = r.stage("slcai", sft, tuning, base=haiku, chats=[said, revisions])
    test_slcai = tested("test_slcai", slcai, "slcai")
    labelling = LabelConfig(
        constitution=constitution,
        shots=1,
        max_prompts=200,
        answer_tokens=128,
        min_mass=0.0,
        hold_out=False,
        seed=seed,
    )
    ai_labels = r.stage("ai_labels", label, labelling, policy=slcai, judge=opus, prompts=asked)
    people = r.stage(
        "human_labels",
        ingest_preferences,
        IngestPreferencesConfig(
            paths=files(pairs), val_paths=files(held_out_pairs), drop_malformed=True, seed=seed
        ),
    )

    def preference_model(name: str, half: int) -> Node:
        config = RewardConfig(half=half, sequence_length=320, seed=seed)
        return r.stage(name, train_reward, config, base=slcai, preferences=[people, ai_labels])

    rewards, second = preference_model("reward", 0), preference_model("reward_check", 1)
    rl = PPOConfig(steps=8, batch=32, max_tokens=48, epochs=1, eval_prompts=40, seed=seed)
    final = r.stage(
        "rlcai", ppo, rl, policy=slcai, reward=rewards, judge=opus, prompts=[asked], reward_check=second
    )
    report = tested("test_rlcai", final, "rlcai")

    # --- the gate: without programmatic truth there is no leak rate, so the default policy denies
    r.stage("gate", gate, GateConfig(), model=final, reports=[report])
    r.publish("pretrain.bpb", haiku, "val_bpb")
    r.publish("pretrain.bpb.opus", opus, "val_bpb")
    r.publish("baseline.ngram_bpb", baselines, "baseline.ngram_bpb")
    r.publish("baseline.gzip_bpb", baselines, "baseline.gzip_bpb")
    for metric in ("accuracy", "accuracy.length_matched", "baseline.shorter", "baseline.sorry", "ece"):
        r.publish(f"reward.{metric}", rewards, f"reward.{metric}")
    for prefix, tests in (("sft", test_sft), ("slcai", test_slcai), ("rlcai", report)):
        for metric in ("refusal", "overrefusal", "evasive"):
            r.publish(f"{prefix}.{metric}", tests, f"{prefix}.{metric}")
    for metric in ("gain", "kl", "ratio"):
        r.publish(f"ppo.{metric}", final, f"ppo.{metric}")
    return r
