"""What a rollout leaves behind, and what turns it into a reward with named parts.

A reward function is anything called with trajectories: a reward model, a verifier written in
Python, or a weighted sum of others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import torch

from publius.core.messages import Conversation, text_of
from publius.model.checkpoint import RewardCheckpoint
from publius.model.heads import RewardModel

__all__ = [
    "ModelReward",
    "Part",
    "Reward",
    "RewardFacts",
    "RewardFn",
    "Trajectory",
    "VerifierReward",
    "WeightedReward",
    "pad_rows",
    "reward_facts",
]


class Trajectory(NamedTuple):
    """One finished episode. All token tuples have one length.

    Attributes:
        tokens: the prompt, then what policy and environment wrote in turn.
        actions: True where the policy chose the token (its <|end|> included).
        logprobs: log-probability of each action under the distribution it was drawn from; 0 elsewhere.
        conversation: the whole conversation, replies parsed.
        ended: the last reply ended by itself, not by the token limit.
        prompt: index of its prompt in the batch; samples of one prompt share it.
    """

    tokens: tuple[int, ...]
    actions: tuple[bool, ...]
    logprobs: tuple[float, ...]
    conversation: Conversation
    ended: bool
    prompt: int

    @property
    def length(self) -> int:
        """Tokens the policy chose."""
        return sum(self.actions)


class RewardFacts(NamedTuple):
    """Mean and standard deviation of the raw scores on the reference set."""

    bias: float = 0.0
    std: float = 1.0


def reward_facts(checkpoint: RewardCheckpoint) -> RewardFacts:
    """What training wrote beside the weights (`reward.json`); a checkpoint from elsewhere has 0 and 1."""
    path = checkpoint.path / "reward.json"
    return RewardFacts(**json.loads(path.read_text("utf-8"))) if path.exists() else RewardFacts()


class Reward(NamedTuple):
    """A scalar and the named parts it was made of.

    Attributes:
        parts: unweighted, by name; `judge.failed` is a detail of the part `judge`.
        problem: why there is no reward; `value` is then NaN, and whoever trains leaves the episode out.
    """

    value: float
    parts: dict[str, float]
    problem: str = ""


class RewardFn(Protocol):
    """Scores finished episodes, one Reward each, in order."""

    def __call__(self, trajectories: Sequence[Trajectory]) -> list[Reward]: ...


def pad_rows(rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> torch.Tensor:
    """Right-padded int64 [B, T] of rows of token ids."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows], device=device)


class ModelReward:
    """A reward model's centred score at the final <|end|>; a cut-off reply is scored as if it ended there.

    Args:
        bias: mean score on the reference set, subtracted (see `RewardModel` training).
        dtype: compute dtype of the forward pass.
    """

    def __init__(
        self,
        model: RewardModel,
        *,
        pad_id: int,
        end_id: int,
        bias: float = 0.0,
        name: str = "model",
        dtype: torch.dtype = torch.float32,
        batch: int = 64,
    ) -> None:
        self.model, self._pad, self._end, self._bias = model.eval(), pad_id, end_id, bias
        self._name, self._dtype, self._batch = name, dtype, batch

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: RewardCheckpoint,
        *,
        device: str | torch.device = "cpu",
        name: str = "model",
        dtype: torch.dtype = torch.float32,
    ) -> ModelReward:
        """A reward from a trained checkpoint, with the bias found at the end of its training."""
        tokenizer = checkpoint.tokenizer()
        return cls(
            checkpoint.load(device=device),
            pad_id=tokenizer.pad_id,
            end_id=tokenizer.end_id,
            bias=reward_facts(checkpoint).bias,
            name=name,
            dtype=dtype,
        )

    @torch.no_grad()
    def score(self, rows: Sequence[Sequence[int]]) -> list[float]:
        """Centred scores of token rows; <|end|> is appended where it is missing."""
        closed = [list(row) if row[-1] == self._end else [*row, self._end] for row in rows]
        order = sorted(range(len(closed)), key=lambda i: len(closed[i]))
        device = self.model.score.weight.device
        scores = [0.0] * len(closed)
        for start in range(0, len(order), self._batch):
            part = order[start : start + self._batch]
            tokens_BT = pad_rows([closed[i] for i in part], self._pad, device)
            last_B = torch.tensor([len(closed[i]) - 1 for i in part], device=device)
            with torch.autocast(device.type, dtype=self._dtype, enabled=self._dtype != torch.float32):
                found = self.model(tokens_BT, last_B).float()
            for i, value in zip(part, found.tolist(), strict=True):
                scores[i] = value - self._bias
        return scores

    def __call__(self, trajectories: Sequence[Trajectory]) -> list[Reward]:
        return [Reward(v, {self._name: v}) for v in self.score([t.tokens for t in trajectories])]


class VerifierReward:
    """A Python check of the last reply's visible text: (meta of the conversation, text) -> number."""

    def __init__(self, check: Callable[[dict[str, object], str], float], name: str = "verifier") -> None:
        self._check, self._name = check, name

    def __call__(self, trajectories: Sequence[Trajectory]) -> list[Reward]:
        values = [
            float(self._check(t.conversation.meta, text_of(t.conversation.messages[-1])))
            for t in trajectories
        ]
        return [Reward(v, {self._name: v}) for v in values]


class Part(NamedTuple):
    """A reward function in a sum.

    Attributes:
        weight: 0 watches: the part is measured and logged, and never trained on.
        applies: for which episodes it speaks (those that have an answer to check); None for all. An episode
            it does not speak for gets nothing from it, and does not count in its mean.
    """

    weight: float
    fn: RewardFn
    applies: Callable[[Trajectory], bool] | None = None


class WeightedReward:
    """A weighted sum; every part keeps its own name and unweighted value, and its details (`name.detail`).

    A part that has no reward for an episode, or one that is not finite, leaves the sum without one too,
    unless its weight is 0.
    """

    def __init__(self, parts: Mapping[str, Part | tuple[float, RewardFn]]) -> None:
        self._parts = {
            name: given if isinstance(given, Part) else Part(*given) for name, given in parts.items()
        }

    def __call__(self, trajectories: Sequence[Trajectory]) -> list[Reward]:
        made = [Reward(0.0, {}) for _ in trajectories]
        for name, part in self._parts.items():
            places = [i for i, t in enumerate(trajectories) if part.applies is None or part.applies(t)]
            if not places:
                continue
            found = part.fn([trajectories[i] for i in places])
            for i, reward in zip(places, found, strict=True):
                made[i] = _add(made[i], name, part.weight, reward)
        return made


def _add(total: Reward, name: str, weight: float, reward: Reward) -> Reward:
    details = {key: value for key, value in reward.parts.items() if key.startswith(f"{name}.")}
    parts = {**total.parts, name: reward.value, **details}
    if weight == 0:
        return total._replace(parts=parts)
    problem = total.problem or (f"{name}: {reward.problem}" if reward.problem else "")
    return Reward(total.value + weight * reward.value, parts, problem)
