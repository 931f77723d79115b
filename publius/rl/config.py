"""How PPO trains: every setting of the stage `ppo`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from publius.core.config import Config, execution
from publius.reward.compose import RewardSpec
from publius.rl.advantage import EstimatorName
from publius.rl.batch import CHUNK_TOKENS

__all__ = ["PPOConfig"]


class PPOConfig(Config):
    """How the policy is trained.

    Attributes:
        reward: what its replies are scored by: a preference model, a judge, verifiers, length, repetition.
        batch: prompts per step; with `group` samples of each, whose returns then correct the critic's
            value of their prompt.
        estimator: of advantages: "gae" with a critic; "rloo" and "grpo" without one, by comparing the
            `group` samples of a prompt (see `advantage`).
        epochs, minibatches: passes over a step's rollouts, and optimizer steps in each pass.
        chunk_tokens: padded tokens per forward and backward; less keeps less in memory. Sums are rounded in
            another order then, which makes another run of it.
        share_prompts: compute a prompt once for the `group` replies to it (`shared_prompts`): the same to
            rounding, and less work. For short replies: a row holds all of a group, and attention its square.
        beta: weight of the k1 KL inside the reward, per nat.
        missing_end_penalty: taken off the score of a reply that did not end by itself.
        scale_rewards: divide scores by their running standard deviation (never shift them).
        critic: "reward" starts the critic from the reward model, "zero" from the policy with a zero head.
        critic_warmup: steps in which only the critic learns.
        trunk, rank: "shared" keeps one model in memory: policy and critic are low-rank adapters of this rank
            on the frozen start, which is the reference (`model.adapters`). It learns less at the same rates:
            give them ten times as much. The critic starts with a zero head.
        warmup, decay_fraction: steps in which the rates rise, and share of the steps, the last ones, in which
            they fall to nothing: a rate that stays high leaves the policy wherever its last batch threw it.
        kl_budget: stop when a step's rollouts are this many nats per reply from the reference; None never.
        check_drop, check_patience: stop when the second reward model's smoothed mean has been this many
            of its standard deviations below its best for this many steps.
        ptx_coef, ptx_tokens: weight of the language loss that every optimizer step of the policy adds, on
            `ptx_tokens` of the `ptx` conversations (the mix of Ouyang et al. 2022, arXiv 2203.02155, eq. 2),
            so that what the reward model cannot tell is not forgotten.
        ratio_tolerance: how far the mean first-pass ratio may be from 1; for a policy in bf16 ten times that.
        eval_prompts, eval_samples: held-out prompts, and replies to each, before and after.
        dtype: compute dtype of critic and reward models.
        policy_dtype: compute dtype of policy and reference, and of the engine that samples. In fp32 the ratio
            is 1 and the KL 0 to six digits; bf16 is faster where the hardware multiplies in it, and rounds
            every log-probability by some 0.01.
    """

    reward: RewardSpec = RewardSpec()
    steps: int = Field(default=60, ge=1)
    batch: int = Field(default=64, ge=1)
    group: int = Field(default=1, ge=1)
    epochs: int = Field(default=2, ge=1)
    minibatches: int = Field(default=1, ge=1)
    chunk_tokens: int = Field(default=CHUNK_TOKENS, ge=1)
    share_prompts: bool = False
    max_tokens: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=3e-5, gt=0)
    critic_learning_rate: float = Field(default=1e-4, gt=0)
    warmup: int = Field(default=5, ge=0)
    decay_fraction: float = Field(default=0.0, ge=0, le=1)
    grad_clip: float = Field(default=1.0, gt=0)
    estimator: EstimatorName = "gae"
    gamma: float = Field(default=1.0, gt=0, le=1)
    lam: float = Field(default=0.95, ge=0, le=1)
    clip: float = Field(default=0.2, gt=0)
    value_clip: float = Field(default=0.2, gt=0)
    value_coef: float = Field(default=0.1, gt=0)
    beta: float = Field(default=0.02, ge=0)
    missing_end_penalty: float = Field(default=1.0, ge=0)
    scale_rewards: bool = True
    reward_clip: float = Field(default=10.0, gt=0)
    critic: Literal["reward", "zero"] = "reward"
    critic_warmup: int = Field(default=2, ge=0)
    trunk: Literal["separate", "shared"] = "separate"
    rank: int = Field(default=16, ge=1)
    kl_budget: float | None = Field(default=10.0, gt=0)
    check_drop: float = Field(default=0.5, gt=0)
    check_patience: int = Field(default=5, ge=1)
    ptx_coef: float = Field(default=0.0, ge=0)
    ptx_tokens: int = Field(default=1024, ge=1)
    ratio_tolerance: float = Field(default=1e-3, gt=0)
    eval_prompts: int = Field(default=128, ge=2)
    eval_samples: int = Field(default=1, ge=1)
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    policy_dtype: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0
    save_every: int = execution(10, ge=1)
    max_batch: int = execution(64, ge=1)
    device: str = execution("auto")
    threads: int | None = execution(None)

    @model_validator(mode="after")
    def _fits(self) -> PPOConfig:
        if self.estimator != "gae" and self.group < 2:
            raise ValueError(
                f"estimator {self.estimator} compares the replies to one prompt: make group 2 or more"
            )
        if self.trunk == "shared" and self.estimator == "gae" and self.critic != "zero":
            raise ValueError(
                "a critic on the shared trunk cannot start from the reward model: set critic to zero"
            )
        if self.trunk == "shared" and self.policy_dtype != "float32":
            raise ValueError("adapters on a shared trunk compute in fp32: leave policy_dtype at float32")
        return self
