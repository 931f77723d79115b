"""Fine-tuning as a stage."""

import pytest
import torch

from publius.core.errors import UserError
from publius.core.messages import Conversation, assistant, user
from publius.data.artifacts import Conversations, write_conversations
from publius.model.checkpoint import Checkpoint, save_checkpoint
from publius.pipeline import testing_run
from publius.testing.fakes import byte_tokenizer, tiny_model
from publius.tokenizer.renderer import Renderer
from publius.tokenizer.shards import Shards, ShardsWriter
from publius.training.batches import Example, PackedBatches
from publius.training.language import language_loss
from publius.training.sft import SFTConfig, mixed_chats, predict_sft, render_all, sft


def chat(question, answer):
    return Conversation(messages=(user(question), assistant(answer)))


def source(folder, train, val=()):
    write_conversations(folder, train=train, val=val)
    return Conversations(folder)


@pytest.fixture
def base(tmp_path):
    save_checkpoint(tmp_path / "base", tiny_model(scale=1.0), byte_tokenizer())
    return Checkpoint(tmp_path / "base")


def config(**changes):
    fields = {"sequence_length": 64, "batch_tokens": 128, "dtype": "float32"}
    return SFTConfig.model_validate(fields | changes)


def test_learns_the_answer_from_several_sources(tmp_path, base):
    chats = [
        source(tmp_path / "a", [chat(f"say {i}", "yes") for i in range(20)], [chat("say 90", "yes")]),
        source(tmp_path / "b", [chat(f"tell {i}", "yes") for i in range(20)] + [chat("q" * 200, "lost")]),
    ]
    run = testing_run(tmp_path / "run")
    trained = sft(run, config(steps=40, optimizer={"adamw_lr": 0.02}), base=base, chats=chats)
    metrics = {name: m["value"] for name, m in run.metrics.items()}
    assert (metrics["conversations"], metrics["truncated"], metrics["dropped"]) == (40, 1, 1)
    assert metrics["val_loss"] < 3 and 0.1 < metrics["trained_fraction"] < 0.5

    tokens, weights = Renderer(byte_tokenizer()).render(chat("say 90", "yes"))
    ids = torch.tensor([tokens])
    with torch.no_grad():
        lp = trained.load()(ids[:, :-1]).log_softmax(-1).gather(2, ids[:, 1:, None])[0, :, 0]
    mask = torch.tensor(weights[1:])
    by_hand = -(lp * mask).sum().item() / mask.sum().item()
    assert metrics["val_loss"] == pytest.approx(by_hand, rel=1e-4, abs=1e-6)  # fp32 has no digits below


def test_the_loss_is_on_the_assistants_words_only():
    model, renderer = tiny_model(), Renderer(byte_tokenizer())
    examples = render_all(renderer, [chat("abc", "xy")], 64).examples
    part = language_loss(model, PackedBatches(examples, sequence_length=64, rows=1, seed=0).next())
    assert float(part.denominator) == 3 and part.tokens == 64  # x, y, end


def test_weights_repeat_and_halve(tmp_path):
    chats = [
        source(tmp_path / "a", [chat(f"a{i}", "x") for i in range(10)]),
        source(tmp_path / "b", [chat(f"b{i}", "x") for i in range(10)]),
    ]
    mixed = [c.messages[0].content[0].text for c in mixed_chats(config(steps=1, weights=(2.5, 0.3)), chats)]
    counts = [mixed.count(f"a{i}") for i in range(10)]
    assert sorted(counts) == [2] * 5 + [3] * 5
    assert sum(text.startswith("b") for text in mixed) == 3 and len(set(mixed)) == 13
    with pytest.raises(UserError, match="one weight"):
        mixed_chats(config(steps=1, weights=(1.0,)), chats)


def pretraining_text(folder, texts, vocab_size=None):
    words = byte_tokenizer()
    with ShardsWriter(folder, vocab_size or words.vocab_size) as writer:
        for text in texts:
            writer.write("train", [words.bos_id, *words.encode(text), words.end_id], len(text.encode()))
    return Shards(folder)


def test_replay_is_the_asked_share_of_pretraining_text(tmp_path, base):
    chats = [source(tmp_path / "a", [chat(f"say {i}", "yes") for i in range(90)])]
    texts = [f"The cat number {i} is red." for i in range(400)]
    shards = pretraining_text(tmp_path / "shards", texts)
    seen = {}
    for share in (0.0, 0.3, 0.6):
        run = testing_run(tmp_path / str(share))
        sft(run, config(steps=1, replay=share), base=base, chats=chats, replay=shards)
        seen[share] = {name: m["value"] for name, m in run.metrics.items()}
    tokenizer = byte_tokenizer()
    lengths = [len(Renderer(tokenizer).render(c)[0]) for c in chats[0].train()]
    each = sum(len(tokenizer.encode(text)) + 2 for text in texts) / len(texts)
    assert seen[0.0]["replayed"] == 0
    for share in (0.3, 0.6):
        replayed = seen[share]["replayed"] * each
        assert replayed / (replayed + sum(lengths)) == pytest.approx(share, abs=0.02)
        assert seen[share]["conversations"] == 90
    assert seen[0.6]["trained_fraction"] > seen[0.3]["trained_fraction"] > seen[0.0]["trained_fraction"]


def test_replay_needs_text_of_the_same_tokenizer(tmp_path, base):
    chats = [source(tmp_path / "a", [chat("hi", "yes")])]
    with pytest.raises(UserError, match="no replay input"):
        sft(testing_run(tmp_path / "r"), config(steps=1, replay=0.5), base=base, chats=chats)
    foreign = pretraining_text(tmp_path / "shards", ["hello"], vocab_size=5000)
    with pytest.raises(UserError, match="5000 token ids"):
        sft(testing_run(tmp_path / "s"), config(steps=1, replay=0.5), base=base, chats=chats, replay=foreign)


def test_no_held_out_and_no_training_conversations(tmp_path, base):
    run = testing_run(tmp_path / "run")
    sft(run, config(steps=1), base=base, chats=[source(tmp_path / "a", [chat("hi", "yes")])])
    assert "val_loss" not in run.metrics
    with pytest.raises(UserError, match="nothing to train on"):
        sft(testing_run(tmp_path / "r"), config(steps=1), base=base, chats=[source(tmp_path / "e", [])])
    with pytest.raises(UserError, match="max_position"):
        sft(run, config(steps=1, sequence_length=600, batch_tokens=600), base=base, chats=[])


def test_held_out_is_limited(tmp_path, base):
    val = [chat(f"say {i}", "yes") for i in range(30)] + [chat("say", "no" * 20)]
    chats = [source(tmp_path / "a", [chat("say 5", "yes")], val)]
    losses = []
    for name, limit in (("a", 10), ("b", 10_000)):
        run = testing_run(tmp_path / name)
        sft(run, config(steps=1, eval_tokens=limit), base=base, chats=chats)
        losses.append(run.metrics["val_loss"]["value"])
    assert losses[0] != losses[1]


def test_prediction_and_plain_examples():
    assert predict_sft(config(steps=3)) == {"tokens": 3 * 128}
    assert predict_sft(config(epochs=1)) == {}
    assert Example([1, 2]).weights is None
