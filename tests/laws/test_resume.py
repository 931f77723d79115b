"""Law: a run killed with SIGKILL at a random moment and continued ends bit-identical to an unbroken one."""

import json
import os
import random
import signal
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


def start(home, folder, pace, stage):
    command = [sys.executable, str(WORKER), str(home), str(folder), str(pace), stage]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def finish(process):
    words = process.communicate(timeout=120)[0].split("\n")
    assert process.returncode == 0
    files = Path(words[-2])
    log = [json.loads(line) for line in (files.parent / "metrics.jsonl").read_text().splitlines()]
    return (files / "model.safetensors").read_bytes(), [line["loss"] for line in log if "loss" in line], words


@pytest.mark.parametrize("stage", ["pretrain", "extend"])
def test_killed_twice_is_unbroken(tmp_path, stage):
    make_inputs(tmp_path)
    unbroken = start(tmp_path, tmp_path / "unbroken", 0.0, stage)
    rng = random.Random()
    kills = sorted(rng.sample(range(4, 22), 2))
    for kill_at in kills:
        process = start(tmp_path, tmp_path / "broken", 0.05, stage)
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= kill_at:
                break
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    weights, losses, _ = finish(unbroken)
    again, losses_again, words = finish(start(tmp_path, tmp_path / "broken", 0.0, stage))
    assert int(words[0]) > 1, "it began anew instead of resuming"
    assert again == weights, f"killed at {kills}"
    assert losses_again == losses and len(losses) == 24
