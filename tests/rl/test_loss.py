from __future__ import annotations

import math

import pytest
import torch

from publius.rl.loss import RunningScale, policy_loss, token_rewards, value_loss

ON = torch.ones(1, 1, dtype=torch.bool)


def one(x: float) -> torch.Tensor:
    return torch.tensor([[x]])


@pytest.mark.parametrize(
    ("ratio", "advantage", "surrogate"),
    [(1.0, 2.0, 2.0), (1.5, 1.0, 1.2), (0.5, 1.0, 0.5), (1.5, -1.0, -1.5), (0.5, -1.0, -0.8)],
)
def test_the_surrogate_is_pessimistic(ratio: float, advantage: float, surrogate: float) -> None:
    found = policy_loss(one(math.log(ratio)), one(0.0), one(advantage), ON)
    assert float(found.loss) == pytest.approx(-surrogate)
    assert float(found.ratio) == pytest.approx(ratio)
    assert float(found.deviation) == pytest.approx(abs(ratio - 1), abs=1e-6)
    assert float(found.clip_fraction) == float(surrogate != ratio * advantage)
    assert float(found.approx_kl) == pytest.approx(ratio - 1 - math.log(ratio), abs=1e-6)


def test_masked_places_do_not_count() -> None:
    new, old = torch.tensor([[0.0, 50.0]]), torch.zeros(1, 2)
    mask = torch.tensor([[True, False]])
    found = policy_loss(new, old, torch.ones(1, 2), mask)
    assert float(found.loss) == -1
    assert float(found.deviation) == 0


def test_masked_places_weigh_nothing() -> None:
    """Whatever lies there: the mean is over actions alone, for the policy and for the critic."""
    mask = torch.tensor([[True, False, False]])
    found = policy_loss(torch.zeros(1, 3), torch.zeros(1, 3), torch.tensor([[2.0, 9.0, 9.0]]), mask)
    assert float(found.loss) == -2
    wild = torch.tensor([[1.0, 50.0, -50.0]])
    assert float(value_loss(wild, torch.zeros(1, 3), torch.zeros(1, 3), mask).loss) == pytest.approx(0.5)


def test_gradient_at_ratio_one_is_the_policy_gradient() -> None:
    logp = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    policy_loss(
        logp, logp.detach(), torch.tensor([[3.0, -1.0]]), torch.ones(1, 2, dtype=torch.bool)
    ).loss.backward()
    assert logp.grad is not None
    assert logp.grad.tolist() == [[-1.5, 0.5]]


def test_value_clipping() -> None:
    # moved 0.5 from 0 towards a return of 1, clipped at 0.2: the clipped error 0.64 is the larger
    found = value_loss(one(0.5), one(0.0), one(1.0), ON)
    assert float(found.loss) == pytest.approx(0.5 * 0.64)
    assert float(found.clip_fraction) == 1
    assert float(value_loss(one(0.1), one(0.0), one(1.0), ON).loss) == pytest.approx(0.5 * 0.81)


def test_rewards_carry_signed_kl_and_the_score_on_the_last_action() -> None:
    mask = torch.tensor([[False, True, True, False], [False, True, False, True]])
    logp = torch.tensor([[9.0, -1.0, -2.0, 9.0], [9.0, -1.0, 9.0, -3.0]])
    reference = torch.tensor([[9.0, -1.5, -1.0, 0.0], [0.0, -1.0, 0.0, -3.0]])
    rewards = token_rewards(torch.tensor([2.0, -1.0]), logp, reference, mask, beta=0.1)
    assert rewards.tolist() == [pytest.approx([0, -0.05, 2.1, 0]), pytest.approx([0, 0, 0, -1])]


def test_a_row_without_an_action_gets_nothing() -> None:
    rewards = token_rewards(
        torch.tensor([5.0]), torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, 2).bool(), beta=1
    )
    assert not rewards.any()


def test_running_scale_is_the_sample_deviation() -> None:
    scale = RunningScale()
    assert scale.std == 1
    values = torch.tensor([1.0, 4.0, -2.0, 7.0])
    scale.update(values[:2])
    again = RunningScale(**scale.state())  # pyright: ignore[reportArgumentType]
    again.update(values[2:])
    assert again.std == pytest.approx(float(values.std()))
