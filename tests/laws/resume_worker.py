"""One training stage, killed again and again. Arguments: HOME FOLDER KILLS SEED STAGE.

Every attempt is a fork of this process, which has all imports done and has computed nothing, so an
attempt starts in milliseconds. Prints, as JSON, the steps each killed attempt logged, then the output folder.
"""

import contextlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # what the first optimizer step would import, a second long

from publius.model.checkpoint import Checkpoint
from publius.pipeline import Run
from publius.testing.fakes import tiny_config
from publius.tokenizer.shards import Shards
from publius.tokenizer.tokenizer import TokenizerArtifact
from publius.training.extend import ExtendConfig, extend
from publius.training.pretrain import PretrainConfig, pretrain

USUAL = {"accumulation": 2, "save_every": 3, "dtype": "bfloat16", "threads": 1}


class Ticking(Run):
    """Writes a byte to `pipe` at each line of the log."""

    pipe = -1

    def log(self, **numbers: Any) -> None:
        super().log(**numbers)
        os.write(self.pipe, b".")


def pretraining(run: Run, home: Path, shards: Shards) -> None:
    config = PretrainConfig(
        model=tiny_config(), steps=150, sequence_length=48, batch_tokens=96, eval_every=40, **USUAL
    )
    pretrain(run, config, shards=shards, tokenizer=TokenizerArtifact(home / "tokenizer"))


def extension(run: Run, home: Path, shards: Shards) -> None:
    """Sixteen steps on each of three lengths."""
    phases = [{"length": length, "tokens": 32 * 512} for length in (128, 256, 512)]
    config = ExtendConfig(length=512, phases=phases, batch_tokens=512, eval_rows=1, **USUAL)
    extend(run, config, base=Checkpoint(home / "base"), shards=shards)


STAGES = {"pretrain": pretraining, "extend": extension}


def logged(folder: Path) -> list[int]:
    """The steps in the log; a kill may have torn the last line."""
    steps = []
    for path in folder.glob("metrics.jsonl"):
        for line in path.read_text().splitlines():
            with contextlib.suppress(ValueError):
                steps.append(json.loads(line)["step"])
    return steps


def main() -> None:
    home, folder, kills = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    rng, stage = random.Random(sys.argv[4]), STAGES[sys.argv[5]]
    torch.set_num_threads(1)
    reached: list[int] = []
    while True:
        out, Ticking.pipe = os.pipe()
        child = os.fork()
        if child == 0:
            stage(Ticking(folder), home, Shards(home / "shards"))
            os._exit(0)
        os.close(Ticking.pipe)
        if len(reached) < kills:
            # one of them at least after a step: all four before any is chance, one in a thousand
            for _ in range(rng.choice([0, 1, 2, 4, 8, 12] if reached else [1, 2, 4, 8, 12])):
                os.read(out, 1)
            time.sleep(rng.uniform(0.0, 0.03))  # somewhere in a step, a save, or the start
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        os.close(out)
        if not os.WIFSIGNALED(status):
            assert status == 0
            break
        reached.append(max(logged(folder), default=0))
    print(json.dumps(reached))
    print(folder / "files")


main()
