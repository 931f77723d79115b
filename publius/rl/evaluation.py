"""What replies to fixed prompts are worth, and how far they are from the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from publius.model.transformer import Transformer
from publius.reward.reward_fn import Trajectory
from publius.rl.advantage import ESTIMATORS
from publius.rl.batch import CHUNK_TOKENS, collate

__all__ = ["Evaluation", "evaluation", "known"]


class Evaluation(NamedTuple):
    """Reward less penalty, and KL in nats, of each fixed prompt: means over its replies.

    Attributes:
        rewards, kl: by prompt; None for a prompt whose replies all had no reward.
        parts: each part of the reward, unweighted: its mean over the replies that have it.
    """

    rewards: list[float | None]
    kl: list[float | None]
    parts: Mapping[str, float]


def evaluation(
    trajectories: Sequence[Trajectory],
    rewards: Sequence[float],
    reference: Transformer,
    *,
    prompts: int,
    parts: Mapping[str, float],
    pad_id: int,
    chunk_tokens: int = CHUNK_TOKENS,
) -> Evaluation:
    """Means by prompt, for `prompts` of them, of `rewards` and of the log-ratio to the reference.

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
    return Evaluation(
        _means(rewards, [t.prompt for t in trajectories], prompts),
        _means(batch.kl_B.tolist(), places, prompts),
        parts,
    )


def known(values: Sequence[float | None]) -> list[float]:
    """Those there are."""
    return [value for value in values if value is not None]


def _means(values: Sequence[float], prompts: Sequence[int], count: int) -> list[float | None]:
    """The mean of each of `count` prompts' values; None where there is none."""
    found: list[list[float]] = [[] for _ in range(count)]
    for value, prompt in zip(values, prompts, strict=True):
        found[prompt].append(value)
    return [sum(some) / len(some) if some else None for some in found]
