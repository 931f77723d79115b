"""Token log-likelihoods against torch's own cross-entropy, values and gradients."""

import pytest
import torch
import torch.nn.functional as F

from publius.model import likelihood
from publius.model.likelihood import logprobs, token_nll, weighted_nll
from publius.testing.fakes import tiny_model


def case(dtype=torch.float64, n=7):
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(n, 5, generator=g, dtype=dtype).requires_grad_()
    weight = torch.randn(11, 5, generator=g, dtype=dtype).requires_grad_()
    return hidden, weight, torch.randint(0, 11, (n,), generator=g)


def test_values_are_cross_entropy():
    hidden, weight, targets = case()
    expected = F.cross_entropy(hidden @ weight.T, targets, reduction="none")
    torch.testing.assert_close(token_nll(hidden, weight, targets), expected)


@pytest.mark.parametrize("chunk", [None, 22])  # 22 elements: two rows of 11 at once
def test_gradients(monkeypatch, chunk):
    if chunk:
        monkeypatch.setattr(likelihood, "_CHUNK_ELEMENTS", chunk)
    hidden, weight, targets = case()
    assert torch.autograd.gradcheck(lambda h, w: token_nll(h, w, targets), (hidden, weight))


def test_bf16_gradient_is_close_to_fp32():
    hidden, weight, targets = case(torch.float32, n=600)
    token_nll(hidden, weight, targets).sum().backward()
    low_hidden, low_weight = (x.detach().bfloat16().requires_grad_() for x in (hidden, weight))
    nll = token_nll(low_hidden, low_weight, targets)
    nll.sum().backward()
    assert nll.dtype == torch.float32
    for low, high in ((low_hidden, hidden), (low_weight, weight)):
        assert torch.cosine_similarity(low.grad.float().flatten(), high.grad.flatten(), dim=0) > 0.999


def test_no_tokens_is_an_empty_sum_with_zero_gradient():
    hidden, weight, targets = case(n=0)
    token_nll(hidden, weight, targets).sum().backward()
    assert weight.grad.abs().sum() == 0


def test_logprobs_of_a_model_and_of_selected_places():
    model = tiny_model()
    tokens = torch.randint(0, 269, (2, 8), generator=torch.Generator().manual_seed(0))
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    expected = model(inputs).log_softmax(-1).gather(2, targets[..., None])[..., 0]
    torch.testing.assert_close(logprobs(model, inputs, targets), expected)
    select = torch.tensor([[0, 0, 1, 1, 0, 1, 0], [1, 0, 0, 0, 0, 0, 0]]).bool()
    picked = logprobs(model, inputs, targets, select_BT=select)
    torch.testing.assert_close(picked, expected * select)
    picked.sum().backward()
    assert model.model.norm.weight.grad is not None


WEIGHTS = torch.tensor([1.0, 0.5, 0.0, 2.0, 1.0, 1.0, 0.25], dtype=torch.float64)


@pytest.mark.parametrize("rows", [512, 3, 1])
def test_the_weighted_sum_and_its_gradients(monkeypatch, rows):
    monkeypatch.setattr(likelihood, "_LOSS_ROWS", rows)
    hidden, weight, targets = case()
    expected = (F.cross_entropy(hidden @ weight.T, targets, reduction="none") * WEIGHTS).sum()
    torch.testing.assert_close(weighted_nll(hidden, weight, targets, WEIGHTS), expected)
    assert torch.autograd.gradcheck(lambda h, w: 3 * weighted_nll(h, w, targets, WEIGHTS), (hidden, weight))
    frozen = weighted_nll(hidden, weight.detach(), targets, WEIGHTS)
    (grad,) = torch.autograd.grad(frozen, hidden)
    torch.testing.assert_close(grad, torch.autograd.grad(expected, hidden)[0])
    with torch.no_grad():
        torch.testing.assert_close(weighted_nll(hidden, weight, targets, WEIGHTS), expected.detach())


def test_the_weighted_sum_of_extreme_logits_is_finite():
    hidden = torch.tensor([[200.0], [-200.0]])
    weight = torch.tensor([[1.0], [-1.0]], requires_grad=True)
    total = weighted_nll(hidden, weight, torch.tensor([1, 1]), torch.ones(2))
    assert total.item() == pytest.approx(400.0)
    total.backward()
    assert torch.isfinite(weight.grad).all()


def test_weighted_gradients_in_bf16_over_many_chunks(monkeypatch):
    monkeypatch.setattr(likelihood, "_LOSS_ROWS", 16)
    hidden, weight, targets = case(torch.float32, n=600)
    weights = torch.rand(600, generator=torch.Generator().manual_seed(1))
    (F.cross_entropy(hidden @ weight.T, targets, reduction="none") * weights).sum().backward()
    low_hidden, low_weight = (x.detach().bfloat16().requires_grad_() for x in (hidden, weight))
    total = weighted_nll(low_hidden, low_weight, targets, weights)
    total.backward()
    assert total.dtype == torch.float32
    for low, high in ((low_hidden, hidden), (low_weight, weight)):
        assert torch.cosine_similarity(low.grad.float().flatten(), high.grad.flatten(), dim=0) > 0.999


def test_a_weighted_sum_of_nothing():
    hidden, weight, targets = case(n=0)
    total = weighted_nll(hidden, weight, targets, torch.zeros(0))
    total.backward()
    assert total.item() == 0 and weight.grad.abs().sum() == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_what_is_compiled_is_the_same(monkeypatch, dtype):
    hidden, weight, targets = case(dtype, n=40)
    weights = torch.linspace(0, 2, 40)
    plain = weighted_nll(hidden, weight, targets, weights)
    plain.backward()
    others = [x.detach().clone().requires_grad_() for x in (hidden, weight)]
    monkeypatch.setattr(likelihood, "_compiled_chunk", lambda: likelihood._whole_chunk)
    whole = weighted_nll(*others, targets, weights, compiled=True)
    whole.backward()
    torch.testing.assert_close(whole, plain)
    for other, mine in zip(others, (hidden, weight), strict=True):
        torch.testing.assert_close(other.grad, mine.grad)
