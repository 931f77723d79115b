"""In from another's folder, out to another's tools."""

import json
import shutil
from pathlib import Path

import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file
from tokenizers import decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config

from publius.core.errors import UserError
from publius.model.checkpoint import Checkpoint, load_model, load_reward_model, save_reward_checkpoint
from publius.model.heads import RewardModel
from publius.model.transfer import (
    ImportConfig,
    export_checkpoint,
    import_checkpoint,
    import_model,
    import_to,
    parse_size,
    whole_or_nothing,
)
from publius.pipeline import testing_run
from publius.testing.fakes import byte_tokenizer, tiny_model
from publius.tokenizer.special import SPECIAL_TOKENS

SHAPE = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.3,
}  # fmt: skip
TOKENS = torch.randint(0, 256, (2, 20), generator=torch.Generator().manual_seed(0))


def base(folder, rows=258, tied=True):
    """A Qwen2 as someone else would publish it: 256 bytes and two special tokens, `rows` embeddings."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(Qwen2Config(vocab_size=rows, tie_word_embeddings=tied, **SHAPE))
    model.save_pretrained(folder, max_shard_size="40KB")
    alphabet = {token: i for i, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    inner = tokenizers.Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(["<|endoftext|>", "<|im_end|>"])
    inner.save(str(folder / "tokenizer.json"))
    return model.eval()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("rows", "new_rows", "size"), [(258, 13, 271), (265, 6, 271), (300, 0, 300)])
def test_import_adds_the_tokens_that_are_missing(tmp_path, rows, new_rows, size, tied):
    theirs = base(tmp_path / "base", rows, tied)
    found = import_to(tmp_path / "base", tmp_path / "ours")
    assert (found.added, found.new_rows) == (SPECIAL_TOKENS, new_rows)
    ours = Checkpoint(tmp_path / "ours")
    assert ours.config().vocab_size == size and ours.config().written_family == "qwen2"
    model = ours.load()
    with torch.no_grad():
        assert (model(TOKENS)[..., :258] - theirs(TOKENS).logits[..., :258]).abs().max() < 1e-4
    for weight, before in (
        (model.model.embed_tokens.weight, theirs.get_input_embeddings().weight),
        (model.head_weight, theirs.get_output_embeddings().weight),
    ):
        for token in SPECIAL_TOKENS:
            torch.testing.assert_close(weight[ours.tokenizer().special[token]], before[:258].mean(0))
        if rows == 300:  # room that is no token of ours is left alone
            assert torch.equal(weight[271:], before[271:])
    assert ours.tokenizer().encode("abc") == [*import_model(tmp_path / "base").tokenizer.encode("abc")]
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float32)
    hf = AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert len(hf) == 271 and again.get_input_embeddings().weight.shape[0] == size


def test_a_checkpoint_of_ours_needs_nothing(tmp_path):
    export_checkpoint(_ours(tmp_path), tmp_path / "out")
    found = import_model(tmp_path / "out")
    assert (found.added, found.new_rows) == ((), 0)


def _ours(tmp_path):
    from_here = tmp_path / "made"
    with whole_or_nothing(from_here) as folder:
        base(folder)
    import_to(from_here, tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_export_in_shards_and_back(tmp_path, dtype):
    source = _ours(tmp_path)
    done = export_checkpoint(source, tmp_path / "out", dtype=dtype, shard_bytes=20_000)
    assert done.architecture == "Qwen2ForCausalLM" and len(done.files) > 2
    assert done.bytes == sum((tmp_path / "out" / name).stat().st_size for name in done.files)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(done.files)
    width = {"float32": 4, "bfloat16": 2}[dtype]
    assert index["metadata"]["total_size"] == done.parameters * width
    kind = getattr(torch, dtype)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert theirs.dtype == kind
    theirs.save_pretrained(tmp_path / "third", max_shard_size="30KB")
    before = load_file(source / "model.safetensors")
    for path in (tmp_path / "third").glob("*.safetensors"):
        for name, value in load_file(path).items():
            assert torch.equal(value, before[name].to(kind)), name
    ours = load_model(tmp_path / "third").state_dict()
    for name, value in load_model(source).state_dict().items():
        assert torch.equal(ours[name], value.to(kind).float()), name


@pytest.mark.parametrize("tied", [True, False])
def test_a_reward_model_is_exported_and_not_imported(tmp_path, tied):
    reward = RewardModel(tiny_model(tie_embeddings=tied), seed=0)
    save_reward_checkpoint(tmp_path / "reward", reward, byte_tokenizer())
    done = export_checkpoint(tmp_path / "reward", tmp_path / "out", shard_bytes=20_000)
    assert done.architecture == "LlamaForSequenceClassification"
    written = [load_file(tmp_path / "out" / name) for name in done.files]
    assert done.parameters == sum(value.numel() for part in written for value in part.values())
    a, b = load_reward_model(tmp_path / "reward"), load_reward_model(tmp_path / "out")
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    with pytest.raises(UserError, match="reward model"):
        import_model(tmp_path / "out")


def test_the_stage_imports_and_follows_the_files(tmp_path):
    base(tmp_path / "base")
    config = ImportConfig(folder=str(tmp_path / "base"))
    before = import_checkpoint.fingerprint(config)
    assert "config.json" in before and "tokenizer.json" in before and len(before) > 3
    made = import_checkpoint(testing_run(tmp_path / "run"), config)
    assert made.config().vocab_size == 271
    (tmp_path / "base" / "config.json").write_text((tmp_path / "base" / "config.json").read_text() + " ")
    assert import_checkpoint.fingerprint(config) != before


def _not_finite(folder):
    path = next(folder.glob("model-00002*.safetensors"))
    weights = load_file(path)
    next(iter(weights.values())).view(-1)[0] = torch.nan
    save_file(weights, path, metadata={"format": "pt"})


def _pickled(folder):
    for path in folder.glob("model*"):
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"")


def _key(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_experts": 4}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "no such folder"),
        (_not_finite, "not finite"),
        (_pickled, "pickled"),
        (_key, "num_experts"),
        (lambda folder: next(folder.glob("model-00002*")).unlink(), "shard is missing"),
        (lambda folder: next(folder.glob("model-00002*")).write_bytes(b"x"), "cannot read weights"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer here"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_stays_behind(tmp_path, damage, message):
    base(tmp_path / "base")
    damage(tmp_path / "base")
    with pytest.raises(UserError, match=message):
        import_to(tmp_path / "base", tmp_path / "ours")
    assert [path.name for path in tmp_path.iterdir() if path.name != "base"] == []


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    base(tmp_path / "base", rows=200)
    with pytest.raises(UserError, match="258 ids, the model only 200"):
        import_model(tmp_path / "base")


def test_a_target_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"), whole_or_nothing(tmp_path / "full"):
        raise AssertionError
    assert (tmp_path / "full" / "mine.txt").read_text() == "mine"


def test_what_lies_beside_the_target_is_left_alone(tmp_path):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "mine.txt").write_text("mine")
    with whole_or_nothing(tmp_path / "out") as one, whole_or_nothing(tmp_path / "out2") as two:
        (one / "a").write_text("a")
        (two / "b").write_text("b")
    assert (tmp_path / "out" / "a").exists() and (tmp_path / "out2" / "b").exists()
    assert (tmp_path / "out.partial" / "mine.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.partial", "out2"]


def test_targets_by_other_names(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with whole_or_nothing(tmp_path / "link") as folder:
        (folder / "a").write_text("a")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "a").exists()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(UserError, match="has no name"), whole_or_nothing(Path()):
        raise AssertionError


def test_sizes():
    assert [parse_size(t) for t in ("5GB", "1.5 mb", "2GiB", "100")] == [5 * 10**9, 1_500_000, 2**31, 100]
    for wrong in ("", "GB", "5 parsecs", "0MB", "-1GB", "9" * 400):
        with pytest.raises(UserError, match="is not a size"):
            parse_size(wrong)
