"""A small training that several processes do together, for `test_distributed`."""

from __future__ import annotations

import os
import time
from pathlib import Path

from safetensors.torch import save_file

from publius.core.config import execution
from publius.pipeline import Artifact, Recipe, Run, stage
from publius.testing.fakes import tiny_model
from publius.training.batches import Example, PackedBatches
from publius.training.language import language_loss
from publius.training.loop import LoopConfig, train_loop

STEPS = 60


class SlowConfig(LoopConfig):
    pace: float = execution(0.0)
    """Seconds each step takes longer."""
    marks: str = execution("")
    """A folder for the ranks' process numbers."""


@stage(version=1, parallel=True)
def train(run: Run, config: SlowConfig) -> Artifact:
    model = tiny_model(config.seed, scale=1.0)
    examples = [Example([20 + (i * k) % 50 for k in range(12)]) for i in range(40)]
    batches = PackedBatches(examples, sequence_length=32, rows=2, seed=0)
    if config.marks:
        (Path(config.marks) / os.environ.get("RANK", "0")).write_text(str(os.getpid()))

    def loss(module, batch):
        time.sleep(config.pace)
        return language_loss(module, batch)

    train_loop(run, model, batches, loss, config, steps=STEPS)
    run.lead()
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    save_file(weights, run.output / "weights.safetensors")
    return Artifact(run.output)


def one(pace: float = 0.0, marks: str = "") -> Recipe:
    recipe = Recipe("together")
    config = SlowConfig(dtype="float32", pace=pace, marks=marks, save_every=3, save_seconds=1000)
    recipe.stage("a", train, config)
    return recipe
