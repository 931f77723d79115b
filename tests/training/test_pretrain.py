"""Pretraining as a stage."""

import math

import pytest
import torch
from pydantic import ValidationError

from publius.core.errors import UserError
from publius.model.config import preset
from publius.pipeline import testing_run
from publius.testing.fakes import byte_tokenizer, tiny_config
from publius.tokenizer.shards import Shards, ShardsWriter
from publius.tokenizer.tokenizer import TokenizerArtifact
from publius.training.pretrain import PretrainConfig, predict_pretrain, pretrain

TEXTS = [f"The {animal} is {colour}." for animal in ("cat", "dög", "owl") for colour in ("red", "blue")]


def inputs(folder, val=("The cat is blue.", "The owl sees the dög.")):
    words = byte_tokenizer()
    words.save(folder / "tokenizer")
    with ShardsWriter(folder / "shards", words.vocab_size) as writer:
        for split, texts in (("train", TEXTS * 5), ("val", val)):
            for text in texts:
                ids = [words.bos_id, *words.encode(text), words.end_id]
                writer.write(split, ids, len(text.encode()))
    return {"shards": Shards(folder / "shards"), "tokenizer": TokenizerArtifact(folder / "tokenizer")}


def config(**changes):
    fields = {"model": tiny_config(), "sequence_length": 48, "batch_tokens": 96, "dtype": "float32"}
    return PretrainConfig.model_validate(fields | changes)


def test_trains_measures_and_saves(tmp_path):
    given = inputs(tmp_path)
    run = testing_run(tmp_path / "run")
    checkpoint = pretrain(run, config(steps=30), **given)
    metrics = {name: m["value"] for name, m in run.metrics.items()}
    model = checkpoint.load()
    nll = count = size = 0
    for ids in given["shards"].documents("val"):
        tokens = torch.tensor(ids.astype(int))[None]
        with torch.no_grad():
            lp = model(tokens[:, :-1]).log_softmax(-1).gather(2, tokens[:, 1:, None])
        nll, count = nll - lp.sum().item(), count + lp.numel()
        size += len(checkpoint.tokenizer().decode(ids, skip_special=True).encode())
    assert metrics["val_loss"] == pytest.approx(nll / count, rel=1e-4)
    assert metrics["val_bpb"] == pytest.approx(nll / math.log(2) / size, rel=1e-4)
    assert metrics["val_bpb"] < 6 and metrics["parameters"] == tiny_config().parameters()
    assert run.flops == 30 * 96 * tiny_config().flops_per_token(48) and 0.5 < metrics["fill"] <= 1

    further = pretrain(
        testing_run(tmp_path / "more"), config(steps=1), **given, init=checkpoint
    )  # starts where the first ended
    first, second = checkpoint.load().head_weight, further.load().head_weight
    assert 0 < (first - second).abs().mean() < 0.01


def test_a_part_of_the_held_out_text_counts_its_own_bytes(tmp_path):
    given = inputs(tmp_path)
    whole = testing_run(tmp_path / "a")
    pretrain(whole, config(steps=1), **given)
    part = testing_run(tmp_path / "b")
    pretrain(part, config(steps=1, eval_tokens=3), **given)
    ratio = [r.metrics["val_bpb"]["value"] / r.metrics["val_loss"]["value"] for r in (whole, part)]
    assert ratio[1] == pytest.approx(17 / 16 / math.log(2))  # 16 bytes: 17 targets with the end
    assert ratio[0] == pytest.approx((17 + 23) / (16 + 22) / math.log(2))


def test_epochs_and_tokens_give_steps(tmp_path):
    given = inputs(tmp_path)
    run = testing_run(tmp_path / "a")
    pretrain(run, config(epochs=2), **given)
    per_epoch = run.tokens / 2 / 96
    total = sum(len(ids) - 1 for ids in given["shards"].documents("train"))
    assert math.floor(total / 96) <= per_epoch <= 1.6 * total / 96
    run = testing_run(tmp_path / "b")
    pretrain(run, config(tokens=700, accumulation=2), **given)
    assert run.tokens == 4 * 192


def test_without_held_out_text_there_is_no_such_metric(tmp_path):
    run = testing_run(tmp_path / "run")
    pretrain(run, config(steps=1), **inputs(tmp_path, val=()))
    assert "val_bpb" not in run.metrics


def test_same_seed_same_weights_and_a_preset(tmp_path):
    given = inputs(tmp_path)
    runs = [
        pretrain(testing_run(tmp_path / name), config(steps=2, model=None, seed=seed), **given)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    a, b, c = (checkpoint.load().head_weight for checkpoint in runs)
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert runs[0].config() == preset("haiku", "pocket", 269)


def test_mistakes_are_named(tmp_path):
    given = inputs(tmp_path)
    run = testing_run(tmp_path / "run")
    with pytest.raises(UserError, match="max_position"):
        pretrain(run, config(steps=1, sequence_length=600, batch_tokens=600), **given)
    with pytest.raises(UserError, match="vocab_size is 100"):
        pretrain(run, config(steps=1, model=tiny_config(vocab_size=100)), **given)
    small = pretrain(run, config(steps=1), **given)
    with ShardsWriter(tmp_path / "big", 5000) as writer:
        writer.write("train", [1, 4000, 2], 3)
    with pytest.raises(UserError, match="5000 token ids"):
        pretrain(
            testing_run(tmp_path / "run2"),
            config(steps=1),
            shards=Shards(tmp_path / "big"),
            tokenizer=given["tokenizer"],
            init=small,
        )
    with pytest.raises(ValidationError, match="exactly one"):
        config(tokens=100, epochs=2)
    assert config(steps=1, epochs=2).planned_tokens() == config(steps=1).planned_tokens(), "steps wins"
    with pytest.raises(ValidationError, match="less than one row"):
        config(steps=1, batch_tokens=10)


def test_prediction():
    assert predict_pretrain(config(steps=5)) == {
        "params": tiny_config().parameters(),
        "tokens": 5 * 96,
        "flops": 480 * tiny_config().flops_per_token(48),
    }
    assert predict_pretrain(config(epochs=1, model=None)) == {
        "params": preset("haiku", "pocket", 2048).parameters()
    }
