"""One PPO step, and everything it carries from step to step.

    rollout -> reward -> collate (the KL lives there) -> minibatches -> clipped losses -> update

The engine samples from the trainer's own tensors at T=1, so the first pass of every step must have a
probability ratio of 1; when it does not, sampler and scorer disagree and training stops.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from publius.core.errors import UserError
from publius.core.messages import Conversation
from publius.inference.engine import Engine
from publius.model.heads import ValueModel
from publius.model.transformer import Transformer
from publius.reward.guard import part_means, sift
from publius.reward.reward_fn import Reward, RewardFn, Trajectory
from publius.rl.advantage import ESTIMATORS, Advantages, Estimator, centred, gae
from publius.rl.batch import RolloutBatch, collate
from publius.rl.config import PPOConfig
from publius.rl.evaluation import Evaluation, evaluation
from publius.rl.learner import Learner, Losses, Passes
from publius.rl.loss import RunningScale
from publius.rl.rollout import rollout
from publius.rl.scoring import Scoring
from publius.rl.state import load_state, save_state
from publius.rl.stop import SecondModel
from publius.tokenizer.renderer import Renderer
from publius.training.batches import Batch, BatchSource
from publius.training.optimizer import rise_and_fall

__all__ = ["StepReport", "Trainer"]

_IDLE_STEPS = 3
"""In a row; as `training.guard`."""


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
    parts: dict[str, float]
    """Each part of the reward, unweighted: the mean over the episodes that have it."""
    skipped: int
    """Episodes left out for having no reward; nothing else here counts them."""
    lost_updates: int = 0
    """Updates of policy or critic that were not made, because the gradient was not finite."""


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
        context: int | None = None,
    ) -> None:
        self._context = context or policy.config.max_position
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
        self.scoring = Scoring(score, config.reward.on_nan)
        self._check, self._dtype = check, dtype
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
        self.before = Evaluation([], [], {})
        self.ratios: list[float] = []
        self.deviation = 0.0
        self._second = SecondModel(config.check_drop, config.check_patience)
        self.steps, self.tokens, self.flops, self.stopped = 0, 0, 0.0, ""
        self._idle = 0

    def step(self, prompts: list[Conversation], step: int) -> StepReport:
        """Rollout, reward, collate, update."""
        c = self.config
        trajectories = rollout(
            self.engine,
            self.renderer,
            prompts,
            max_tokens=c.max_tokens,
            context=self._context,
            group=c.group,
            seed=c.seed * 100_003 + step,
        )
        played = len(trajectories)
        trajectories, rewards, skipped = self.scoring(trajectories, f"step {step}")
        check = self._watch(trajectories, step)
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
        if c.kl_budget is not None and kl > c.kl_budget:
            self.stopped = f"KL {kl:.2f} over the budget of {c.kl_budget} nats per reply"
        losses = self._update(batch, step)
        self._demand_updates(losses, step)
        self.steps = step + 1
        self.scoring.count(played, skipped)
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
            parts=part_means(rewards),
            skipped=skipped,
            lost_updates=losses.lost,
        )

    def _gae(self, rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, groups_B: Tensor) -> Advantages:
        c = self.config
        found = gae(rewards_BT, values_BT, mask_BT, gamma=c.gamma, lam=c.lam)
        advantages = centred(found.advantages, rewards_BT, values_BT, mask_BT, groups_B)
        return found._replace(advantages=advantages)

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

    def _demand_updates(self, losses: Losses, step: int) -> None:
        """One bad batch is passed over; a model that loses all of several steps is not being trained."""
        self._idle = self._idle + 1 if losses.idle else 0
        if self._idle >= _IDLE_STEPS:
            raise UserError(
                f"{_IDLE_STEPS} steps in a row could not be learnt from: "
                f"the gradient of {' and '.join(losses.idle)} is not finite",
                where=f"ppo: step {step}",
                fix="lower the learning rates, or compute in float32 (dtype, policy_dtype)",
            )

    def _assert_ratio(self, ratio: float, deviation: float, step: int) -> None:
        self.ratios.append(ratio)
        self.deviation = max(self.deviation, deviation)
        tolerance = self.config.ratio_tolerance * (1 if self.config.policy_dtype == "float32" else 10)
        if not abs(ratio - 1) <= tolerance:  # NaN is not 1 either
            raise RuntimeError(
                f"step {step}: the first-pass probability ratio is {ratio:.5f}, "
                f"not 1 +- {tolerance}: "
                "the engine samples from another distribution than the trainer scores"
            )

    def _watch(self, trajectories: list[Trajectory], step: int) -> float | None:
        """The second model's mean; asks for a stop when its smoothed value stays below its best."""
        if self._check is None:
            return None
        checked = sift(
            trajectories, self._check(trajectories), self.config.reward.on_nan, f"step {step}, check"
        )
        values = torch.tensor([r.value for r in checked.rewards], dtype=torch.float64)
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
            context=self._context,
            group=c.eval_samples,
            seed=-1 - c.seed,
        )
        trajectories, scored, _ = self.scoring(trajectories, "the held-out prompts")
        rewards = _penalised(trajectories, scored, c.missing_end_penalty)
        return evaluation(
            trajectories,
            rewards,
            self.reference,
            prompts=len(prompts),
            parts=part_means(scored),
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
            "scoring": self.scoring.state(),
            "stopped": self.stopped,
            "checks": self._second.state,
            "idle": self._idle,
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
        self.scoring.restore(facts["scoring"])
        self.stopped = facts["stopped"]
        self.ratios, self.deviation = facts["ratios"], facts["deviation"]
        self._second.state = facts["checks"]
        self._idle = facts.get("idle", 0)  # states from before it was counted have none
        self.steps, self.tokens, self.flops = facts["step"], facts["tokens"], facts["flops"]
        if self.ptx is not None:
            self.ptx.restore(facts["ptx"])
        return self.steps


def _penalised(trajectories: list[Trajectory], rewards: list[Reward], penalty: float) -> list[float]:
    return [r.value - (0.0 if t.ended else penalty) for t, r in zip(trajectories, rewards, strict=True)]
