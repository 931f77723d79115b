"""Thinking before answering: what it is worth on sums that are too long to answer at once.

    publius run thinking                      # ten minutes of one core, four of them for haiku
    publius run thinking --set size=tiny      # every stage, nothing learned: what the tests run

`haiku` is that of `quickstart`, and is not made again where that was run. It is fine-tuned on sums of two to
four numbers, each worked out in a thinking block and each answered at once: one model, both ways. RL with a
verifier then improves both ways on other sums. The report draws accuracy against the thinking budget.
"""

from __future__ import annotations

from typing import Literal

from publius.core.config import Config, Seed
from publius.data.pocket.worked import SumPromptsConfig, WorkedSumsConfig, sum_prompts, worked_sums
from publius.evals.budgets import BudgetsConfig, evaluate_budgets
from publius.pipeline import Node, Recipe
from publius.recipes._workshop import Sizes, Workshop
from publius.recipes.smoke import SMALLEST
from publius.reward.compose import RewardSpec
from publius.reward.math_reward import MathPart
from publius.rl.ppo import PPOConfig, ppo
from publius.training.optimizer import OptimizerConfig
from publius.training.sft import SFTConfig, sft

__all__ = ["thinking"]


class _Amounts(Config):
    """What differs between the real thing and the test."""

    questions: int = 4000
    """Sums to fine-tune on, each with thinking and without."""
    sft_tokens: int = 400_000
    prompts: int = 1200
    """Sums for RL, each with thinking and without."""
    steps: int = 50
    batch: int = 16
    group: int = 8
    eval_prompts: int = 64
    test: int = 400
    budgets: tuple[int, ...] = (0, 8, 16, 24, 32, 48, 64, 80, 96)


_TINY = _Amounts(
    questions=40, sft_tokens=4_000, prompts=12, steps=2, batch=2, group=2, eval_prompts=4, test=9,
    budgets=(0, 8, 16),
)  # fmt: skip


def thinking(size: Literal["small", "tiny"] = "small", seed: Seed = 0) -> Recipe:
    """Fine-tuning on worked traces, then RL with verifiable rewards, thinking on and off in one model."""
    sizes, amounts = (SMALLEST, _TINY) if size == "tiny" else (Sizes(), _Amounts())
    r = Recipe("thinking", jobs=1 if size == "tiny" else 2)
    w = Workshop(r, sizes, seed)
    haiku = w.haiku()

    worked = r.stage("worked_sums", worked_sums, WorkedSumsConfig(questions=amounts.questions, seed=seed))
    tuning = SFTConfig(
        tokens=amounts.sft_tokens, batch_tokens=4 * sizes.rows, sequence_length=sizes.rows,
        optimizer=OptimizerConfig(muon_lr=0.004, adamw_lr=0.002, adamw_eps=1e-8), seed=seed,
    )  # fmt: skip
    tuned = r.stage("sft", sft, tuning, base=haiku, chats=[worked])

    def asked(name: str, mode: bool | None, split: Literal["val", "test"] = "val", train: int = 0) -> Node:
        held_out = amounts.test if split == "test" else amounts.eval_prompts
        config = SumPromptsConfig(train=train, held_out=held_out, split=split, thinking=mode, seed=seed + 1)
        return r.stage(name, sum_prompts, config)

    # the same sums with thinking opened and with thinking forbidden, so that both ways get the same practice
    posed = [asked(f"sums_{word}", on, train=amounts.prompts) for word, on in (("on", True), ("off", False))]
    right = RewardSpec(parts=(MathPart(answer="keys"),))
    reinforcing = PPOConfig(
        reward=right, estimator="rloo", critic="zero", kl_budget=None,
        steps=amounts.steps, batch=amounts.batch, group=amounts.group, eval_prompts=amounts.eval_prompts,
        max_tokens=120, epochs=1, minibatches=2, learning_rate=1e-4, beta=0.005, decay_fraction=0.3,
        seed=seed,
    )  # fmt: skip
    final = r.stage("rl", ppo, reinforcing, policy=tuned, prompts=posed)

    sealed = asked("test_sums", None, split="test")
    for name, model, prefix in (("test_sft", tuned, "sft"), ("test_rl", final, "thinking")):
        measuring = BudgetsConfig(prefix=prefix, budgets=amounts.budgets, max_thinking=112)
        tested = r.stage(name, evaluate_budgets, measuring, model=model, questions=sealed)
        for metric in ("off", "on", "gain", "tokens"):
            r.publish(f"{prefix}.{metric}", tested, f"{prefix}.{metric}")
    for metric in ("gain", "kl", "ratio"):
        r.publish(f"ppo.{metric}", final, f"ppo.{metric}")
    return r
