"""Trajectories to tensors: one collate a step, and the minibatches PPO reuses.

Place t of every [B, T] tensor is about the token *after* input t, so that a policy's output, the
critic's value of the state, and the reward of the action stand in one column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from publius.core.errors import UserError
from publius.model.heads import ValueModel
from publius.model.likelihood import logprobs, token_nll
from publius.model.transformer import Transformer
from publius.reward.reward_fn import Trajectory, pad_rows
from publius.rl.advantage import Estimator, masked_mean, whiten
from publius.rl.loss import token_rewards
from publius.rl.shared_prompts import branch

__all__ = ["CHUNK_TOKENS", "RolloutBatch", "action_logprobs", "collate", "place_values"]

CHUNK_TOKENS = 8192
"""Padded tokens per forward: enough to keep the cores busy, small enough to keep activations in memory."""


class RolloutBatch(NamedTuple):
    """What one step learns from, rows sorted by length or by prompt. Shapes [B, T] unless named otherwise."""

    inputs: Tensor
    targets: Tensor
    mask: Tensor
    lengths_B: Tensor
    logprobs: Tensor
    reference: Tensor
    values: Tensor
    rewards: Tensor
    advantages: Tensor
    returns: Tensor

    @property
    def kl_B(self) -> Tensor:
        """Signed nats per episode to the reference: the sum of k1 over its actions."""
        return (self.logprobs - self.reference).sum(1)

    @property
    def entropy(self) -> Tensor:
        """Mean of -log p over the actions drawn, an unbiased estimate of the policy's entropy (nats)."""
        return -masked_mean(self.logprobs, self.mask)

    def rows(self, index_B: Tensor) -> RolloutBatch:
        """Some rows, trimmed to the longest of them."""
        width = int(self.lengths_B[index_B].max())
        return RolloutBatch(*(x[index_B] if x.dim() == 1 else x[index_B, :width] for x in self))

    def minibatches(self, count: int, generator: torch.Generator) -> Iterator[RolloutBatch]:
        """One pass over all rows in `count` random parts (a row each, where there are fewer), of sizes that
        differ by one at most; each sorted by length."""
        order = torch.randperm(len(self.inputs), generator=generator)
        for part in order.tensor_split(min(count, len(order))):
            yield self.rows(part.sort().values.to(self.inputs.device))

    def chunks(self, tokens: int = CHUNK_TOKENS) -> Iterator[tuple[RolloutBatch, float]]:
        """Pieces of similar length, of at most `tokens` padded, for one forward each, with their share of
        the actions."""
        total = max(1, int(self.mask.sum()))  # prompts that left no room may fill a minibatch
        for index_B in _chunk_rows(self.lengths_B, tokens):
            piece = self.rows(index_B)
            yield piece, int(piece.mask.sum()) / total


def _chunk_rows(lengths_B: Tensor, tokens: int) -> Iterator[Tensor]:
    """Consecutive rows (sorted by length) of at most `tokens` padded tokens."""
    lengths, start = lengths_B.tolist(), 0
    while start < len(lengths):
        stop = start + 1
        while stop < len(lengths) and (stop + 1 - start) * max(lengths[start : stop + 1]) <= tokens:
            stop += 1
        yield torch.arange(start, stop, device=lengths_B.device)
        start = stop


def action_logprobs(model: Transformer, batch: RolloutBatch, *, share: bool = False) -> Tensor:
    """Log-probabilities of the actions, [B, T] fp32, 0 elsewhere; only actions meet the vocabulary.

    With `share`, what rows have in common before their first action is computed once.
    """
    if not share:
        return logprobs(model, batch.inputs, batch.targets, select_BT=batch.mask)
    one = branch(batch.inputs, batch.mask, batch.lengths_B)
    hidden_GWD = model.hidden(one.tokens_GW, positions_BT=one.positions_GW, mask=one.mask)
    hidden_ND = hidden_GWD.flatten(0, 1).index_select(0, one.places_BT[batch.mask])
    nll_N = token_nll(hidden_ND, model.head_weight, batch.targets[batch.mask])
    return torch.zeros_like(batch.logprobs).masked_scatter(batch.mask, -nll_N)


def place_values(
    critic: ValueModel, batch: RolloutBatch, dtype: torch.dtype = torch.float32, *, share: bool = False
) -> Tensor:
    """The critic's value before each action, [B, T] fp32, 0 elsewhere; `share` as `action_logprobs`."""
    device, own = batch.inputs.device.type, critic.score.weight.dtype
    with torch.autocast(device, dtype=dtype, enabled=dtype not in (torch.float32, own)):
        if share:
            one = branch(batch.inputs, batch.mask, batch.lengths_B)
            values_GW = critic(one.tokens_GW, positions_BT=one.positions_GW, mask=one.mask)
            values = values_GW.flatten()[one.places_BT]
        else:
            values = critic(batch.inputs)
    return torch.where(batch.mask, values.float(), 0.0)


@torch.no_grad()
def collate(
    trajectories: Sequence[Trajectory],
    scores: Sequence[float],
    critic: ValueModel | None,
    reference: Transformer,
    *,
    pad_id: int,
    beta: float,
    estimator: Estimator,
    whiten_advantages: bool = True,
    dtype: torch.dtype = torch.float32,
    chunk_tokens: int = CHUNK_TOKENS,
    share: bool = False,
) -> RolloutBatch:
    """Everything PPO needs, in one padded batch. The KL lives here, inside the rewards.

    Args:
        scores: one per trajectory, already scaled and penalised.
        critic: None for estimators without one (values are 0).
        dtype: compute dtype of the critic; policy and reference stay fp32, so that KL starts at 0.
        chunk_tokens: padded tokens per forward.
        share: replies to one prompt stand together, and the prompt is computed once for them.

    Raises:
        UserError: when no trajectory has a single action.
    """
    if not any(t.length for t in trajectories):
        raise UserError("no prompt left room for a reply", where="rl.collate", fix="use shorter prompts")
    order = sorted(range(len(trajectories)), key=lambda i: len(trajectories[i].tokens))
    if share:
        order.sort(key=lambda i: trajectories[i].prompt)
    rows = [trajectories[i] for i in order]
    device = reference.device
    blank = _blank(rows, pad_id, device)
    groups_B = torch.tensor([t.prompt for t in rows], device=device)
    scores_B = torch.tensor([float(scores[i]) for i in order], device=device)
    found = _in_chunks(blank, chunk_tokens, lambda piece: action_logprobs(reference, piece, share=share))
    batch = blank._replace(reference=found)
    if critic is not None:
        found = _in_chunks(blank, chunk_tokens, lambda piece: place_values(critic, piece, dtype, share=share))
        batch = batch._replace(values=found)
    rewards = token_rewards(scores_B, batch.logprobs, batch.reference, batch.mask, beta=beta)
    estimate = estimator(rewards, batch.values, batch.mask, groups_B)
    advantages = whiten(estimate.advantages, batch.mask) if whiten_advantages else estimate.advantages
    return batch._replace(rewards=rewards, advantages=advantages, returns=estimate.returns)


def _blank(rows: Sequence[Trajectory], pad_id: int, device: torch.device) -> RolloutBatch:
    tokens = pad_rows([t.tokens for t in rows], pad_id, device)
    width = tokens.shape[1] - 1
    mask = torch.zeros(len(rows), width, dtype=torch.bool, device=device)
    old = torch.zeros(len(rows), width, device=device)
    for i, t in enumerate(rows):
        mask[i, : len(t.actions) - 1] = torch.tensor(t.actions[1:], device=device)
        old[i, : len(t.logprobs) - 1] = torch.tensor(t.logprobs[1:], device=device)
    zeros = torch.zeros_like(old)
    lengths_B = torch.tensor([len(t.tokens) - 1 for t in rows], device=device)
    return RolloutBatch(
        tokens[:, :-1], tokens[:, 1:], mask, lengths_B, old, zeros, zeros, zeros, zeros, zeros
    )


def _in_chunks(batch: RolloutBatch, tokens: int, compute: Callable[[RolloutBatch], Tensor]) -> Tensor:
    out = torch.zeros_like(batch.logprobs)
    for index_B in _chunk_rows(batch.lengths_B, tokens):
        found = compute(batch.rows(index_B))
        out[index_B, : found.shape[1]] = found
    return out
