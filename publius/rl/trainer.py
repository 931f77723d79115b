"""One PPO step, and everything it carries from step to step.

    rollout -> reward -> collate (the KL lives there) -> minibatches -> clipped losses -> update

The engine samples from the trainer's own tensors at T=1, so the first pass of every step must have a
probability ratio of 1; when it does not, sampler and scorer disagree and training stops.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor

from publius.core.config import Config, execution
from publius.core.errors import UserError
from publius.core.messages import Conversation
from publius.inference.engine import Engine
from publius.model.heads import ValueModel
from publius.model.transformer import Transformer
from publius.reward.reward_fn import Reward, RewardFn, Trajectory
from publius.rl.advantage import ESTIMATORS, Advantages, Estimator, EstimatorName, centred, gae
from publius.rl.batch import CHUNK_TOKENS, RolloutBatch, collate
from publius.rl.evaluation import Evaluation, evaluation
from publius.rl.learner import Learner, Losses, Passes
from publius.rl.loss import RunningScale
from publius.rl.rollout import rollout
from publius.rl.state import load_state, save_state
from publius.rl.stop import SecondModel
from publius.tokenizer.renderer import Renderer
from publius.training.batches import Batch, BatchSource
from publius.training.optimizer import rise_and_fall

__all__ = ["PPOConfig", "StepReport", "Trainer"]


class PPOConfig(Config):
    """How the policy is trained.

    Attributes:
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


class StepReport(NamedTuple):
    """What one step measured, as logged."""

    reward: float
    kl: float
    ratio_first: float
    ratio_deviation: float
    clip_fraction: float
    value_loss: float | None
    """None without a critic."""
    entropy: float
    length: float
    eos_rate: float
    check_reward: float | None


class Trainer:
    """The loop's state: policy, critic, reference, optimizers. One `step` is one PPO iteration."""

    def __init__(
        self,
        config: PPOConfig,
        policy: Transformer,
        critic: ValueModel | None,
        reference: Transformer,
        renderer: Renderer,
        score: RewardFn,
        check: RewardFn | None = None,
        dtype: torch.dtype = torch.float32,
        ptx: BatchSource[Batch] | None = None,
    ) -> None:
        self.config, self.policy, self.critic, self.renderer = config, policy, critic, renderer
        self.ptx = ptx
        if config.share_prompts and policy.config.sliding_window is not None:
            raise UserError(
                "prompts cannot be shared by a model whose attention has a window: it counts places of a row",
                where="ppo.share_prompts",
                fix="leave share_prompts out",
            )
        self.reference = reference.requires_grad_(False)
        narrow = {"float32": torch.float32, "bfloat16": torch.bfloat16}[config.policy_dtype]
        if narrow != torch.float32:
            self.reference = self.reference.to(narrow)
        self.engine = Engine(policy, renderer.tokenizer, dtype=narrow, max_batch=config.max_batch)
        self._score, self._check, self._dtype = score, check, dtype
        self._estimator: Estimator = ESTIMATORS[config.estimator]
        if config.estimator == "gae":
            self._estimator = self._gae
        self.learner = Learner(
            policy,
            critic,
            Passes(**{name: getattr(config, name) for name in Passes._fields}),
            (config.learning_rate, config.critic_learning_rate),
            dtype=dtype,
            policy_dtype=narrow,
            ptx=ptx,
        )
        self.models, self.optimizers = self.learner.models, self.learner.optimizers
        self.scale = RunningScale()
        self.before = Evaluation([], [])
        self.ratios: list[float] = []
        self.deviation = 0.0
        self._second = SecondModel(config.check_drop, config.check_patience)
        self.steps, self.tokens, self.flops, self.stopped = 0, 0, 0.0, ""

    def step(self, prompts: list[Conversation], step: int) -> StepReport:
        """Rollout, reward, collate, update."""
        c = self.config
        trajectories = rollout(
            self.engine,
            self.renderer,
            prompts,
            max_tokens=c.max_tokens,
            group=c.group,
            seed=c.seed * 100_003 + step,
        )
        rewards = self._score(trajectories)
        self.learner.refresh()
        batch = collate(
            trajectories,
            self._shape(trajectories, rewards),
            self.learner.critic,
            self.reference,
            pad_id=self.renderer.tokenizer.pad_id,
            beta=c.beta,
            estimator=self._estimator,
            dtype=self._dtype,
            chunk_tokens=c.chunk_tokens,
            share=c.share_prompts,
        )
        kl = float(batch.kl_B.mean())
        check = self._watch(trajectories)
        if c.kl_budget is not None and kl > c.kl_budget:
            self.stopped = f"KL {kl:.2f} over the budget of {c.kl_budget} nats per reply"
        losses = self._update(batch, step)
        self.steps = step + 1
        self._count(batch)
        return StepReport(
            reward=sum(r.value for r in rewards) / len(rewards),
            kl=kl,
            ratio_first=losses.ratio,
            ratio_deviation=losses.deviation,
            clip_fraction=losses.clip,
            value_loss=None if self.critic is None else losses.value,
            entropy=float(batch.entropy),
            length=sum(t.length for t in trajectories) / len(trajectories),
            eos_rate=sum(t.ended for t in trajectories) / len(trajectories),
            check_reward=check,
        )

    def _gae(self, rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, groups_B: Tensor) -> Advantages:
        c = self.config
        found = gae(rewards_BT, values_BT, mask_BT, gamma=c.gamma, lam=c.lam)
        return found._replace(advantages=centred(found.advantages, mask_BT, groups_B))

    def _shape(self, trajectories: list[Trajectory], rewards: list[Reward]) -> list[float]:
        """Score less the missing-end penalty, divided by the running spread, clipped; never shifted."""
        c = self.config
        scores = torch.tensor(_penalised(trajectories, rewards, c.missing_end_penalty), dtype=torch.float64)
        if c.scale_rewards:
            self.scale.update(scores)
            scores = scores / self.scale.std
        return scores.clamp(-c.reward_clip, c.reward_clip).tolist()

    def _update(self, batch: RolloutBatch, step: int) -> Losses:
        """PPO epochs over the batch. After a stop was decided the batch is only measured."""
        c = self.config
        return self.learner.update(
            batch,
            torch.Generator().manual_seed(c.seed * 100_003 + step),
            factor=rise_and_fall(step, c.steps, max(1, c.warmup), c.decay_fraction),
            policy=step >= c.critic_warmup or self.critic is None,
            stopped=bool(self.stopped),
            first=lambda ratio, deviation: self._assert_ratio(ratio, deviation, step),
        )

    def _assert_ratio(self, ratio: float, deviation: float, step: int) -> None:
        self.ratios.append(ratio)
        self.deviation = max(self.deviation, deviation)
        tolerance = self.config.ratio_tolerance * (1 if self.config.policy_dtype == "float32" else 10)
        if abs(ratio - 1) > tolerance:
            raise RuntimeError(
                f"step {step}: the first-pass probability ratio is {ratio:.5f}, "
                f"not 1 +- {tolerance}: "
                "the engine samples from another distribution than the trainer scores"
            )

    def _watch(self, trajectories: list[Trajectory]) -> float | None:
        """The second model's mean; asks for a stop when its smoothed value stays below its best."""
        if self._check is None:
            return None
        values = torch.tensor([r.value for r in self._check(trajectories)], dtype=torch.float64)
        if self._second.falls(values):
            self.stopped = "the second reward model fell while the first rose"
        return float(values.mean())

    def evaluate(self, prompts: list[Conversation]) -> Evaluation:
        """Reward less penalty, and KL in nats, of replies to fixed prompts with fixed seeds."""
        c = self.config
        trajectories = rollout(
            self.engine,
            self.renderer,
            prompts,
            max_tokens=c.max_tokens,
            group=c.eval_samples,
            seed=-1 - c.seed,
        )
        rewards = _penalised(trajectories, self._score(trajectories), c.missing_end_penalty)
        return evaluation(
            trajectories,
            rewards,
            self.reference,
            pad_id=self.renderer.tokenizer.pad_id,
            chunk_tokens=c.chunk_tokens,
        )

    def _count(self, batch: RolloutBatch) -> None:
        tokens = int(batch.lengths_B.sum())
        self.tokens += tokens
        forward = self.policy.config.flops_per_token(int(batch.lengths_B.max())) / 3
        each = 3 if self.config.trunk == "separate" else 2  # frozen matrices need no gradient of their own
        passes = 2 + each * self.config.epochs * (1 if self.critic is None else 2) + (self.critic is not None)
        self.flops += forward * passes * tokens

    def save(self, folder: Path, done: int) -> None:
        """Write everything a resumed run needs."""
        facts = {
            "step": done,
            "scale": self.scale.state(),
            "before": self.before._asdict(),
            "ratios": self.ratios,
            "deviation": self.deviation,
            "checks": self._second.state,
            "tokens": self.tokens,
            "flops": self.flops,
            "ptx": None if self.ptx is None else self.ptx.state(),
        }
        save_state(folder, self.models, self.optimizers, facts)

    def resume(self, folder: Path | None) -> int:
        """Continue from `folder`; returns the step to go on with (0 at a fresh start)."""
        if folder is None:
            return 0
        facts: dict[str, Any] = load_state(folder, self.models, self.optimizers)
        self.scale, self.before = RunningScale(**facts["scale"]), Evaluation(**facts["before"])
        self.ratios, self.deviation = facts["ratios"], facts["deviation"]
        self._second.state = facts["checks"]
        self.steps, self.tokens, self.flops = facts["step"], facts["tokens"], facts["flops"]
        if self.ptx is not None:
            self.ptx.restore(facts["ptx"])
        return self.steps


def _penalised(trajectories: list[Trajectory], rewards: list[Reward], penalty: float) -> list[float]:
    return [r.value - (0.0 if t.ended else penalty) for t, r in zip(trajectories, rewards, strict=True)]
