"""PPO's update: passes over a batch of rollouts, clipped losses, one optimizer a model.

In bf16 copies compute (`training.twin`), and what is learned stays in fp32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from publius.model.adapters import trainable
from publius.model.heads import ValueModel
from publius.model.transformer import Transformer
from publius.rl.batch import RolloutBatch, action_logprobs, place_values
from publius.rl.loss import policy_loss, value_loss
from publius.training.batches import Batch, BatchSource
from publius.training.language import language_loss
from publius.training.loop import to_device
from publius.training.twin import Twin

__all__ = ["Learner", "Losses", "Passes"]


class Passes(NamedTuple):
    """What an update is made of; see `PPOConfig`."""

    epochs: int
    minibatches: int
    clip: float
    value_clip: float
    value_coef: float
    grad_clip: float
    ptx_coef: float
    chunk_tokens: int
    share_prompts: bool


class Losses(NamedTuple):
    """What a batch measured: the first pass's ratio, and means over all passes."""

    ratio: float
    deviation: float
    clip: float
    value: float
    lost: int = 0
    """Updates of a model that were not made, because its gradient was not finite."""
    idle: tuple[str, ...] = ()
    """Models that had to learn and lost every update."""


class Learner:
    """Policy and critic, what they learn with, and the passes over a batch.

    Args:
        policy: fp32; where it has adapters, they alone learn.
        critic: likewise, or None.
        rates: learning rates of both, at their peaks.
        dtype: compute dtype of the critic (and of practice).
        policy_dtype: compute dtype of the policy; in bf16 the critic computes in a bf16 copy too.
        ptx: conversations to practise beside.
    """

    def __init__(
        self,
        policy: Transformer,
        critic: ValueModel | None,
        passes: Passes,
        rates: tuple[float, float],
        *,
        dtype: torch.dtype,
        policy_dtype: torch.dtype,
        ptx: BatchSource[Batch] | None,
    ) -> None:
        self.passes, self.ptx, self._dtype = passes, ptx, dtype
        self._rates: dict[str, float] = {"policy": rates[0], "critic": rates[1]}
        self.models: dict[str, nn.Module] = {"policy": trainable(policy)}
        self._policy = Twin(policy, policy_dtype)
        self._critic: Twin | None = None
        if critic is not None:
            self.models["critic"] = trainable(critic)
            self._critic = Twin(critic, policy_dtype)
        self.optimizers = {name: _adamw(model, self._rates[name]) for name, model in self.models.items()}

    @property
    def policy(self) -> Transformer:
        """What computes the policy's log-probabilities."""
        assert isinstance(self._policy.module, Transformer)
        return self._policy.module

    @property
    def critic(self) -> ValueModel | None:
        """What computes values."""
        if self._critic is None:
            return None
        assert isinstance(self._critic.module, ValueModel)
        return self._critic.module

    def refresh(self) -> None:
        """Forget gradients; copies follow what has been learned."""
        for twin in (self._policy, self._critic):
            if twin is not None:
                twin.refresh()

    def update(
        self,
        batch: RolloutBatch,
        generator: torch.Generator,
        *,
        factor: float,
        policy: bool,
        stopped: bool,
        first: Callable[[float, float], None],
    ) -> Losses:
        """All passes over `batch`.

        Args:
            generator: of the order of rows.
            factor: of the learning rates now.
            policy: whether the policy learns (else the critic alone).
            stopped: only measure.
            first: hears of the first pass's ratio and largest deviation, before anything is learned.
        """
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = self._rates[name] * factor
        found: list[Losses] = []
        made: dict[str, list[bool]] = {}
        for _ in range(self.passes.epochs):
            for minibatch in batch.minibatches(self.passes.minibatches, generator):
                measured = policy or not found
                found.append(self._backward(minibatch, measured, policy and not stopped, not stopped))
                if len(found) == 1:
                    first(found[0].ratio, found[0].deviation)
                if not stopped:
                    self._practise(policy)
                    for name, done in self._apply(policy=policy).items():
                        made.setdefault(name, []).append(done)
        clip, value = (sum(getattr(part, name) for part in found) / len(found) for name in ("clip", "value"))
        lost = sum(part.count(False) for part in made.values())
        idle = tuple(name for name, part in made.items() if not any(part))
        return Losses(found[0].ratio, found[0].deviation, clip, value, lost, idle)

    def _backward(self, minibatch: RolloutBatch, measured: bool, policy: bool, critic: bool) -> Losses:
        """Gradients of one minibatch, a chunk at a time, of those that are to learn from it.

        Args:
            measured: whether the policy's ratio and clipping are wanted, learned from or not.
        """
        p = self.passes
        ratio = deviation = clip = value = 0.0
        self.refresh()
        for piece, share in minibatch.chunks(p.chunk_tokens):
            if measured:
                part = policy_loss(
                    action_logprobs(self.policy, piece, share=p.share_prompts),
                    piece.logprobs,
                    piece.advantages,
                    piece.mask,
                    clip=p.clip,
                )
                if policy:
                    (part.loss * share).backward()
                    self._policy.collect()
                ratio += float(part.ratio) * share
                deviation = max(deviation, float(part.deviation))
                clip += float(part.clip_fraction) * share
            if self._critic is not None and self.critic is not None:
                found = value_loss(
                    place_values(self.critic, piece, self._dtype, share=p.share_prompts),
                    piece.values,
                    piece.returns,
                    piece.mask,
                    clip=p.value_clip,
                )
                if critic:
                    (found.loss * (share * p.value_coef)).backward()
                    self._critic.collect()
                value += float(found.loss.detach()) * share
        return Losses(ratio, deviation, clip, value)

    def _practise(self, learns: bool) -> None:
        """Add the gradient of the language loss on the next of the `ptx` conversations."""
        if self.ptx is None or not learns:
            return
        device, own, narrow = self.policy.device, self.policy.dtype, self._dtype
        batch = to_device(self.ptx.next(), device)
        with torch.autocast(device.type, dtype=narrow, enabled=narrow not in (torch.float32, own)):
            part = language_loss(self.policy, batch)
        (self.passes.ptx_coef * part.total / part.denominator).backward()
        self._policy.collect()

    def _apply(self, *, policy: bool) -> dict[str, bool]:
        """Update the models that are to learn; by name, whether the gradient allowed it."""
        made: dict[str, bool] = {}
        for name, optimizer in self.optimizers.items():
            if name == "policy" and not policy:
                continue
            norm = nn.utils.clip_grad_norm_(self.models[name].parameters(), self.passes.grad_clip)
            made[name] = bool(torch.isfinite(norm))
            if made[name]:  # one bad batch must not poison the weights
                optimizer.step()
        return made


def _adamw(model: nn.Module, learning_rate: float) -> torch.optim.AdamW:
    parameters: list[Tensor] = [p.requires_grad_(True) for p in model.parameters()]
    return torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.0)
