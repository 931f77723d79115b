"""Scalar heads."""

import pytest
import torch

from publius.model.heads import RewardModel, ValueModel
from publius.model.transformer import Transformer
from publius.testing.fakes import tiny_config, tiny_model


def test_reward_reads_the_end_token_and_nothing_after_it():
    model = RewardModel(tiny_model(), seed=0)
    tokens = torch.arange(20).view(2, 10)
    last = torch.tensor([4, 9])
    with torch.no_grad():
        scores = model(tokens, last)
        changed = tokens.clone()
        changed[0, 5:] = 7
        by_hand = model.trunk.hidden(tokens[:1, :5])[0, -1] @ model.score.weight[0]
        torch.testing.assert_close(model(changed, last), scores)
    assert scores.shape == (2,)
    torch.testing.assert_close(scores[0], by_hand)


def test_reward_head_starts_at_unit_scale():
    model = RewardModel(Transformer(tiny_config(hidden_size=2048), seed=0), seed=0)
    assert model.score.weight.std().item() == pytest.approx(2049**-0.5, rel=0.1)


def test_fresh_values_are_zero_and_a_rewards_critic_agrees_with_it():
    reward = RewardModel(tiny_model(), seed=1)
    tokens = torch.arange(12).view(2, 6)
    with torch.no_grad():
        assert ValueModel(tiny_model())(tokens).abs().max() == 0
        values = ValueModel.from_reward(reward)(tokens)
        torch.testing.assert_close(values[:, 3], reward(tokens, torch.tensor([3, 3])))
