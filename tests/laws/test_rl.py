"""Laws of reinforcement learning: GAE is the naive sum, the first pass has ratio 1, KL begins at zero."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from publius.inference.engine import Engine
from publius.model.heads import RewardModel, ValueModel
from publius.reward.reward_fn import ModelReward
from publius.rl.advantage import gae
from publius.rl.batch import action_logprobs, collate
from publius.rl.loss import policy_loss
from publius.rl.ppo import PPOConfig, Trainer
from publius.rl.rollout import rollout, take
from publius.tokenizer.renderer import Renderer
from tests.rl import tiny

T = tiny.tokenizer()
NUMBERS = st.floats(-10, 10, allow_nan=False, width=32)
ROW = st.integers(1, 8).flatmap(
    lambda n: st.tuples(*(st.lists(NUMBERS, min_size=n, max_size=n) for _ in range(2)))
)


@settings(max_examples=100)
@given(ROW, st.floats(0, 1), st.floats(0, 1))
def test_gae_is_the_naive_sum(row: tuple[list[float], list[float]], gamma: float, lam: float) -> None:
    rewards, values = row
    n = len(rewards)
    following = [*values[1:], 0.0]
    deltas = [r + gamma * f - v for r, f, v in zip(rewards, following, values, strict=True)]
    naive = [sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, n)) for t in range(n)]
    double = {"dtype": torch.float64}
    found = gae(
        torch.tensor([rewards], **double),
        torch.tensor([values], **double),
        torch.ones(1, n, dtype=torch.bool),
        gamma=gamma,
        lam=lam,
    )
    assert found.advantages[0].tolist() == pytest.approx(naive, abs=1e-9)


@settings(max_examples=50)
@given(ROW)
def test_with_lambda_one_the_return_is_the_sum_of_rewards(row: tuple[list[float], list[float]]) -> None:
    rewards, values = row
    found = gae(
        torch.tensor([rewards]).double(),
        torch.tensor([values]).double(),
        torch.ones(1, len(rewards)).bool(),
        lam=1.0,
    )
    assert found.returns[0].tolist() == pytest.approx(
        [sum(rewards[t:]) for t in range(len(rewards))], abs=1e-9
    )


def test_first_pass_ratio_is_one_with_the_real_engine_through_training() -> None:
    """Every action, at every step, after the weights have moved: the engine reads the trainer's tensors."""
    config = PPOConfig(
        batch=6, group=2, max_tokens=12, learning_rate=2e-3, critic_warmup=0, warmup=0, kl_budget=None
    )
    policy = tiny.talker()
    reward = ModelReward(
        RewardModel(tiny.model(seed=1, max_position=512), seed=1), pad_id=T.pad_id, end_id=T.end_id
    )
    critic = ValueModel(tiny.model(seed=2, max_position=512))
    trainer = Trainer(config, policy, critic, tiny.talker(), Renderer(T), reward)
    start = policy.model.embed_tokens.weight.clone()
    for step in range(4):
        report = trainer.step(take(tiny.chats(9), step, 6, 0), step)
        assert report.ratio_first == pytest.approx(1, abs=1e-3)
        assert report.ratio_deviation < 1e-3
    assert not torch.equal(start, policy.model.embed_tokens.weight)
    assert trainer.deviation < 1e-3


def test_kl_is_zero_at_the_start() -> None:
    policy = tiny.talker()
    episodes = rollout(Engine(policy, T), Renderer(T), tiny.chats(8), max_tokens=16, seed=0)
    batch = collate(episodes, [0.0] * 8, None, tiny.talker(), pad_id=T.pad_id, beta=1.0, estimator=gae)
    assert float(batch.kl_B.abs().max()) < 1e-3
    assert float(batch.rewards.abs().max()) < 1e-3
    found = policy_loss(action_logprobs(policy, batch), batch.logprobs, batch.advantages, batch.mask)
    assert float(found.deviation) < 1e-3
