"""One training stage in a process of its own, for the test to kill. Arguments: HOME FOLDER PACE STAGE."""

import sys
import time
from pathlib import Path

from publius.model.checkpoint import Checkpoint
from publius.pipeline import testing_run
from publius.testing.fakes import tiny_config
from publius.tokenizer.shards import Shards
from publius.tokenizer.tokenizer import TokenizerArtifact
from publius.training import loop
from publius.training.extend import ExtendConfig, extend
from publius.training.pretrain import PretrainConfig, pretrain

USUAL = {"accumulation": 2, "save_every": 3, "dtype": "bfloat16", "threads": 1}


def pretraining(run, home, shards):
    config = PretrainConfig(model=tiny_config(), steps=24, sequence_length=48, batch_tokens=96, **USUAL)
    return pretrain(run, config, shards=shards, tokenizer=TokenizerArtifact(home / "tokenizer"))


def extension(run, home, shards):
    """Eight steps on each of three lengths."""
    phases = [{"length": length, "tokens": 16 * 512} for length in (128, 256, 512)]
    config = ExtendConfig(length=512, phases=phases, batch_tokens=512, eval_rows=1, **USUAL)
    return extend(run, config, base=Checkpoint(home / "base"), shards=shards)


STAGES = {"pretrain": pretraining, "extend": extension}


def main() -> None:
    home, folder, pace = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
    run = testing_run(folder)
    step = loop._step

    def slow(*args):
        line = step(*args)
        print(line["step"], flush=True)
        time.sleep(pace)
        return line

    loop._step = slow
    checkpoint = STAGES[sys.argv[4]](run, home, Shards(home / "shards"))
    print(checkpoint.path, flush=True)


main()
