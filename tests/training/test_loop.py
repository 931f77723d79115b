"""The loop: exact accumulation, clipping, guard, resume, log."""

import gc
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
from publius.training.twin import Twin


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


class Bad(torch.autograd.Function):
    """A finite loss whose gradient is not."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, *grads):
        return grads[0] * float("inf")


def pokes(*, jump=(), bad=()):
    """The language loss, but at these calls (from 1) a loss 20 nats higher, or a gradient of infinity."""
    calls = [0]

    def loss(module, batch):
        calls[0] += 1
        part = language_loss(module, batch)
        total = part.total + 20.0 * part.denominator if calls[0] in jump else part.total
        return part._replace(total=Bad.apply(total) if calls[0] in bad else total)

    return loss


def test_skipped_steps_leave_no_trace_and_say_which_batch(tmp_path):
    """Flat schedule; 122 steps of which the 105th jumps and the 110th has no gradient must end where 120
    steps without those two batches end."""
    optimizer = OptimizerConfig(muon_lr=0.001, adamw_lr=0.001, warmup=0, decay_fraction=0)
    config = LoopConfig(dtype="float32", optimizer=optimizer)
    run, skipping = testing_run(tmp_path / "a"), tiny_model(scale=1.0)
    loss = pokes(jump=[105], bad=[110])
    result = train_loop(run, skipping, text_batches(), loss, config, steps=122)
    assert result.skipped == 2

    class Without:
        def __init__(self):
            self.inner, self.drawn = text_batches(), 0

        def next(self):
            self.drawn += 1
            batch = self.inner.next()
            return self.next() if self.drawn in (105, 110) else batch

        def state(self):
            return self.inner.state()

    plain = tiny_model(scale=1.0)
    train_loop(testing_run(tmp_path / "b"), plain, Without(), language_loss, config, steps=120)
    for name, value in plain.state_dict().items():
        assert torch.equal(skipping.state_dict()[name], value), name

    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    skipped = [line for line in lines if "skipped" in line]
    assert [line["step"] for line in skipped] == [105, 110]
    assert "jumped" in skipped[0]["skipped"] and skipped[0]["loss"] > 20
    assert skipped[1]["skipped"] == "the gradient is not finite" and skipped[1]["grad_norm"] is None
    again = text_batches()
    again.restore({"epoch": skipped[0]["batch_epoch"], "row": skipped[0]["batch_row"]})
    fresh = text_batches()
    for _ in range(104):
        fresh.next()
    assert torch.equal(again.next().tokens_BT, fresh.next().tokens_BT)


class Killed(BaseException):
    """Stands for kill -9."""


@pytest.mark.parametrize("die_at", [7, 112])
def test_resume_is_bit_identical_and_logs_each_step_once(tmp_path, die_at):
    """Bad steps are skipped alike: the guard's mean and its count of three in a row are saved too."""
    steps, jump = (9, ()) if die_at == 7 else (115, (105, 111, 113, 114))
    settings = {"dtype": "bfloat16", "save_every": 2, "save_seconds": 1000}

    def start(folder, model, loss):
        run = testing_run(folder)
        config = LoopConfig.model_validate(settings)
        result = train_loop(run, model, text_batches(), loss, config, steps=steps)
        lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
        return result, [(x["step"], x["loss"], x.get("skipped")) for x in lines], run

    straight = tiny_model(scale=1.0)
    expected, lines, _ = start(tmp_path / "straight", straight, pokes(jump=jump))
    assert expected.skipped == len(jump)
    calls, poked = [0], pokes(jump=jump)

    def dying(module, batch):
        calls[0] += 1
        if calls[0] == die_at:
            raise Killed
        return poked(module, batch)

    with pytest.raises(Killed):
        start(tmp_path / "broken", tiny_model(scale=1.0), dying)
    torch.manual_seed(99)
    saved_at = (die_at - 1) // 2 * 2
    resumed = tiny_model(5)
    rest = pokes(jump=[step - saved_at for step in jump])
    result, again, run = start(tmp_path / "broken", resumed, rest)
    for name, value in straight.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    assert again == lines and result.skipped == expected.skipped and result.loss == expected.loss
    assert result.tokens == run.tokens == steps * 64


def test_recomputed_activations_give_the_same_gradients(tmp_path):
    for dtype in ("float32", "bfloat16"):
        kept, _, lines, _ = train(tmp_path / dtype / "a", 5, dtype=dtype)
        again, _, lines_again, _ = train(tmp_path / dtype / "b", 5, dtype=dtype, recompute="block")
        assert [(x["loss"], x["grad_norm"]) for x in lines] == [
            (x["loss"], x["grad_norm"]) for x in lines_again
        ]
        for name, value in kept.state_dict().items():
            assert torch.equal(again.state_dict()[name], value), name


def test_recomputing_keeps_less(tmp_path):
    def kept(recompute):
        model = tiny_model(layers=6)
        twin = Twin(model, torch.float32, recompute=recompute)
        sizes = []
        pack = lambda x: (sizes.append(x.numel()), x)[1]  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            language_loss(twin.module, text_batches().next())
        twin.close()
        assert not any("forward" in vars(block) for block in model.model.layers)
        return sum(sizes)

    assert kept(True) < 0.5 * kept(False)


def test_the_garbage_collector_rests_and_is_put_back(tmp_path):
    seen = []
    gc.unfreeze()  # some other test's library may have frozen it for good

    def loss(module, batch):
        seen.append((gc.isenabled(), gc.get_freeze_count() > 0))
        return language_loss(module, batch)

    train_loop(
        testing_run(tmp_path), tiny_model(), text_batches(), loss, LoopConfig(dtype="float32"), steps=2
    )
    assert seen == [(False, True)] * 2 and gc.isenabled() and gc.get_freeze_count() == 0


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
