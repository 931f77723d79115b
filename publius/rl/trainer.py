"""One PPO step, and everything it carries from step to step.

    rollout -> reward -> collate (the KL lives there) -> minibatches -> clipped losses -> update

The engine samples from the trainer's own tensors at T=1, so the first pass of every step must have a
probability ratio of 1; when it does not, sampler and scorer disagree and training stops.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from publius.core.messages import Conversation
from publius.inference.engine import Engine
from publius.model.adapters import trainable
from publius.model.heads import ValueModel
from publius.model.transformer import Transformer
from publius.reward.guard import part_means, sift
from publius.reward.reward_fn import Reward, RewardFn, Trajectory
from publius.rl.advantage import ESTIMATORS, Advantages, Estimator, centred, gae
from publius.rl.batch import RolloutBatch, action_logprobs, collate, place_values
from publius.rl.config import PPOConfig
from publius.rl.evaluation import Evaluation, evaluation
from publius.rl.loss import RunningScale, policy_loss, value_loss
from publius.rl.rollout import rollout
from publius.rl.scoring import Scoring
from publius.rl.state import load_state, save_state
from publius.rl.stop import SecondModel
from publius.tokenizer.renderer import Renderer
from publius.training.batches import Batch, BatchSource
from publius.training.language import language_loss
from publius.training.loop import to_device
from publius.training.optimizer import rise_and_fall

__all__ = ["StepReport", "Trainer"]


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
        self.reference = reference.requires_grad_(False)
        self.engine = Engine(policy, renderer.tokenizer, max_batch=config.max_batch)
        self.scoring = Scoring(score, config.reward.on_nan)
        self._check, self._dtype = check, dtype
        self._estimator: Estimator = ESTIMATORS[config.estimator]
        if config.estimator == "gae":
            self._estimator = self._gae
        self.models: dict[str, nn.Module] = {"policy": trainable(policy)}
        self.optimizers = {"policy": _adamw(self.models["policy"], config.learning_rate)}
        if critic is not None:
            self.models["critic"] = trainable(critic)
            self.optimizers["critic"] = _adamw(self.models["critic"], config.critic_learning_rate)
        self.scale = RunningScale()
        self.before = Evaluation([], [], {})
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
        trajectories, rewards, skipped = self.scoring(trajectories, f"step {step}")
        batch = collate(
            trajectories,
            self._shape(trajectories, rewards),
            self.critic,
            self.reference,
            pad_id=self.renderer.tokenizer.pad_id,
            beta=c.beta,
            estimator=self._estimator,
            dtype=self._dtype,
            chunk_tokens=c.chunk_tokens,
        )
        kl = float(batch.kl_B.mean())
        check = self._watch(trajectories, step)
        if c.kl_budget is not None and kl > c.kl_budget:
            self.stopped = f"KL {kl:.2f} over the budget of {c.kl_budget} nats per reply"
        losses = self._update(batch, step)
        self.steps = step + 1
        self._count(batch)
        return StepReport(
            reward=sum(r.value for r in rewards) / len(rewards),
            kl=kl,
            ratio_first=losses["ratio"],
            ratio_deviation=losses["deviation"],
            clip_fraction=losses["clip"],
            value_loss=None if self.critic is None else losses["value"],
            entropy=float(batch.entropy),
            length=sum(t.length for t in trajectories) / len(trajectories),
            eos_rate=sum(t.ended for t in trajectories) / len(trajectories),
            check_reward=check,
            parts=part_means(rewards),
            skipped=skipped,
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

    def _update(self, batch: RolloutBatch, step: int) -> dict[str, float]:
        """PPO epochs over the batch. After a stop was decided the batch is only measured."""
        c = self.config
        learns = step >= c.critic_warmup or self.critic is None
        factor = rise_and_fall(step, c.steps, max(1, c.warmup), c.decay_fraction)
        for name, base in (("policy", c.learning_rate), ("critic", c.critic_learning_rate)):
            for group in self.optimizers[name].param_groups if name in self.optimizers else ():
                group["lr"] = base * factor
        generator = torch.Generator().manual_seed(c.seed * 100_003 + step)
        clips: list[float] = []
        values: list[float] = []
        first: tuple[float, float] | None = None
        for _ in range(c.epochs):
            for minibatch in batch.minibatches(c.minibatches, generator):
                ratio, deviation, clip, value = self._backward(minibatch, policy=learns or first is None)
                if first is None:
                    first = ratio, deviation
                    self._assert_ratio(ratio, deviation, step)
                clips.append(clip)
                values.append(value)
                if not self.stopped:
                    self._practise(learns)
                    self._apply(policy=learns)
        ratio, deviation = first or (1.0, 0.0)
        return {
            "ratio": ratio,
            "deviation": deviation,
            "clip": sum(clips) / len(clips),
            "value": sum(values) / len(values),
        }

    def _backward(self, minibatch: RolloutBatch, *, policy: bool) -> tuple[float, float, float, float]:
        """Gradients of one minibatch, a chunk at a time: (ratio, deviation, clip fraction, value loss)."""
        c = self.config
        ratio = deviation = clip = value = 0.0
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        for piece, share in minibatch.chunks(c.chunk_tokens):
            if policy:
                part = policy_loss(
                    action_logprobs(self.policy, piece),
                    piece.logprobs,
                    piece.advantages,
                    piece.mask,
                    clip=c.clip,
                )
                (part.loss * share).backward()
                ratio += float(part.ratio) * share
                deviation = max(deviation, float(part.deviation))
                clip += float(part.clip_fraction) * share
            if self.critic is not None:
                found = value_loss(
                    place_values(self.critic, piece, self._dtype),
                    piece.values,
                    piece.returns,
                    piece.mask,
                    clip=c.value_clip,
                )
                (found.loss * (share * c.value_coef)).backward()
                value += float(found.loss.detach()) * share
        return ratio, deviation, clip, value

    def _practise(self, learns: bool) -> None:
        """Add the gradient of the language loss on the next of the `ptx` conversations."""
        if self.ptx is None or not learns:
            return
        batch = to_device(self.ptx.next(), self.policy.device)
        with torch.autocast(self.policy.device.type, dtype=self._dtype, enabled=self._dtype != torch.float32):
            part = language_loss(self.policy, batch)
        (self.config.ptx_coef * part.total / part.denominator).backward()

    def _apply(self, *, policy: bool) -> None:
        for name, optimizer in self.optimizers.items():
            if name == "policy" and not policy:
                continue
            norm = nn.utils.clip_grad_norm_(self.models[name].parameters(), self.config.grad_clip)
            if torch.isfinite(norm):  # one bad batch must not poison the weights
                optimizer.step()

    def _assert_ratio(self, ratio: float, deviation: float, step: int) -> None:
        self.ratios.append(ratio)
        self.deviation = max(self.deviation, deviation)
        if abs(ratio - 1) > self.config.ratio_tolerance:
            raise RuntimeError(
                f"step {step}: the first-pass probability ratio is {ratio:.5f}, "
                f"not 1 +- {self.config.ratio_tolerance}: "
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
            group=c.eval_samples,
            seed=-1 - c.seed,
        )
        trajectories, scored, _ = self.scoring(trajectories, "the held-out prompts", count=False)
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
        self.steps, self.tokens, self.flops = facts["step"], facts["tokens"], facts["flops"]
        if self.ptx is not None:
            self.ptx.restore(facts["ptx"])
        return self.steps


def _penalised(trajectories: list[Trajectory], rewards: list[Reward], penalty: float) -> list[float]:
    return [r.value - (0.0 if t.ended else penalty) for t, r in zip(trajectories, rewards, strict=True)]


def _adamw(model: nn.Module, learning_rate: float) -> torch.optim.AdamW:
    parameters = [p.requires_grad_(True) for p in model.parameters()]
    return torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.0)
