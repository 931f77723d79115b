"""Each way in which PPO is known to go silently wrong is put in on purpose, and a test must notice."""

from __future__ import annotations

from pathlib import Path

import pytest

from publius.rl import advantage, batch, loss
from publius.rl.learner import Learner
from publius.rl.rollout import _Episode
from publius.rl.trainer import Trainer
from tests.laws import test_rl as laws
from tests.laws.mutating import Mutation, check_caught
from tests.rl import test_advantage, test_batch, test_loss, test_ppo, test_rollout

MUTATIONS = [
    Mutation(
        "the policy's loss ignores the mask",
        loss.policy_loss,
        "loss=-masked_mean(torch.minimum(plain, clipped), mask_BT)",
        "loss=-torch.minimum(plain, clipped).mean()",
        test_loss.test_masked_places_weigh_nothing,
    ),
    Mutation(
        "the critic's loss ignores the mask",
        loss.value_loss,
        "masked_mean(torch.maximum(plain_error, clipped_error), mask_BT)",
        "torch.maximum(plain_error, clipped_error).mean()",
        test_loss.test_masked_places_weigh_nothing,
    ),
    Mutation(
        "prompts are learned as if they were chosen",
        batch._blank,
        "torch.tensor(t.actions[1:], device=device)",
        "True",
        test_batch.test_collate_against_a_plain_forward,
    ),
    Mutation(
        "the KL is left out of the rewards",
        loss.token_rewards,
        "-beta * (logprobs_BT - reference_BT)",
        "0.0 * logprobs_BT",
        test_loss.test_rewards_carry_signed_kl_and_the_score_on_the_last_action,
    ),
    Mutation(
        "the KL pays instead of costing",
        loss.token_rewards,
        "-beta * (logprobs_BT",
        "beta * (logprobs_BT",
        test_loss.test_rewards_carry_signed_kl_and_the_score_on_the_last_action,
    ),
    Mutation(
        "the score lands one token before the end",
        loss.token_rewards,
        "rewards_BT[rows, last_B[rows]]",
        "rewards_BT[rows, last_B[rows] - 1]",
        test_loss.test_rewards_carry_signed_kl_and_the_score_on_the_last_action,
    ),
    Mutation(
        "the end token is not an action",
        _Episode.act,
        "[True] * len(tokens)",
        "[True] * (len(tokens) - 1) + [False]",
        test_rollout.test_tokens_actions_and_logprobs_line_up,
    ),
    Mutation(
        "actions are one place late",
        batch._blank,
        "mask[i, : len(t.actions) - 1] = torch.tensor(t.actions[1:], device=device)",
        "mask[i, : len(t.actions) - 1] = torch.tensor(t.actions[:-1], device=device)",
        test_batch.test_collate_against_a_plain_forward,
    ),
    Mutation(
        "advantages pull the wrong way",
        loss.policy_loss,
        "loss=-masked_mean",
        "loss=masked_mean",
        test_loss.test_gradient_at_ratio_one_is_the_policy_gradient,
    ),
    Mutation(
        "the value is added where it is taken off",
        advantage.gae,
        "following_B - values_BT[:, t]",
        "following_B + values_BT[:, t]",
        test_advantage.test_gae_by_hand,
    ),
    Mutation(
        "a reply is its own baseline",
        advantage.rloo,
        "(sums_B - totals_B) / (sizes_B - 1).clamp(min=1)",
        "sums_B / sizes_B",
        test_advantage.test_rloo_and_grpo_compare_within_groups,
    ),
    Mutation(
        "ratios are not clipped",
        loss.policy_loss,
        "ratio.clamp(1 - clip, 1 + clip)",
        "ratio",
        test_ppo.test_many_passes_over_one_batch_stay_clipped,
    ),
    Mutation(
        "the clip helps where it should bind",
        loss.policy_loss,
        "torch.minimum(plain, clipped)",
        "torch.maximum(plain, clipped)",
        test_ppo.test_many_passes_over_one_batch_stay_clipped,
    ),
    Mutation(
        "the reference learns with the policy",
        Trainer.__init__,
        "self.reference = reference.requires_grad_(False)",
        "self.reference = policy",
        test_ppo.test_the_reference_stays_where_it_was,
    ),
    Mutation(
        "the ratio is taken to the reference",
        Learner._backward,
        "piece.logprobs,",
        "piece.reference,",
        laws.test_first_pass_ratio_is_one_with_the_real_engine_through_training,
    ),
    Mutation(
        "the ratio is taken to the policy itself",
        Learner._backward,
        "piece.logprobs,",
        "action_logprobs(self.policy, piece).detach(),",
        test_ppo.test_many_passes_over_one_batch_stay_clipped,
    ),
]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
def test_a_mutant_is_caught(mutation: Mutation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    check_caught(mutation, monkeypatch, tmp_path)
