"""Law: a run killed with SIGKILL at random moments and continued ends bit-identical to an unbroken one."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from publius.model.checkpoint import save_checkpoint
from publius.testing.fakes import byte_tokenizer, tiny_model
from publius.tokenizer.shards import ShardsWriter

WORKER = Path(__file__).with_name("resume_worker.py")


def make_inputs(home):
    words = byte_tokenizer()
    words.save(home / "tokenizer")
    save_checkpoint(home / "base", tiny_model(max_position=64), words)
    rng = random.Random(0)
    vocabulary = ["".join(rng.choice("abcdeiou") for _ in range(rng.randint(3, 5))) for _ in range(200)]
    with ShardsWriter(home / "shards", words.vocab_size) as writer:
        for split, count in (("train", 60), ("val", 5)):
            for _ in range(count):
                text = " ".join(rng.choice(vocabulary) for _ in range(rng.randint(2, 20)))
                writer.write(split, [words.bos_id, *words.encode(text), words.end_id], len(text))


def train(home, folder, kills, stage, seed=0):
    """The weights, the logged losses, and the step reached at each kill."""
    command = [sys.executable, str(WORKER), str(home), str(folder), str(kills), str(seed), stage]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, env=environment, timeout=200, check=True
    )
    reached, files = done.stdout.split("\n")[:2]
    log = [json.loads(line) for line in (Path(files).parent / "metrics.jsonl").read_text().splitlines()]
    losses = [(line["step"], line["loss"]) for line in log if "loss" in line]
    return (Path(files) / "model.safetensors").read_bytes(), losses, json.loads(reached)


@pytest.mark.parametrize(
    ("stage", "kills", "places", "steps"), [("pretrain", 20, 4, 150), ("extend", 4, 1, 48)]
)
def test_killed_again_and_again_is_unbroken(tmp_path, stage, kills, places, steps):
    """The kills must have found it at `places` different steps at least."""
    make_inputs(tmp_path)
    weights, losses, _ = train(tmp_path, tmp_path / "unbroken", 0, stage)
    seed = random.Random().randrange(10**6)
    again, losses_again, reached = train(tmp_path, tmp_path / "broken", kills, stage, seed)
    assert len(reached) == kills, f"only {len(reached)} kills found it at work (seed {seed})"
    assert len({step for step in reached if step}) >= places, f"no way between kills: {reached} (seed {seed})"
    assert again == weights, f"killed at {reached} (seed {seed})"
    assert losses_again == losses and [step for step, _ in losses] == list(range(1, steps + 1))
