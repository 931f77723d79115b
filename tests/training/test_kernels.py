"""Which kernel a run takes, and what is refused before its first step."""

import importlib
import json

import pytest
import torch

from publius.core.config import canonical
from publius.core.errors import UserError
from publius.pipeline import testing_run
from publius.testing.fakes import tiny_config, tiny_model
from publius.training import kernels, loop
from publius.training.batches import Example, PackedBatches
from publius.training.kernels import attention_kernel
from publius.training.language import language_loss
from publius.training.loop import LoopConfig, train_loop

CUDA, BF16 = torch.device("cuda"), torch.bfloat16


@pytest.fixture
def card(monkeypatch):
    """What an H200 says of itself, and a Triton that works."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(kernels, "can_compile", lambda device: True)
    return monkeypatch


def shapes(head_dim):
    return [tiny_config(head_dim=head_dim)]


def test_auto_is_what_was_measured(card):
    for device in (CUDA, torch.device("cpu")):
        assert attention_kernel("auto", device, BF16, shapes(64), context=2) == "sdpa"
        assert attention_kernel("sdpa", device, BF16, shapes(64), context=2) == "sdpa"


def test_what_can_work_is_taken(card):
    for kernel in ("flex", "varlen"):
        for head_dim in (16, 64, 128, 256):
            assert attention_kernel(kernel, CUDA, BF16, shapes(head_dim)) == kernel
    assert attention_kernel("flex", CUDA, torch.float32, shapes(512)) == "flex"
    assert attention_kernel("varlen", CUDA, BF16, shapes(8)) == "varlen"


@pytest.mark.parametrize(
    ("kernel", "changes", "reason"),
    [
        ("flex", {"device": torch.device("cpu")}, "no gradient on cpu"),
        ("varlen", {"device": torch.device("cpu")}, "no gradient on cpu"),
        ("flex", {"context": 2}, "rows are shared by 2 ranks"),
        ("varlen", {"context": 2}, "rows are shared by 2 ranks"),
        ("flex", {"shapes": shapes(8)}, "16 dimensions or more, not 8"),
        ("varlen", {"shapes": shapes(20)}, "multiple of 8 dimensions up to 256, not 20"),
        ("varlen", {"shapes": shapes(512)}, "not 512"),
        ("varlen", {"dtype": torch.float32}, "bfloat16, not in torch.float32"),
    ],
)
def test_what_cannot_is_refused(card, kernel, changes, reason):
    asked = {"device": CUDA, "dtype": BF16, "shapes": shapes(64), "context": 1} | changes
    with pytest.raises(UserError, match=reason) as refused:
        attention_kernel(kernel, asked["device"], asked["dtype"], asked["shapes"], context=asked["context"])
    assert "auto" in refused.value.fix and refused.value.where == "attention"


def test_an_old_card_and_a_missing_triton(card):
    card.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(UserError, match="Ampere"):
        attention_kernel("varlen", CUDA, BF16, shapes(64))
    card.setattr(kernels, "can_compile", lambda device: False)
    with pytest.raises(UserError, match="Triton"):
        attention_kernel("flex", CUDA, BF16, shapes(64))


def test_a_run_says_so_before_its_first_step(tmp_path):
    batches = PackedBatches([Example([20, 21, 22])], sequence_length=8, rows=1, seed=0)
    config, model = LoopConfig(attention="flex", device="cpu"), tiny_model()
    with pytest.raises(UserError, match="attention=flex cannot be used"):
        train_loop(testing_run(tmp_path), model, batches, language_loss, config, steps=1)
    assert model.kernel == "sdpa"


@pytest.mark.parametrize("changes", [{}, {"recompute": "block"}, {"accumulation": 2}])
def test_a_run_with_flex_has_the_losses_of_one_without(tmp_path, monkeypatch, changes):
    """By FlexAttention's reference, which has the gradient on CPU that PyTorch refuses (`test_packed`)."""
    torch_flex = importlib.import_module("torch.nn.attention.flex_attention")
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *_: None)
    monkeypatch.setattr(torch_flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    g = torch.Generator().manual_seed(0)
    examples = [Example(torch.randint(13, 40, (int(n),), generator=g).tolist()) for n in range(3, 33)]
    found = {}
    for kernel in ("sdpa", "flex"):
        monkeypatch.setattr(loop, "attention_kernel", lambda *_, kernel=kernel, **__: kernel)
        batches = PackedBatches(examples, sequence_length=32, rows=3, seed=0)
        used = []

        def loss(module, batch, used=used):
            used.append(module.kernel)
            return language_loss(module, batch)

        run, model = testing_run(tmp_path / kernel), tiny_model(scale=1.0, sliding_window=20)
        config = LoopConfig(dtype="float32", **changes)
        train_loop(run, model, batches, loss, config, steps=6)
        assert set(used) == {kernel} and model.kernel == "sdpa"
        lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
        found[kernel] = [(line["loss"], line["grad_norm"]) for line in lines]
    for mine, truth in zip(found["flex"], found["sdpa"], strict=True):
        assert mine == pytest.approx(truth, rel=1e-3)  # Muon works in bf16: the last bit grows


def test_it_is_no_part_of_the_identity():
    assert canonical(LoopConfig(attention="flex")) == canonical(LoopConfig())
