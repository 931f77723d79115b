from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from publius.rl.advantage import centred, gae, grpo, masked_mean, rloo, whiten


def test_gae_by_hand() -> None:
    rewards, values = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.1, 0.2, 0.4]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    # deltas 0.1, 0.2, 0.6; lambda 0.5
    found = gae(rewards, values, mask, lam=0.5)
    assert found.advantages[0].tolist() == pytest.approx([0.1 + 0.5 * (0.2 + 0.5 * 0.6), 0.2 + 0.3, 0.6])
    assert torch.allclose(found.returns, found.advantages + values)


@settings(max_examples=40)
@given(st.lists(st.booleans(), min_size=1, max_size=10), st.integers(0, 1000))
def test_gae_steps_over_what_is_not_an_action(mask: list[bool], seed: int) -> None:
    torch.manual_seed(seed)
    full = torch.tensor([mask])
    rewards, values = torch.randn(1, len(mask)), torch.randn(1, len(mask))
    found = gae(rewards, values, full, gamma=0.9, lam=0.8)
    packed = gae(
        rewards[full][None],
        values[full][None],
        torch.ones(1, sum(mask), dtype=torch.bool),
        gamma=0.9,
        lam=0.8,
    )
    assert torch.allclose(found.advantages[full], packed.advantages[0])
    assert torch.allclose(found.returns[full], packed.returns[0])
    assert not found.advantages[~full].any()


def test_rloo_and_grpo_compare_within_groups() -> None:
    rewards = torch.tensor([[1.0, 1.0], [0.0, 0.0], [5.0, 1.0], [4.0, 0.0], [0.5, 9.0]])
    mask = torch.tensor([[True, True]] * 4 + [[True, False]])
    groups = torch.tensor([0, 0, 1, 1, 1])
    # totals 2, 0 | 6, 4, 0.5
    found = rloo(rewards, rewards, mask, groups)
    expected = [2 - 0, 0 - 2, 6 - 2.25, 4 - 3.25, 0.5 - 5]
    assert found.advantages[:, 0].tolist() == pytest.approx(expected)
    assert found.advantages[4, 1] == 0
    alone = rloo(rewards[1:], rewards[1:], mask[1:], groups[1:]).advantages
    assert not alone[0].any() and alone[1:, 0].tolist() == pytest.approx(expected[2:])
    found = grpo(rewards, rewards, mask, groups)
    assert found.advantages[:2, 0].tolist() == pytest.approx([1.0, -1.0], abs=1e-4)
    totals = torch.tensor([6.0, 4.0, 0.5])
    assert torch.allclose(
        found.advantages[2:, 0], (totals - totals.mean()) / totals.std(unbiased=False), atol=1e-4
    )


def test_the_others_of_a_group_correct_the_critic() -> None:
    torch.manual_seed(0)
    rewards, mask = torch.randn(5, 4), torch.ones(5, 4, dtype=torch.bool)
    mask[:, 0] = False  # a prompt
    mask[4, 3] = False
    rewards *= mask
    groups = torch.tensor([0, 0, 0, 1, 2])
    wrong = torch.randn(3)[groups][:, None] * mask  # one mistake a prompt, the same at all its places
    bare = gae(rewards, torch.zeros(5, 4), mask, lam=1.0).advantages
    off = gae(rewards, wrong, mask, lam=1.0).advantages
    none = torch.zeros(5, 4)
    right, corrected = (
        centred(bare, rewards, none, mask, groups), centred(off, rewards, wrong, mask, groups)
    )  # fmt: skip
    assert torch.allclose(right[:3], corrected[:3], atol=1e-6)
    assert torch.allclose(right[:3, 1], rloo(rewards, rewards, mask, groups).advantages[:3, 1], atol=1e-6)
    assert torch.equal(corrected[3:], off[3:])  # alone in their groups
    assert not corrected[~mask].any()
    alike = gae(rewards[:1].expand(3, 4), torch.zeros(3, 4), mask[:3], lam=1.0).advantages
    same = rewards[:1].expand(3, 4)
    assert centred(alike, same, none[:3], mask[:3], groups[:3])[:, 1].abs().max() < 1e-6


def test_the_baseline_is_whole_returns_whatever_lambda_is() -> None:
    """At 0.95 a first advantage holds 4% of a reward 64 tokens away; what it is compared with, all of it."""
    rewards, values = torch.zeros(3, 64), torch.full((3, 64), 0.25)
    rewards[:, -1] = torch.tensor([1.0, 2.0, 5.0])
    mask, groups = torch.ones(3, 64, dtype=torch.bool), torch.zeros(3, dtype=torch.long)
    found = gae(rewards, values, mask, lam=0.95).advantages
    less = found - centred(found, rewards, values, mask, groups)
    assert torch.allclose(less, torch.tensor([3.25, 2.75, 1.25])[:, None].expand(3, 64))


def test_whitening() -> None:
    torch.manual_seed(0)
    values, mask = torch.randn(4, 6) * 3 + 2, torch.rand(4, 6) > 0.3
    white = whiten(values, mask)
    assert white[mask].mean() == pytest.approx(0, abs=1e-5)
    assert white[mask].std(unbiased=False) == pytest.approx(1, abs=1e-4)
    assert not white[~mask].any()
    kept = whiten(values, mask, shift=False)
    assert kept[mask].std(unbiased=False) == pytest.approx(1, abs=1e-4)
    assert torch.equal(kept[mask] > 0, values[mask] > 0)
    assert masked_mean(values, torch.zeros_like(mask)) == 0


@pytest.mark.parametrize("size", [3, 5, 7, 8])
def test_replies_that_are_all_alike_teach_grpo_nothing(size: int) -> None:
    """Rounding in a group's mean is not a difference: divided by itself it would be a full-size step."""
    totals = torch.rand(16, generator=torch.Generator().manual_seed(size * 100 + 16)) * 4
    rewards, groups = totals.repeat_interleave(size)[:, None], torch.arange(16).repeat_interleave(size)
    mask = torch.ones(len(groups), 1, dtype=torch.bool)
    assert not whiten(grpo(rewards, rewards, mask, groups).advantages, mask).any()
    rewards[0] += 0.01
    assert grpo(rewards, rewards, mask, groups).advantages[:size].abs().min() > 0.1
