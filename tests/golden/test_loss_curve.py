"""A golden loss curve: a change that should not change training does not.

To record a new one after a change that should: GOLDEN=write pytest tests/golden
"""

import os
from pathlib import Path

import pytest
import torch

from publius.model.transformer import Transformer
from publius.pipeline import testing_run
from publius.testing.fakes import tiny_config
from publius.training.batches import Example, PackedBatches
from publius.training.language import language_loss
from publius.training.loop import LoopConfig, train_loop
from publius.training.optimizer import OptimizerConfig

FOLDER = Path(__file__).parent


def curve(folder, dtype):
    g = torch.Generator().manual_seed(0)
    examples = []
    for _ in range(100):  # walks on a ring: the next number is one or two further
        steps = torch.randint(1, 3, (30,), generator=g).cumsum(0)
        examples.append(Example(((steps + int(torch.randint(0, 50, (1,), generator=g))) % 50).tolist()))
    batches = PackedBatches(examples, sequence_length=64, rows=4, seed=0)
    run = testing_run(folder)
    losses = []
    log = run.log
    run.log = lambda **line: (losses.append(line["loss"]), log(**line))[1]
    model = Transformer(tiny_config(), seed=0)
    config = LoopConfig(dtype=dtype, optimizer=OptimizerConfig(muon_lr=0.05, adamw_lr=0.02))
    train_loop(run, model, batches, language_loss, config, steps=60)
    return losses


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 0.02), ("bfloat16", 0.05)])
def test_loss_curve(tmp_path, dtype, tolerance):
    losses = curve(tmp_path, dtype)
    path = FOLDER / f"ring_{dtype}.txt"
    if os.environ.get("GOLDEN") == "write":
        path.write_text("".join(f"{loss:.4f}\n" for loss in losses))
    golden = [float(line) for line in path.read_text().split()]
    assert losses == pytest.approx(golden, abs=tolerance)
    assert losses[-1] < 1.7 < losses[0]
