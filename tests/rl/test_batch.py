from __future__ import annotations

import pytest
import torch

from publius.core.errors import UserError
from publius.inference.engine import Engine
from publius.model.heads import ValueModel
from publius.reward.reward_fn import Trajectory
from publius.rl.advantage import gae
from publius.rl.batch import collate
from publius.rl.rollout import rollout
from publius.tokenizer.renderer import Renderer
from tests.rl import tiny

T = tiny.tokenizer()


def test_collate_against_a_plain_forward() -> None:
    policy, reference = tiny.talker(seed=0), tiny.talker(seed=1)
    critic = ValueModel(tiny.model(seed=2, max_position=512))
    torch.nn.init.normal_(critic.score.weight)
    episodes = rollout(Engine(policy, T), Renderer(T), tiny.chats(5), max_tokens=10, seed=0)
    scores = [1.0, 2.0, 3.0, 4.0, 5.0]
    batch = collate(
        episodes, scores, critic, reference, pad_id=T.pad_id, beta=0.5, estimator=gae, whiten_advantages=False
    )
    assert batch.lengths_B.tolist() == sorted(len(e.tokens) - 1 for e in episodes)
    order = sorted(range(5), key=lambda i: len(episodes[i].tokens))
    for row, i in enumerate(order):
        tokens = torch.tensor([episodes[i].tokens])
        logp = reference(tokens)[0].log_softmax(-1).detach()
        values = critic(tokens)[0].detach()
        for t, (action, old) in enumerate(
            zip(episodes[i].actions[1:], episodes[i].logprobs[1:], strict=True)
        ):
            assert bool(batch.mask[row, t]) == action
            if not action:
                continue
            ref = float(logp[t, tokens[0, t + 1]])
            assert float(batch.reference[row, t]) == pytest.approx(ref, abs=1e-4)
            assert float(batch.values[row, t]) == pytest.approx(float(values[t]), abs=1e-4)
            last = t == len(episodes[i].tokens) - 2
            expected = -0.5 * (old - ref) + (scores[i] if last else 0)
            assert float(batch.rewards[row, t]) == pytest.approx(expected, abs=1e-3)
        kl = sum(episodes[i].logprobs) - float(batch.reference[row].sum())
        assert float(batch.kl_B[row]) == pytest.approx(kl, abs=1e-3)
    drawn = [p for e in episodes for p, a in zip(e.logprobs, e.actions, strict=True) if a]
    assert float(batch.entropy) == pytest.approx(-sum(drawn) / len(drawn), abs=1e-4)
    white = collate(episodes, scores, critic, reference, pad_id=T.pad_id, beta=0.5, estimator=gae)
    assert float(white.advantages[white.mask].mean()) == pytest.approx(0, abs=1e-5)


def test_minibatches_and_chunks_cover_every_row_once() -> None:
    policy = tiny.talker()
    episodes = rollout(Engine(policy, T), Renderer(T), tiny.chats(9), max_tokens=20, seed=0)
    batch = collate(episodes, [0.0] * 9, None, policy, pad_id=T.pad_id, beta=0.0, estimator=gae)
    parts = list(batch.minibatches(3, torch.Generator().manual_seed(0)))
    assert [len(p.inputs) for p in parts] == [3, 3, 3]
    assert sum(int(p.mask.sum()) for p in parts) == int(batch.mask.sum())
    for part in parts:
        pieces = list(part.chunks(60))
        assert sum(share for _, share in pieces) == pytest.approx(1)
        assert all(piece.inputs.numel() <= 60 or len(piece.inputs) == 1 for piece, _ in pieces)
        assert all(piece.inputs.shape[1] == int(piece.lengths_B.max()) for piece, _ in pieces)


def test_nothing_to_learn_from_is_an_error() -> None:
    empty = Trajectory((1, 4), (False, False), (0.0, 0.0), tiny.chats(1)[0], False, 0)
    with pytest.raises(UserError, match="no prompt left room"):
        collate([empty], [0.0], None, tiny.model(), pad_id=0, beta=0.0, estimator=gae)


@pytest.mark.parametrize(("count", "sizes"), [(4, [3, 2, 2, 2]), (6, [2, 2, 2, 1, 1, 1]), (12, [1] * 9)])
def test_there_are_as_many_minibatches_as_asked_for(count: int, sizes: list[int]) -> None:
    policy = tiny.talker()
    episodes = rollout(Engine(policy, T), Renderer(T), tiny.chats(9), max_tokens=5, seed=0)
    batch = collate(episodes, [0.0] * 9, None, policy, pad_id=T.pad_id, beta=0.0, estimator=gae)
    parts = list(batch.minibatches(count, torch.Generator().manual_seed(0)))
    assert [len(part.inputs) for part in parts] == sizes
    silent = parts[0]._replace(mask=torch.zeros_like(parts[0].mask))  # prompts that left no room
    assert [share for _, share in silent.chunks()] == [0.0]
