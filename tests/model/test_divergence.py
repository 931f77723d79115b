"""The distillation loss against plain autograd on whole logits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from publius.model import divergence as module
from publius.model.divergence import distillation_loss, divergence
from publius.model.likelihood import weighted_nll


def drawn(tokens: int, seed: int) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        "hidden_ND": torch.randn(tokens, 8, generator=g, dtype=torch.float64),
        "weight_VD": torch.randn(21, 8, generator=g, dtype=torch.float64),
        "teacher_NE": torch.randn(tokens, 12, generator=g, dtype=torch.float64),
        "teacher_VE": torch.randn(21, 12, generator=g, dtype=torch.float64),
        "targets_N": torch.randint(0, 21, (tokens,), generator=g),
        "weights_N": torch.rand(tokens, generator=g, dtype=torch.float64),
    }


def by_hand(x: dict[str, Tensor], share: float, temperature: float) -> Tensor:
    said, taught = x["hidden_ND"] @ x["weight_VD"].T, x["teacher_NE"] @ x["teacher_VE"].T
    nll = F.cross_entropy(said, x["targets_N"], reduction="none")
    kl = F.kl_div(
        (said / temperature).log_softmax(-1), (taught / temperature).log_softmax(-1),
        log_target=True, reduction="none",
    ).sum(-1)  # fmt: skip
    return ((share * temperature**2 * kl + (1 - share) * nll) * x["weights_N"]).sum()


@settings(max_examples=25)
@given(st.integers(1, 40), st.floats(0.05, 1.0), st.floats(0.3, 5.0), st.integers(1, 50), st.integers(0, 99))
def test_loss_and_gradients_are_those_of_whole_logits(
    tokens: int, share: float, temperature: float, chunk: int, seed: int
) -> None:
    ours, theirs = drawn(tokens, seed), drawn(tokens, seed)
    for x in (ours, theirs):
        x["hidden_ND"].requires_grad_(True)
        x["weight_VD"].requires_grad_(True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_ROWS", chunk)
        loss = distillation_loss(**ours, share=share, temperature=temperature)
    wanted = by_hand(theirs, share, temperature)
    assert torch.allclose(loss, wanted)
    (3 * loss).backward()
    (3 * wanted).backward()
    for name in ("hidden_ND", "weight_VD"):
        assert torch.allclose(ours[name].grad, theirs[name].grad, atol=1e-9), name  # pyright: ignore
    assert ours["teacher_NE"].grad is None and ours["teacher_VE"].grad is None


def test_a_model_is_no_way_from_itself() -> None:
    x = drawn(30, 1)
    same = divergence(x["hidden_ND"], x["weight_VD"], x["hidden_ND"], x["weight_VD"], x["weights_N"])
    assert float(same.kl) == pytest.approx(0, abs=1e-5)
    far = divergence(x["hidden_ND"], x["weight_VD"], x["teacher_NE"], x["teacher_VE"], x["weights_N"])
    assert float(far.kl) > 1 and float(far.weight) == pytest.approx(float(x["weights_N"].sum()), rel=1e-6)
    assert float(far.kl) == pytest.approx(float(by_hand(x, 1.0, 1.0)), rel=1e-5)


def test_only_one_chunk_of_logits_is_alive() -> None:
    """No tensor over the vocabulary outlives its chunk: backward keeps the two gradients alone."""
    x = drawn(600, 2)
    x["hidden_ND"].requires_grad_(True)
    kept: list[torch.Size] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        distillation_loss(**x)
    assert kept == [x["hidden_ND"].shape]


def test_half_precision_is_near(recwarn: pytest.WarningsRecorder) -> None:
    x = drawn(50, 3)
    low = {name: t if name == "targets_N" else t.to(torch.bfloat16) for name, t in x.items()}
    for each in (x, low):
        each["hidden_ND"].requires_grad_(True)
    one, two = distillation_loss(**x), distillation_loss(**low)
    assert two.dtype == torch.float32 and float(two) == pytest.approx(float(one), rel=0.03)
    two.backward()
    assert low["hidden_ND"].grad is not None and low["hidden_ND"].grad.dtype == torch.bfloat16


def test_no_share_would_be_plain_likelihood() -> None:
    x = drawn(20, 4)
    plain = weighted_nll(x["hidden_ND"], x["weight_VD"], x["targets_N"], x["weights_N"])
    assert torch.allclose(distillation_loss(**x, share=1e-12), plain)
