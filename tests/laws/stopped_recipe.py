"""Two small trainings for `test_stop`, alone (`one`) or side by side in workers (`two`)."""

from __future__ import annotations

import time
from pathlib import Path

from safetensors.torch import save_file

from publius.core.config import execution
from publius.pipeline import Artifact, Recipe, Run, stage
from publius.testing.fakes import tiny_model
from publius.training.batches import Example, PackedBatches
from publius.training.language import language_loss
from publius.training.loop import LoopConfig, train_loop

STEPS = 80


class Weights(Artifact):
    def bytes(self) -> bytes:
        return self.file("weights.safetensors").read_bytes()


class SlowConfig(LoopConfig):
    pace: float = execution(0.0)
    """Seconds each step takes longer."""
    marks: str = execution("")
    """A folder to count steps in."""


@stage(version=1)
def train(run: Run, config: SlowConfig) -> Weights:
    model = tiny_model(config.seed, scale=1.0)
    examples = [Example([20 + (i * k) % 50 for k in range(12)]) for i in range(40)]
    batches = PackedBatches(examples, sequence_length=32, rows=2, seed=0)

    def loss(module, batch):
        time.sleep(config.pace)
        if config.marks:
            with (Path(config.marks) / str(config.seed)).open("a") as file:
                file.write(".")
        return language_loss(module, batch)

    train_loop(run, model, batches, loss, config, steps=STEPS)
    save_file(
        {name: p.detach().clone() for name, p in model.named_parameters()}, run.output / "weights.safetensors"
    )
    return Weights(run.output)


def one(pace: float = 0.0, marks: str = "") -> Recipe:
    recipe = Recipe("stopped")
    recipe.stage("a", train, SlowConfig(dtype="bfloat16", pace=pace, marks=marks, seed=1))
    return recipe


def two(pace: float = 0.0, marks: str = "") -> Recipe:
    recipe = one(pace, marks)
    recipe.stage("b", train, SlowConfig(dtype="bfloat16", pace=pace, marks=marks, seed=2))
    return recipe
