"""One pretraining stage in a process of its own, for the test to kill. Arguments: HOME FOLDER PACE."""

import sys
import time
from pathlib import Path

from publius.pipeline import testing_run
from publius.testing.fakes import tiny_config
from publius.tokenizer.shards import Shards
from publius.tokenizer.tokenizer import TokenizerArtifact
from publius.training import loop
from publius.training.pretrain import PretrainConfig, pretrain


def main() -> None:
    home, folder, pace = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
    config = PretrainConfig(
        model=tiny_config(),
        steps=24,
        sequence_length=48,
        batch_tokens=96,
        accumulation=2,
        save_every=3,
        dtype="bfloat16",
        threads=1,
    )
    run = testing_run(folder)
    step = loop._step

    def slow(*args):
        line = step(*args)
        print(line["step"], flush=True)
        time.sleep(pace)
        return line

    loop._step = slow
    shards, tokenizer = Shards(home / "shards"), TokenizerArtifact(home / "tokenizer")
    checkpoint = pretrain(run, config, shards=shards, tokenizer=tokenizer)
    print(checkpoint.path, flush=True)


main()
