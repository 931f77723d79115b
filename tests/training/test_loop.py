"""The loop: exact accumulation, clipping, guard, resume, log."""

import json
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from publius.core.errors import UserError
from publius.pipeline import testing_run
from publius.testing.fakes import tiny_model
from publius.training.batches import Example, PackedBatches, ShuffledBatches
from publius.training.language import language_loss
from publius.training.loop import LoopConfig, LossSum, to_device, train_loop
from publius.training.optimizer import OptimizerConfig


def text_batches(rows=2, seed=0):
    g = torch.Generator().manual_seed(0)
    examples = [Example(torch.randint(13, 40, (12,), generator=g).tolist()) for _ in range(40)]
    return PackedBatches(examples, sequence_length=32, rows=rows, seed=seed)


def train(folder, steps=6, model=None, batches=None, **changes):
    model = model or tiny_model(scale=1.0)
    config = LoopConfig.model_validate({"dtype": "float32"} | changes)
    run = testing_run(folder)
    result = train_loop(run, model, batches or text_batches(), language_loss, config, steps=steps)
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    return model, result, lines, run


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loss_falls_and_everything_is_logged(tmp_path, dtype):
    model, result, lines, run = train(tmp_path, 30, dtype=dtype)
    assert lines[0]["loss"] > 5.0 and lines[-1]["loss"] < 4.0
    assert [line["step"] for line in lines] == list(range(1, 31))
    assert set(lines[0]) >= {"loss", "lr", "grad_norm", "tokens_per_second"}
    assert result.tokens == run.tokens == 30 * 64 and result.steps == 30 and result.skipped == 0
    assert result.loss == pytest.approx(sum(line["loss"] for line in lines[-20:]) / 20)
    assert model.dtype == torch.float32 and not model.training and model.head_weight.grad is None


def test_accumulated_small_batches_are_one_large_one(tmp_path):
    """Packed rows weigh by their tokens, not by their batch: the last row of the epoch is nearly empty."""
    a, _, la, _ = train(tmp_path / "a", 7, batches=text_batches(rows=4))
    b, _, lb, _ = train(tmp_path / "b", 7, batches=text_batches(rows=2), accumulation=2)
    assert [x["loss"] for x in la] == pytest.approx([x["loss"] for x in lb], rel=1e-4)
    torch.testing.assert_close(a.head_weight, b.head_weight, rtol=1e-2, atol=1e-3)


class Numbers(NamedTuple):
    values: Tensor


def numbers(*values):
    """A source whose batches are these numbers, one each."""
    stream = iter(values)
    return ShuffledBatches([0], lambda _: Numbers(torch.tensor([next(stream)])), rows=1, seed=0)


class Slope(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


def slope_loss(model, batch):
    return LossSum((model.weight * batch.values).sum(), torch.tensor(1.0), 1)


def test_gradient_is_clipped(tmp_path):
    """Gradients 8 (clipped to 2), then 1, through AdamW with betas (0, 1/2): v = 4/2 / (1/2), then
    (4/4 + 1/2) / (3/4) = 2, so the steps are 2 / sqrt(4) and 1 / sqrt(2)."""
    model = Slope()
    optimizer = OptimizerConfig(adamw_lr=1.0, warmup=0, decay_fraction=0, betas=(0.0, 0.5), weight_decay=0)
    run = testing_run(tmp_path)
    config = LoopConfig(optimizer=optimizer, grad_clip=2.0, dtype="float32")
    train_loop(run, model, numbers(8.0, 1.0), slope_loss, config, steps=2)
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["grad_norm"] for line in lines] == [8.0, 1.0]
    assert model.weight.item() == pytest.approx(-1.0 - 2**-0.5)


def test_a_bad_step_is_skipped_and_three_in_a_row_stop(tmp_path):
    nan = float("nan")
    model = Slope()
    config = LoopConfig(dtype="float32")
    result = train_loop(
        testing_run(tmp_path), model, numbers(nan, nan, 1.0, nan), slope_loss, config, steps=4
    )
    assert result.skipped == 3 and torch.isfinite(model.weight).all() and model.weight.item() != 0
    with pytest.raises(UserError, match="3 steps in a row"):
        train_loop(testing_run(tmp_path), Slope(), numbers(1.0, nan, nan, nan), slope_loss, config, steps=9)


class Killed(BaseException):
    """Stands for kill -9."""


def test_resume_is_bit_identical_and_logs_each_step_once(tmp_path):
    straight, _, lines, _ = train(tmp_path / "straight", 9, dtype="bfloat16")

    class Dying(PackedBatches):
        left = 7

        def next(self):
            self.left -= 1
            if self.left == 0:
                raise Killed
            return super().next()

    dying = Dying(text_batches().examples, sequence_length=32, rows=2, seed=0)
    with pytest.raises(Killed):
        train(tmp_path / "broken", 9, batches=dying, dtype="bfloat16", save_every=2, save_seconds=1000)
    torch.manual_seed(99)
    resumed, result, again, run = train(
        tmp_path / "broken", 9, model=tiny_model(5), dtype="bfloat16", save_every=2, save_seconds=1000
    )
    for name, value in straight.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    assert [x["loss"] for x in again] == [x["loss"] for x in lines]
    assert result.tokens == run.tokens == 9 * 64


def test_evaluation_runs_on_time_in_eval_mode(tmp_path):
    model, calls = tiny_model(), []

    def evaluate():
        calls.append((model.training, torch.is_grad_enabled()))
        return {"val_loss": float(len(calls))}

    run = testing_run(tmp_path)
    config = LoopConfig(eval_every=2, dtype="float32", threads=1)
    result = train_loop(run, model, text_batches(), language_loss, config, steps=5, evaluate=evaluate)
    assert calls == [(False, False)] * 3 and result.evaluation == {"val_loss": 3.0}
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [(x["step"], x["val_loss"]) for x in lines if "val_loss" in x] == [(2, 1.0), (4, 2.0), (5, 3.0)]


def test_flops_are_counted(tmp_path):
    run = testing_run(tmp_path)
    train_loop(
        run, Slope(), numbers(1.0, 1.0), slope_loss, LoopConfig(dtype="float32"), steps=2, flops_per_token=7.0
    )
    assert run.flops == 14.0


def test_batches_move_to_the_device():
    batch = Numbers(torch.zeros(2))
    assert to_device(batch, torch.device("cpu")) is batch
    assert to_device(batch, torch.device("meta")).values.device.type == "meta"
