"""What replies to fixed prompts are worth, and how far they are from the reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from publius.model.transformer import Transformer
from publius.reward.reward_fn import Trajectory
from publius.rl.advantage import ESTIMATORS
from publius.rl.batch import CHUNK_TOKENS, collate

__all__ = ["Evaluation", "evaluation"]


class Evaluation(NamedTuple):
    """Reward less penalty, and KL in nats, of each fixed prompt: means over its replies."""

    rewards: list[float]
    kl: list[float]


def evaluation(
    trajectories: Sequence[Trajectory],
    rewards: Sequence[float],
    reference: Transformer,
    *,
    pad_id: int,
    chunk_tokens: int = CHUNK_TOKENS,
) -> Evaluation:
    """Means by prompt, in order of prompts, of `rewards` and of the log-ratio to the reference.

    Raises:
        UserError: when no trajectory has a single action.
    """
    batch = collate(
        trajectories,
        rewards,
        None,
        reference,
        pad_id=pad_id,
        beta=0.0,
        estimator=ESTIMATORS["rloo"],
        chunk_tokens=chunk_tokens,
    )
    order = sorted(range(len(trajectories)), key=lambda i: len(trajectories[i].tokens))  # as collated
    places = [trajectories[i].prompt for i in order]
    return Evaluation(_means(rewards, [t.prompt for t in trajectories]), _means(batch.kl_B.tolist(), places))


def _means(values: Sequence[float], prompts: Sequence[int]) -> list[float]:
    """The mean of each prompt's values, in order of prompts."""
    found: dict[int, list[float]] = {}
    for value, prompt in zip(values, prompts, strict=True):
        found.setdefault(prompt, []).append(value)
    return [sum(found[prompt]) / len(found[prompt]) for prompt in sorted(found)]
