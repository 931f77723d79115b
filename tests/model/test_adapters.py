from __future__ import annotations

import pytest
import torch

from publius.inference import Engine, Sampling
from publius.model.adapters import Adapted, LowRank, adapted, merged, trainable
from publius.model.checkpoint import load_model, save_checkpoint
from publius.model.heads import ValueModel
from publius.model.likelihood import logprobs
from publius.testing import byte_tokenizer, tiny_model

TOKENS = torch.arange(40).view(2, 20) * 5 % 250 + 13


def stirred(model, seed: int = 0):
    """Changes that are not zero, as after training."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, LowRank):
                module.up.normal_(0.0, 0.1)
    return model


@pytest.mark.parametrize("shape", [{}, {"qkv_bias": True}, {"qk_norm": True}, {"tie_embeddings": False}])
def test_it_begins_as_the_trunk_to_the_bit(shape):
    trunk = tiny_model(**shape)
    model = adapted(trunk, 4)
    assert torch.equal(model(TOKENS), trunk(TOKENS))
    assert torch.equal(merged(model)(TOKENS), trunk(TOKENS))
    assert not torch.equal(stirred(model)(TOKENS), trunk(TOKENS))


@pytest.mark.parametrize("shape", [{}, {"qkv_bias": True}, {"qk_norm": True}, {"tie_embeddings": False}])
def test_merged_says_the_same_and_is_a_model_of_its_own(shape, tmp_path):
    trunk = tiny_model(**shape)
    model = stirred(adapted(trunk, 4, alpha=8.0))
    plain = merged(model)
    assert torch.allclose(plain(TOKENS), model(TOKENS), atol=1e-4)
    assert not any(isinstance(module, Adapted) for module in plain.modules())
    shared = {p.data_ptr() for p in trunk.parameters()} & {p.data_ptr() for p in plain.parameters()}
    assert shared == set()
    save_checkpoint(tmp_path, plain, byte_tokenizer())
    assert torch.equal(load_model(tmp_path)(TOKENS), plain(TOKENS))


def test_under_autocast():
    """As a critic computes beside a policy in fp32; the changes still learn in fp32."""
    model = stirred(adapted(tiny_model().requires_grad_(False), 4))
    wide = model(TOKENS).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = model(TOKENS)
        narrow.float().square().mean().backward()
    assert (narrow.detach().float() - wide).norm() < 0.03 * wide.norm()
    slopes = [p.grad for p in trainable(model).parameters()]
    assert all(slope is not None and slope.dtype == torch.float32 and slope.any() for slope in slopes)


def test_three_models_cost_one_trunk_and_their_adapters():
    trunk, rank = tiny_model(), 4
    policy, critic = adapted(trunk, rank, seed=1), ValueModel(adapted(trunk, rank, seed=2))
    alive = {p.data_ptr(): p.numel() for m in (trunk, policy, critic) for p in m.parameters()}
    c = trunk.config
    wide = (c.heads + 2 * c.kv_heads) * c.head_dim
    d, inner, out = c.hidden_size, c.intermediate_size, c.heads * c.head_dim
    each = c.layers * rank * ((d + wide) + (out + d) + (d + 2 * inner) + (inner + d))
    assert sum(alive.values()) == c.parameters() + 2 * each + d + 1
    assert sum(p.numel() for p in trainable(policy).parameters()) == each
    assert sum(p.numel() for p in trainable(critic).parameters()) == each + d + 1
    assert trainable(trunk) is trunk


def test_only_the_changes_learn():
    trunk = tiny_model().requires_grad_(False)
    start = {name: value.clone() for name, value in trunk.state_dict().items()}
    model = adapted(trunk, 4)
    optimizer = torch.optim.SGD(trainable(model).parameters(), lr=1.0)
    before = logprobs(model, TOKENS[:, :-1], TOKENS[:, 1:]).mean()
    for _ in range(3):
        optimizer.zero_grad()
        (-logprobs(model, TOKENS[:, :-1], TOKENS[:, 1:]).mean()).backward()
        optimizer.step()
    assert logprobs(model, TOKENS[:, :-1], TOKENS[:, 1:]).mean() > before + 0.01
    assert all(torch.equal(start[name], value) for name, value in trunk.state_dict().items())
    assert all(p.grad is None for p in trunk.parameters())


@pytest.mark.parametrize("native", [True, False])
def test_the_engine_follows_the_changes(native):
    """What it draws it scores as the model does, before and after the adapters have moved."""
    model = adapted(tiny_model(scale=2.0), 4)
    engine = Engine(model, byte_tokenizer(), native=native)
    for seed in (0, 1, 2):
        (done,) = engine.generate([TOKENS[0].tolist()], Sampling(max_tokens=12, temperature=1.0, seed=seed))
        row = torch.tensor([[*TOKENS[0].tolist(), *done.tokens]])
        scored = logprobs(model, row[:, :-1], row[:, 1:])[0, -len(done.tokens) :]
        assert torch.allclose(scored, torch.tensor(done.logprobs), atol=1e-3)
        stirred(model, seed)
