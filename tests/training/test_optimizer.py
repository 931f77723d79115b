"""Muon, AdamW and the schedule against independent arithmetic."""

import pytest
import torch
from torch import nn

from publius.testing.fakes import tiny_model
from publius.training.optimizer import OptimizerConfig, build_optimizers, orthogonalise, schedule


def test_schedule_rises_stays_and_falls_to_zero():
    config = OptimizerConfig(warmup=4, decay_fraction=0.5)
    values = [schedule(step, 100, config) for step in range(100)]
    assert values[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert values[4:51] == [1.0] * 47
    assert values[75] == pytest.approx(0.5) and values[99] == pytest.approx(0.02)
    assert schedule(100, 100, config) == 0.0
    assert schedule(0, 5, config) == 1.0  # a tiny run does not spend itself warming up
    assert schedule(99, 100, OptimizerConfig(decay_fraction=0)) == 1.0


def test_orthogonalise_keeps_directions_and_evens_out_singular_values():
    g = torch.Generator().manual_seed(0)
    matrices = torch.randn(3, 16, 40, generator=g)
    out = orthogonalise(matrices, 5).float()
    for before, after in zip(matrices, out, strict=True):
        u, _, vh = torch.linalg.svd(before, full_matrices=False)
        values = torch.linalg.svdvals(after)
        assert values.min() > 0.5 and values.max() < 1.3
        assert torch.cosine_similarity((u @ vh).flatten(), after.flatten(), dim=0) > 0.97


def test_a_muon_step_by_hand():
    """Two shapes, one the other's transpose, share a stack; each moves as it would alone."""
    model = nn.ModuleDict(
        {"layers": nn.ModuleList([nn.Linear(8, 20, bias=False), nn.Linear(20, 8, bias=False)])}
    )
    config = OptimizerConfig(weight_decay=0.1, muon_lr=0.5)
    optimizers = build_optimizers(model, config)
    g = torch.Generator().manual_seed(0)
    params = [p.detach().clone() for p in model.parameters()]
    momenta = [torch.zeros_like(p) for p in params]
    for _ in range(2):
        for i, p in enumerate(model.parameters()):
            grad = torch.randn(p.shape, generator=g)
            p.grad = grad.clone()
            momenta[i] = 0.95 * momenta[i] + 0.05 * grad
            nesterov = 0.05 * grad + 0.95 * momenta[i]
            lying = nesterov.T if i == 0 else nesterov
            update = orthogonalise(lying[None], 5)[0].float()
            update = update.T if i == 0 else update
            params[i] = params[i] * (1 - 0.5 * 0.1) - 0.5 * (2.5**0.5 if i == 0 else 1.0) * update
        optimizers.step(1.0)
    for p, expected in zip(model.parameters(), params, strict=True):
        torch.testing.assert_close(p.detach(), expected, rtol=2e-2, atol=2e-2)


def test_adamw_step_is_torchs():
    model, twin = tiny_model(), tiny_model()
    config = OptimizerConfig(matrices=False, adamw_lr=0.01, weight_decay=0.0)
    optimizers = build_optimizers(model, config)
    theirs = torch.optim.AdamW(twin.parameters(), lr=0.005, betas=config.betas, eps=1e-10, weight_decay=0)
    for _ in range(3):
        for m in (model, twin):
            m.zero_grad()
            m(torch.arange(6)[None]).square().mean().backward()
        optimizers.step(0.5)
        theirs.step()
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_only_block_matrices_get_muon():
    optimizers = build_optimizers(tiny_model(tie_embeddings=False), OptimizerConfig())
    model_names = set(optimizers.rest)
    assert "lm_head.weight" in model_names and "model.embed_tokens.weight" in model_names
    assert not any(name.endswith("_proj.weight") for name in model_names)
    assert sum(value.shape[0] for value in optimizers.muon.momenta.values()) == 2 * 7


def test_state_round_trip_continues_exactly():
    def train(model, optimizers, steps, seed):
        g = torch.Generator().manual_seed(seed)
        for _ in range(steps):
            model.zero_grad()
            model(torch.randint(0, 269, (2, 5), generator=g)).square().mean().backward()
            optimizers.step(1.0)

    a, b = tiny_model(), tiny_model()
    first = build_optimizers(a, OptimizerConfig())
    assert not any(key.startswith("adamw") for key in first.tensors())
    train(a, first, 2, seed=0)
    b.load_state_dict(a.state_dict())
    second = build_optimizers(b, OptimizerConfig())
    second.restore({name: value.clone() for name, value in first.tensors().items()})
    train(a, first, 2, seed=1)
    train(b, second, 2, seed=1)
    for x, y in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(x, y)


def test_a_parameter_without_gradient_only_decays():
    model = nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(4, 4, bias=False)])})
    before = model["layers"][0].weight.detach().clone()
    build_optimizers(model, OptimizerConfig(muon_lr=0.5, weight_decay=0.1)).step(1.0)
    torch.testing.assert_close(model["layers"][0].weight.detach(), before * 0.95)
