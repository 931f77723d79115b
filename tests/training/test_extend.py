"""Extension as a stage: rescaled positions, growing rows, and a checkpoint that others load."""

import json
import math

import numpy as np
import pytest
import torch
import transformers
from pydantic import ValidationError

from publius.core.errors import UserError
from publius.model.checkpoint import Checkpoint, save_checkpoint
from publius.model.rope import YarnRope
from publius.pipeline import testing_run
from publius.testing.fakes import byte_tokenizer, tiny_config, tiny_model
from publius.tokenizer.shards import Shards, ShardsWriter
from publius.training.extend import (
    ExtendConfig,
    Phase,
    curriculum,
    extend,
    hiding_of,
    planned,
    predict_extend,
    rescaled,
)
from publius.training.needles import Lexicon
from tests.training.test_needles import made_up

METHODS = ("theta", "linear", "dynamic", "yarn", "llama3")
WORDS = byte_tokenizer()


def write_shards(folder, val=3):
    vocabulary = made_up(200)
    text = " ".join(vocabulary)
    with ShardsWriter(folder, WORDS.vocab_size) as writer:
        for split, count in (("train", 4), ("val", val)):
            for i in range(count):
                writer.write(split, [WORDS.bos_id, *WORDS.encode(text[i:]), WORDS.end_id], len(text) - i)
    return Shards(folder)


def inputs(folder, **changes):
    save_checkpoint(folder / "base", tiny_model(max_position=32, **changes), WORDS)
    return {"base": Checkpoint(folder / "base"), "shards": write_shards(folder / "shards")}


def config(**changes):
    fields = {"length": 256, "tokens": 1024, "batch_tokens": 256, "dtype": "float32", "eval_rows": 2}
    return ExtendConfig.model_validate(fields | changes)


@pytest.mark.parametrize("method", METHODS)
def test_transformers_loads_what_is_exported_with_the_same_logits(tmp_path, method):
    made = extend(testing_run(tmp_path / "run"), config(method=method, tokens=256), **inputs(tmp_path))
    model, loaded = made.load(), transformers.AutoModelForCausalLM.from_pretrained(made.path)
    loaded.eval()
    said = json.loads((made.path / "config.json").read_text())
    assert said["max_position_embeddings"] == (32 if method == "dynamic" else 256)
    tokens = torch.randint(13, 269, (2, 256), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs = model(tokens), loaded(tokens).logits
    assert (ours - theirs).abs().max() < 1e-3
    plain = tiny_model(max_position=256)
    plain.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert (plain(tokens) - ours).abs().max() > 0.01  # the rescaling is no decoration


def test_rescaling_by_hand():
    base = tiny_config(max_position=32, rope_theta=10_000.0)  # head_dim 8
    assert rescaled(base, config()).rope_theta == pytest.approx(10_000 * 8 ** (8 / 6))
    assert rescaled(base, config(theta=5e5)).rope_theta == 5e5
    # Under `theta` the slowest pair turns over the new length as far as it did over the old one.
    theta = rescaled(base, config()).rope_theta
    assert 256 * theta ** (-6 / 8) == pytest.approx(32 * 10_000 ** (-6 / 8))
    assert rescaled(base, config(method="linear")).rope.factor == 8
    first = rescaled(base, config(method="yarn"))
    assert first.rope == YarnRope(factor=8, original_max_position=32) and first.max_position == 256
    again = rescaled(first, config(method="yarn", length=1024))
    assert again.rope == YarnRope(factor=32, original_max_position=32)
    twice = rescaled(rescaled(base, config(method="linear")), config(method="linear", length=512))
    assert twice.rope.factor == 16
    short = rescaled(tiny_config(max_position=128), config(method="llama3", base_length=32))
    assert short.rope.factor == 8 and short.rope.original_max_position == 32
    assert (
        rescaled(base, config(length=200_000, phases=[{"length": 200_000, "tokens": 1}])).max_position
        == 200_000
    )


def test_refusals():
    base = tiny_config(max_position=32)
    with pytest.raises(UserError, match="do not fit a model with 32 positions"):
        rescaled(base, config(length=32))
    with pytest.raises(UserError, match="do not fit"):
        rescaled(base, config(base_length=64))
    with pytest.raises(UserError, match="already stretched"):
        rescaled(rescaled(base, config(method="yarn")), config(length=512))
    with pytest.raises(ValidationError, match="rise to length"):
        config(phases=[{"length": 256, "tokens": 9}, {"length": 128, "tokens": 9}])
    with pytest.raises(ValidationError, match="theta belongs"):
        config(method="yarn", theta=1e6)


def test_the_curriculum_multiplies_by_four():
    assert [p.length for p in curriculum(config(length=8192, tokens=900), 512)] == [2048, 8192]
    assert [p.length for p in curriculum(config(length=4096), 256)] == [1024, 4096]
    assert [p.length for p in curriculum(config(length=3000), 256)] == [750, 3000]
    assert [p.length for p in curriculum(config(length=200_000), 8192)] == [12500, 50000, 200_000]
    assert [p.length for p in curriculum(config(length=256), 1)] == [16, 64, 256]
    given = (Phase(length=64, tokens=500), Phase(length=256, tokens=5000))
    assert curriculum(config(phases=given), 32) == given
    plans = planned(config(phases=given, accumulation=2), 32)
    assert [tuple(plan) for plan in plans] == [(64, 4, 2), (256, 1, 20)]
    assert predict_extend(config(phases=given)) == {"tokens": 5500}


def test_trains_measures_and_counts(tmp_path):
    given = inputs(tmp_path)
    run = testing_run(tmp_path / "run")
    made = extend(run, config(tokens=16 * 512, needles=0.5), **given)
    metrics = {name: m["value"] for name, m in run.metrics.items()}
    assert metrics["val_loss"] < metrics["val_loss_before"] - 0.5
    assert 0 <= metrics["answer_accuracy"] <= 1 and metrics["context"] == 256
    log = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert run.tokens == 16 * 512 and len([line for line in log if "loss" in line]) == 32
    shape = made.config()
    assert run.flops == pytest.approx(
        4096 * (shape.flops_per_token(64) + shape.flops_per_token(256)), rel=0.01
    )
    # The held-out loss by hand: the whole text end to end, cut into rows, each after a bos.
    model = made.load()
    order = torch.tensor(np.random.default_rng([0, 0, 1]).permutation(3)).tolist()
    val = given["shards"].documents("val")
    gap = WORDS.encode("\n\n")
    stream = [int(t) for i in order for t in [*val[i][1:-1], *gap]]
    nll = 0.0
    for start in (0, 256):
        row = torch.tensor([[WORDS.bos_id, *stream[start : start + 256]]])
        with torch.no_grad():
            nll -= model(row[:, :-1]).log_softmax(-1).gather(2, row[:, 1:, None]).sum().item()
    assert metrics["val_loss"] == pytest.approx(nll / 512, rel=1e-4)
    assert math.isfinite(metrics["train_loss"])


def test_common_words_are_drawn_as_often_as_they_stand_there():
    words = Lexicon(("and", "lamp", "with"), ("the",), (6, 1, 3))
    assert hiding_of(config(needles=1.0), words).chances is None
    half = hiding_of(config(needles=1.0, needle_common=0.5), words).chances
    assert half == pytest.approx([0.3 + 1 / 6, 0.05 + 1 / 6, 0.15 + 1 / 6])
    assert hiding_of(config(needles=1.0, needle_common=1.0), words).chances == pytest.approx([0.6, 0.1, 0.3])


def test_shards_of_another_tokenizer_are_refused(tmp_path):
    given = inputs(tmp_path)
    index = tmp_path / "shards" / "index.json"
    index.write_text(index.read_text().replace('"vocab_size": 269', '"vocab_size": 999'))
    with pytest.raises(UserError, match="999 token ids"):
        extend(
            testing_run(tmp_path / "run"), config(), base=given["base"], shards=Shards(tmp_path / "shards")
        )


def test_without_held_out_text_nothing_is_measured(tmp_path):
    given = inputs(tmp_path)
    run = testing_run(tmp_path / "run")
    extend(
        run, config(tokens=256, needles=0.0), base=given["base"], shards=write_shards(tmp_path / "s", val=0)
    )
    assert "val_loss" not in run.metrics and "answer_accuracy" not in run.metrics
