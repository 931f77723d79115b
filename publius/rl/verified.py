"""RL with verifiable rewards: the steps of `ppo`, a program for a reward model (Lambert et al. 2024, arXiv
2411.15124, section 6).

A program cannot be talked into liking an answer, so no second preference model watches. Prompts with
`meta["thinking"]` True are answered behind thinking, which the policy is free to use as it likes: only the
visible answer is verified (Guo et al. 2025, arXiv 2501.12948, section 2.2).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from publius.core.device import compute_dtype, pick_device, set_threads
from publius.core.errors import UserError
from publius.data.artifacts import Conversations, Prompts
from publius.model.checkpoint import Checkpoint, save_checkpoint
from publius.model.heads import ValueModel
from publius.pipeline.run import Run
from publius.pipeline.stage import stage
from publius.reward.reward_fn import VerifierReward
from publius.reward.verify import VERIFIERS, VerifierName
from publius.rl.advantage import EstimatorName
from publius.rl.ppo import improve, practice, split_prompts
from publius.rl.trainer import PPOConfig, Trainer
from publius.tokenizer.renderer import Renderer

__all__ = ["VerifiedConfig", "ppo_verified"]


class VerifiedConfig(PPOConfig):
    """As `PPOConfig`; by default without a critic, `group` samples of a prompt being each other's baseline.

    Attributes:
        verifier: which program decides, one of `publius.reward.verify.VERIFIERS`.
    """

    verifier: VerifierName = "last_number"
    estimator: EstimatorName = "rloo"
    group: int = Field(default=8, ge=1)
    batch: int = Field(default=16, ge=1)
    critic: Literal["reward", "zero"] = "zero"
    kl_budget: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _can_learn(self) -> VerifiedConfig:
        if self.critic == "reward":
            raise ValueError("there is no reward model to make the critic from: critic must be 'zero'")
        if self.estimator != "gae" and self.group < 2:
            raise ValueError(f"{self.estimator} compares samples of one prompt: group must be 2 or more")
        return self


@stage(version=1, wide=True)
def ppo_verified(
    run: Run,
    config: VerifiedConfig,
    *,
    policy: Checkpoint,
    prompts: list[Prompts],
    ptx: list[Conversations] | None = None,
) -> Checkpoint:
    """Train `policy` to answer rightly, as `config.verifier` says, without leaving its start.

    Metrics: as `ppo`; rewards are shares of right answers (less the penalty for replies that did not end).

    Raises:
        UserError: for no prompts, prompts without their truth, or one of `ptx` and `ptx_coef` without the
            other.
        RuntimeError: first-pass ratio out of tolerance.
    """
    set_threads(config.threads)
    train, held_out = split_prompts(prompts, config)
    if any(not prompt.meta.get("keys") for prompt in (*train, *held_out)):
        raise UserError(
            "prompts without an answer to verify by",
            where="ppo_verified: prompts",
            fix='give prompts whose meta["keys"] holds the right answer',
        )
    device = pick_device(config.device)
    renderer = Renderer(policy.tokenizer())
    critic = ValueModel(policy.load(device=device)) if config.estimator == "gae" else None
    trainer = Trainer(
        config,
        policy.load(device=device),
        critic,
        policy.load(device=device),
        renderer,
        VerifierReward(VERIFIERS[config.verifier]),
        dtype=compute_dtype(device, config.dtype),
        ptx=practice(config, renderer, ptx or []),
    )
    improve(run, config, trainer, train, held_out)
    save_checkpoint(run.output, trainer.policy, policy.tokenizer())
    return Checkpoint(run.output)
