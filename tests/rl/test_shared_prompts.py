from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from publius.core.errors import UserError
from publius.inference.engine import Engine
from publius.model.heads import ValueModel
from publius.model.transformer import Transformer
from publius.reward.reward_fn import Reward, Trajectory
from publius.rl.advantage import gae
from publius.rl.batch import action_logprobs, collate, place_values
from publius.rl.rollout import rollout
from publius.rl.shared_prompts import branch
from publius.rl.trainer import PPOConfig, Trainer
from publius.tokenizer.renderer import Renderer
from tests.rl import tiny
from tests.rl.test_rollout import Echo

T = tiny.tokenizer()
R = Renderer(T)


def test_branches_by_hand() -> None:
    """Two replies to one prompt of two, and a row of its own whose first action comes later."""
    inputs = torch.tensor([[7, 8, 1, 2], [7, 8, 3, 0], [7, 9, 9, 4]])
    actions = torch.tensor([[0, 1, 1, 1], [0, 1, 1, 0], [0, 0, 1, 1]]).bool()
    found = branch(inputs, actions, torch.tensor([4, 3, 4]))
    assert found.tokens_GW.tolist() == [[7, 8, 1, 2, 3], [7, 9, 9, 4, 0]]
    assert found.positions_GW.tolist() == [[0, 1, 2, 3, 2], [0, 1, 2, 3, 0]]
    assert found.places_BT.tolist() == [[0, 1, 2, 3], [0, 1, 4, 0], [5, 6, 7, 8]]
    assert found.mask[0, 0, 4].tolist() == [True, True, False, False, True]
    assert found.mask[0, 0, 3].tolist() == [True, True, True, True, False]


def test_a_row_without_actions_shares_nothing() -> None:
    found = branch(torch.tensor([[7, 8]]), torch.zeros(1, 2).bool(), torch.tensor([2]))
    assert found.tokens_GW.tolist() == [[7, 8]]


@pytest.mark.parametrize("environment", [None, Echo])
def test_numbers_and_gradients_are_those_of_rows_apart(environment) -> None:
    """Also where the environment speaks in between: what follows the first action is the branch."""
    policy, critic = tiny.talker(end=0.4), ValueModel(tiny.model(seed=2, max_position=512))
    torch.nn.init.normal_(critic.score.weight)
    told = {} if environment is None else {"environment": environment}
    episodes = rollout(Engine(policy, T), R, tiny.chats(4), max_tokens=10, seed=0, group=5, **told)
    batch = collate(episodes, [0.0] * 20, None, policy, pad_id=T.pad_id, beta=0.0, estimator=gae, share=True)
    rows = branch(batch.inputs, batch.mask, batch.lengths_B).tokens_GW
    assert len(rows) == 4 and rows.numel() < 0.7 * batch.inputs.numel()
    for share, kept in ((False, []), (True, [])):
        for model, compute in ((policy, action_logprobs), (critic, place_values)):
            model.zero_grad()
            found = compute(model, batch, share=share)
            (found * torch.linspace(0, 1, found.numel()).view(found.shape)).sum().backward()
            gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
            kept.append((found.detach(), gradients))
        if not share:
            apart = kept
    for (one, slopes), (two, others) in zip(apart, kept, strict=True):
        assert torch.allclose(one, two, atol=1e-4)
        assert all(torch.allclose(a, b, atol=1e-3, rtol=1e-3) for a, b in zip(slopes, others, strict=True))


def short(episodes: Sequence[Trajectory]) -> list[Reward]:
    return [Reward(-float(e.length), {}) for e in episodes]


def learner(config: PPOConfig, policy: Transformer) -> Trainer:
    return Trainer(config, policy, None, tiny.talker(), R, short)


def test_a_step_is_the_same_to_rounding_in_any_chunks() -> None:
    moved: list[dict[str, torch.Tensor]] = []
    for share, tokens in ((False, 8192), (True, 8192), (True, 200)):
        config = PPOConfig(
            steps=2, batch=4, group=4, epochs=1, max_tokens=6, warmup=0, estimator="rloo", dtype="float32",
            share_prompts=share, chunk_tokens=tokens,
        )  # fmt: skip
        trainer = learner(config, tiny.talker())
        trainer.optimizers["policy"] = torch.optim.SGD(trainer.policy.parameters(), lr=0.1)
        report = trainer.step(tiny.chats(4), 0)
        assert report.ratio_first == pytest.approx(1, abs=1e-4)
        moved.append({name: value.clone() for name, value in trainer.policy.state_dict().items()})
    start = tiny.talker().state_dict()
    assert any(not torch.equal(start[name], value) for name, value in moved[0].items())
    for other in moved[1:]:
        assert all(torch.allclose(moved[0][name], value, atol=1e-5) for name, value in other.items())


def test_a_window_counts_places_and_cannot_be_shared() -> None:
    policy = tiny.talker()
    policy.config = policy.config.model_copy(update={"sliding_window": 8})
    with pytest.raises(UserError, match="attention has a window"):
        learner(PPOConfig(group=2, estimator="rloo", share_prompts=True), policy)
