"""Distillation as a stage: the student comes nearer to the teacher, killed or not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from publius.core.errors import UserError
from publius.core.messages import Conversation, assistant, user
from publius.data.artifacts import Conversations, write_conversations
from publius.model.checkpoint import Checkpoint, save_checkpoint
from publius.pipeline import testing_run
from publius.testing import byte_tokenizer, tiny_model
from publius.tokenizer.bpe import TokenizerConfig, train_bpe
from publius.tokenizer.shards import Shards, ShardsWriter
from publius.training.distill import DistillConfig, distill
from publius.training.sft import SFTConfig, sft


def checkpoint(folder: Path, **shape: int) -> Checkpoint:
    save_checkpoint(folder, tiny_model(scale=1.0, **shape), byte_tokenizer())
    return Checkpoint(folder)


def chats(folder: Path, held_out: int = 2) -> Conversations:
    said = [Conversation(messages=(user(f"say {i}"), assistant("yes no yes"))) for i in range(20)]
    write_conversations(folder, train=said[held_out:], val=said[:held_out])
    return Conversations(folder)


def text(folder: Path) -> Shards:
    words = byte_tokenizer()
    with ShardsWriter(folder, words.vocab_size) as writer:
        for split in ("train", "val"):
            for i in range(12):
                said = f"the mill number {i} by the river"
                writer.write(split, [words.bos_id, *words.encode(said), words.end_id], len(said))
    return Shards(folder)


def config(**changes: object) -> DistillConfig:
    fields = {
        "sequence_length": 64, "batch_tokens": 128, "dtype": "float32", "steps": 30, "save_seconds": 0,
        "optimizer": {"adamw_lr": 0.02}, "device": "cpu",
    }  # fmt: skip
    return DistillConfig.model_validate(fields | changes)


@pytest.fixture
def teacher(tmp_path: Path) -> Checkpoint:
    """A wider model that has learned the answer."""
    wide = checkpoint(tmp_path / "wide", hidden_size=48)
    learning = SFTConfig(sequence_length=64, batch_tokens=128, dtype="float32", steps=60, device="cpu")
    return sft(testing_run(tmp_path / "t"), learning, base=wide, chats=[chats(tmp_path / "c")])


def test_the_student_comes_nearer_than_by_imitation(tmp_path: Path, teacher: Checkpoint) -> None:
    base, said = checkpoint(tmp_path / "base"), chats(tmp_path / "said")
    found: dict[str, dict[str, float]] = {}
    for name, share in (("taught", 1.0), ("told", 1e-9)):
        run = testing_run(tmp_path / name)
        made = distill(run, config(share=share), base=base, teacher=teacher, chats=[said])
        assert made.load().config == base.load().config
        found[name] = {key: value["value"] for key, value in run.metrics.items()}
    assert found["taught"]["val_kl_before"] == found["told"]["val_kl_before"] > 0.5
    assert found["taught"]["val_kl"] < 0.1 * found["taught"]["val_kl_before"]
    assert found["taught"]["val_kl"] < found["told"]["val_kl"]
    assert found["taught"]["conversations"] == 18 and found["taught"]["documents"] == 0


def test_of_itself_there_is_nothing_to_learn(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base")
    run = testing_run(tmp_path / "run")
    distill(run, config(share=1.0, steps=2), base=base, teacher=base, chats=[chats(tmp_path / "c")])
    losses = [
        json.loads(line).get("loss") for line in (run.folder / "metrics.jsonl").read_text().splitlines()
    ]
    # later ones are not: Muon makes a full step of a gradient that is nothing but rounding
    assert losses[0] == pytest.approx(0, abs=1e-5)
    assert run.metrics["val_kl_before"]["value"] == pytest.approx(0, abs=1e-5)


def test_text_is_read_too_or_alone(tmp_path: Path, teacher: Checkpoint) -> None:
    base, read = checkpoint(tmp_path / "base"), text(tmp_path / "text")
    run = testing_run(tmp_path / "a")
    distill(run, config(share=1.0), base=base, teacher=teacher, replay=read)
    assert run.metrics["documents"]["value"] == 12 and run.metrics["conversations"]["value"] == 0
    assert run.metrics["val_kl"]["value"] < run.metrics["val_kl_before"]["value"]
    run = testing_run(tmp_path / "b")
    mixed = config(replay=0.3, steps=2)
    distill(run, mixed, base=base, teacher=teacher, chats=[chats(tmp_path / "c", held_out=0)], replay=read)
    assert run.metrics["documents"]["value"] > 0 and run.metrics["conversations"]["value"] == 20
    assert "val_kl" not in run.metrics


class Killed(Exception):
    pass


def test_a_killed_run_ends_like_an_unbroken_one(
    tmp_path: Path, teacher: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"base": checkpoint(tmp_path / "base"), "teacher": teacher, "chats": [chats(tmp_path / "said")]}
    whole = distill(testing_run(tmp_path / "whole"), config(steps=6), **given)
    run = testing_run(tmp_path / "broken")
    log = run.log

    def dies(**numbers: object) -> None:
        if numbers.get("step") == 4:
            raise Killed
        log(**numbers)

    monkeypatch.setattr(run, "log", dies)
    with pytest.raises(Killed):
        distill(run, config(steps=6), **given)
    again = testing_run(tmp_path / "broken")
    assert again.has_state
    resumed = distill(again, config(steps=6), **given)
    one, two = load_file(whole.path / "model.safetensors"), load_file(resumed.path / "model.safetensors")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_bad_inputs(tmp_path: Path, teacher: Checkpoint) -> None:
    base, said = checkpoint(tmp_path / "base"), chats(tmp_path / "said")
    with pytest.raises(UserError, match="nothing to learn from"):
        distill(testing_run(tmp_path), config(), base=base, teacher=teacher)
    with pytest.raises(UserError, match="more than the model's max_position"):
        small = checkpoint(tmp_path / "short", max_position=32)
        distill(testing_run(tmp_path), config(), base=base, teacher=small, chats=[said])
    train_bpe(["aaaa aaaa"], TokenizerConfig(vocab_size=270)).save(teacher.path)
    with pytest.raises(UserError, match="different tokenizers"):
        distill(testing_run(tmp_path), config(), base=base, teacher=teacher, chats=[said])


def test_models_of_one_tokenizer_may_be_padded_to_different_sizes(tmp_path: Path) -> None:
    small, large = tiny_model(scale=1.0), tiny_model(scale=1.0, vocab_size=320)
    with torch.no_grad():
        for mine, theirs in zip(small.parameters(), large.parameters(), strict=True):
            theirs[: len(mine)] = mine
    for name, model in (("small", small), ("large", large)):
        save_checkpoint(tmp_path / name, model, byte_tokenizer())
    ends = [Checkpoint(tmp_path / name) for name in ("small", "large")]
    for student, teacher in (ends, ends[::-1]):
        run = testing_run(tmp_path / student.path.name)
        distill(run, config(steps=2), base=student, teacher=teacher, chats=[chats(tmp_path / "c")])
        assert run.metrics["val_kl_before"]["value"] == pytest.approx(0, abs=1e-6)
