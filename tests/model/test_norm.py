"""RMSNorm against PyTorch's."""

import pytest
import torch
import torch.nn.functional as F

from publius.model.norm import RMSNorm


def pair(dtype, shape=(3, 5, 12)):
    g = torch.Generator().manual_seed(0)
    norm = RMSNorm(12, 1e-3).to(dtype)
    norm.weight.data = torch.randn(12, generator=g).to(dtype)
    return norm, torch.randn(shape, generator=g).to(dtype).requires_grad_()


def test_gradients_by_finite_differences():
    norm, x = pair(torch.float64)
    assert torch.autograd.gradcheck(
        lambda x, w: torch.func.functional_call(norm, {"weight": w}, (x,)), (x, norm.weight)
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_values_and_gradients_are_torchs(dtype, tolerance):
    norm, x = pair(dtype)
    exact = x.detach().double().requires_grad_()
    weight = norm.weight.detach().double().requires_grad_()
    theirs = F.rms_norm(exact, (12,), weight, 1e-3)
    ours = norm(x)
    before = x.detach().clone()
    theirs.square().sum().backward()
    ours.backward(2 * theirs.detach().to(dtype))
    assert ours.dtype == dtype and torch.equal(x.detach(), before)
    for mine, other in ((ours, theirs), (x.grad, exact.grad), (norm.weight.grad, weight.grad)):
        torch.testing.assert_close(mine.double(), other, rtol=tolerance, atol=tolerance)
