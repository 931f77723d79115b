"""Checkpoints: transformers gives the same numbers, damage is named."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM, LlamaForSequenceClassification

from publius.core.errors import UserError
from publius.model.adapters import adapted
from publius.model.checkpoint import (
    Checkpoint,
    RewardCheckpoint,
    _unchanged,  # pyright: ignore[reportPrivateUsage]
    fingerprint,
    load_model,
    load_reward_model,
    save_checkpoint,
    save_reward_checkpoint,
    verify,
)
from publius.model.heads import RewardModel
from publius.model.hf_config import config_to_hf
from publius.model.weights import sha256
from publius.testing.fakes import byte_tokenizer, tiny_config, tiny_model

TOKENS = torch.randint(13, 269, (2, 40), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("tied", [True, False])
def test_transformers_gives_the_same_logits(tmp_path, tied):
    model = tiny_model(tie_embeddings=tied, rope_theta=5e4)
    save_checkpoint(tmp_path, model, byte_tokenizer())
    theirs = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.no_grad():
        assert (theirs(TOKENS).logits - model(TOKENS)).abs().max() < 1e-4


def test_transformers_gives_the_same_reward(tmp_path):
    model = RewardModel(tiny_model(tie_embeddings=False), seed=0)
    save_reward_checkpoint(tmp_path, model, byte_tokenizer())
    theirs = LlamaForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float32).eval()
    tokens = TOKENS.clone()
    tokens[0, 30:] = 0  # padding
    last = torch.tensor([29, 39])
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits[:, 0], model(tokens, last), rtol=1e-4, atol=1e-4)
        again = RewardCheckpoint(tmp_path)
        torch.testing.assert_close(again.load()(tokens, last), model(tokens, last))
    assert again.config() == model.trunk.config and again.tokenizer().vocab_size == 269


def test_what_transformers_writes_we_read(tmp_path):
    save_checkpoint(tmp_path / "a", tiny_model(tie_embeddings=False), byte_tokenizer())
    theirs = LlamaForCausalLM.from_pretrained(tmp_path / "a", dtype=torch.float32).eval()
    theirs.save_pretrained(tmp_path / "b", max_shard_size="50KB")
    assert len(list((tmp_path / "b").glob("model-*.safetensors"))) > 1
    with torch.no_grad():
        torch.testing.assert_close(
            load_model(tmp_path / "b")(TOKENS), theirs(TOKENS).logits, rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("tied", [True, False])
def test_round_trip(tmp_path, tied):
    model = tiny_model(tie_embeddings=tied)
    save_checkpoint(tmp_path, model, byte_tokenizer())
    again = Checkpoint(tmp_path)
    loaded = again.load()
    assert not loaded.training and again.config() == model.config
    assert again.tokenizer().encode("hello") == byte_tokenizer().encode("hello")
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    assert again.load(dtype=torch.bfloat16).dtype == torch.bfloat16
    assert ("lm_head.weight" in load_file(tmp_path / "model.safetensors")) is not tied
    assert (tmp_path / "chat_template.jinja").stat().st_size > 0


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_damage_is_named(tmp_path, name):
    save_checkpoint(tmp_path, tiny_model(), byte_tokenizer())
    path = tmp_path / name
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(UserError, match=f"{name} is damaged"):
        load_model(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match=f"{name} is missing"):
        load_model(tmp_path)


def test_other_weights_beside_the_listed_ones_are_refused(tmp_path):
    for name, seed in (("ours", 0), ("theirs", 1)):
        save_checkpoint(tmp_path / name, tiny_model(seed), byte_tokenizer())
    ours, other = tmp_path / "ours", tmp_path / "ours/other.safetensors"
    before = fingerprint(Checkpoint(ours))
    shutil.copyfile(tmp_path / "theirs/model.safetensors", other)
    with pytest.raises(UserError, match=r"other\.safetensors is not a file of this checkpoint"):
        load_model(ours)
    index = {"weight_map": {**dict.fromkeys(load_file(other), other.name), "x": "model.safetensors"}}
    (ours / "model.safetensors.index.json").write_text(json.dumps(index))
    assert fingerprint(Checkpoint(ours)) == before
    for refuse in (load_model, load_reward_model, verify):
        with pytest.raises(UserError, match=r"model\.safetensors\.index\.json is not a file of this"):
            refuse(ours)
    other.rename(ours / "other")  # an index may name anything
    (ours / "checksums.json").write_text(
        json.dumps(json.loads((ours / "checksums.json").read_text()) | _listed(ours, index))
    )
    with pytest.raises(UserError, match="other is not a file of this checkpoint"):
        load_model(ours)


def _listed(folder, index):
    """As if the index had been written with the checkpoint, and what it names had not."""
    path = folder / "model.safetensors.index.json"
    files = {**dict.fromkeys(index["weight_map"], "other"), "x": "model.safetensors"}
    path.write_text(json.dumps({"weight_map": files}))
    return {path.name: sha256(path)}


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_what_is_read_must_be_listed(tmp_path, name):
    save_checkpoint(tmp_path, tiny_model(), byte_tokenizer())
    listed = json.loads((tmp_path / "checksums.json").read_text())
    del listed[name]
    (tmp_path / "checksums.json").write_text(json.dumps(listed))
    with pytest.raises(UserError, match=f"{name} is not a file of this checkpoint"):
        load_model(tmp_path)
    (tmp_path / "checksums.json").write_text(json.dumps({"../x": "0"}))
    with pytest.raises(UserError, match="list of checksums is damaged"):
        load_model(tmp_path)
    (tmp_path / "checksums.json").unlink()  # another's
    (tmp_path / "more.safetensors").write_bytes(b"")
    load_model(tmp_path)


def test_a_model_is_loaded_under_its_fingerprint_and_no_other(tmp_path):
    save_checkpoint(tmp_path, tiny_model(), byte_tokenizer())
    checkpoint = Checkpoint(tmp_path)
    model, tokenizer = checkpoint.load_as(fingerprint(checkpoint))
    assert not model.training and tokenizer.vocab_size == 269
    with pytest.raises(UserError, match="these are other weights by now"):
        checkpoint.load_as("0" * 64)
    (tmp_path / "checksums.json").rename(tmp_path / "kept")
    with pytest.raises(UserError, match="without checksums"):
        checkpoint.load_as("0" * 64)


def test_what_changes_while_it_is_read_is_refused(tmp_path):
    save_checkpoint(tmp_path, tiny_model(), byte_tokenizer())
    path = tmp_path / "model.safetensors"
    raw = path.read_bytes()
    with pytest.raises(UserError, match="changed while it was loaded"), _unchanged(tmp_path):
        path.write_bytes(raw)  # and back again, as far as anybody can see later


def test_loaded_weights_do_not_follow_their_file(tmp_path):
    model = tiny_model()
    save_checkpoint(tmp_path, model, byte_tokenizer())
    loaded = load_model(tmp_path)
    with (tmp_path / "model.safetensors").open("r+b") as file:
        size = file.seek(0, 2)
        file.seek(0)
        file.write(bytes(size))
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_folders_that_are_no_checkpoint(tmp_path):
    with pytest.raises(UserError, match=r"cannot read config\.json"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config_to_hf(tiny_config())))
    with pytest.raises(UserError, match="cannot read weights"):
        load_model(tmp_path)
    save_file({"model.norm.weight": torch.ones(32)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="do not fit"):
        load_model(tmp_path)


def test_wrong_shapes_are_refused(tmp_path):
    save_checkpoint(tmp_path, tiny_model(), byte_tokenizer())
    (tmp_path / "checksums.json").unlink()
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.norm.weight"] = torch.ones(31)
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.norm\.weight"):
        load_model(tmp_path)


@pytest.mark.parametrize(("before", "after"), [(20_000, 10**9), (10**9, 20_000), (20_000, 60_000)])
def test_a_checkpoint_written_over_another_is_the_new_one(tmp_path, before, after):
    save_checkpoint(tmp_path, tiny_model(0), byte_tokenizer(), shard_bytes=before)
    save_checkpoint(tmp_path, tiny_model(1), byte_tokenizer(), shard_bytes=after)
    theirs = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = tiny_model(1)(TOKENS)
        assert torch.equal(load_model(tmp_path)(TOKENS), expected)
        assert (theirs(TOKENS).logits - expected).abs().max() < 1e-4
    save_checkpoint(tmp_path / "alone", tiny_model(1), byte_tokenizer(), shard_bytes=after)
    names = {path.name for path in (tmp_path / "alone").iterdir()}
    assert {path.name for path in tmp_path.iterdir()} == names | {"alone"}


def test_two_sets_of_weights_are_refused(tmp_path):
    """transformers reads the single file, vLLM what the index lists."""
    save_checkpoint(tmp_path / "one", tiny_model(0), byte_tokenizer())
    save_checkpoint(tmp_path / "many", tiny_model(1), byte_tokenizer(), shard_bytes=20_000)
    (tmp_path / "many" / "checksums.json").unlink()
    shutil.copyfile(tmp_path / "one" / "model.safetensors", tmp_path / "many" / "model.safetensors")
    with pytest.raises(UserError, match="two sets of weights"):
        load_model(tmp_path / "many")


@pytest.mark.parametrize("listed", [{"a": 1, "b": "x"}, {"a": ["x"]}, {}, []])
def test_an_index_that_is_none_is_named(tmp_path, listed):
    save_checkpoint(tmp_path, tiny_model(), byte_tokenizer())
    (tmp_path / "checksums.json").unlink()
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listed}))
    with pytest.raises(UserError, match="the index of weights"):
        load_model(tmp_path)


def test_a_tied_head_that_is_another_matrix_is_refused(tmp_path):
    """transformers 5 computes with the stored head in spite of the config, other readers do not."""
    model = tiny_model()
    save_checkpoint(tmp_path, model, byte_tokenizer())
    (tmp_path / "checksums.json").unlink()
    weights = load_file(tmp_path / "model.safetensors")
    for factor in (1, 2):
        head = weights["model.embed_tokens.weight"].clone() * factor
        save_file(weights | {"lm_head.weight": head}, tmp_path / "model.safetensors", {"format": "pt"})
        theirs = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
        with torch.no_grad():
            assert (theirs(TOKENS).logits - factor * model(TOKENS)).abs().max() < 1e-3
            if factor == 1:
                assert torch.equal(load_model(tmp_path)(TOKENS), model(TOKENS))
    with pytest.raises(UserError, match=r"lm_head\.weight, that is not the embedding"):
        load_model(tmp_path)


def test_adapters_are_merged_before_they_are_saved(tmp_path):
    model = adapted(tiny_model(), 2)
    with pytest.raises(ValueError, match="merged"):
        save_checkpoint(tmp_path / "a", model, byte_tokenizer())
    with pytest.raises(ValueError, match="merged"):
        save_reward_checkpoint(tmp_path / "b", RewardModel(model, seed=0), byte_tokenizer())
    assert list(tmp_path.iterdir()) == []
