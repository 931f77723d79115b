"""Shards give back every document, in order; damage is named."""

import json
from pathlib import Path

import numpy as np
import pytest

from publius.core.errors import UserError
from publius.data import Corpus, Document, write_corpus
from publius.pipeline import testing_run
from publius.tokenizer import Shards, ShardsWriter, TokenizeConfig, Tokenizer, TokenizerArtifact, tokenize

TRAIN = [f"The baker number {n} bakes {n * 7} loaves — naïve." * (n % 5 + 1) for n in range(60)]
VAL = ["held out", "and again"]


@pytest.fixture
def shards(tokenizer: Tokenizer, tmp_path: Path) -> Shards:
    tokenizer.save(tmp_path / "tokenizer")
    documents = [Document(text, str(i), "s") for i, text in enumerate(TRAIN)]
    documents.insert(3, Document("", "empty", "s"))
    write_corpus(tmp_path / "corpus", train=documents, val=[Document(text, text, "s") for text in VAL])
    run = testing_run(tmp_path / "run")
    made = tokenize(
        run,
        TokenizeConfig(shard_bytes=2048),
        corpus=Corpus(tmp_path / "corpus"),
        tokenizer=TokenizerArtifact(tmp_path / "tokenizer"),
    )
    assert run.tokens == made.tokens("train") == run.metrics["train_tokens"]["value"]
    return made


def test_documents_come_back_in_order(shards: Shards, tokenizer: Tokenizer) -> None:
    expected = [[1, *tokenizer.encode(text), 2] for text in TRAIN]
    documents = shards.documents("train")
    assert len(list(shards.path.glob("train-*.tokens"))) > 3
    assert len(documents) == len(TRAIN)
    assert [d.tolist() for d in documents] == expected
    assert documents[-1].tolist() == expected[-1]
    assert [d.tolist() for d in documents[5:9:2]] == expected[5:9:2]
    assert documents.lengths.tolist() == [len(ids) for ids in expected]
    assert documents[0].dtype == np.uint16
    with pytest.raises(IndexError):
        documents[len(TRAIN)]
    with pytest.raises(ValueError, match="read-only"):
        documents[0][0] = 7


def test_counts(shards: Shards, tokenizer: Tokenizer) -> None:
    assert shards.vocab_size == tokenizer.vocab_size
    assert shards.tokens("val") == sum(len(tokenizer.encode(t)) + 2 for t in VAL)
    assert shards.bytes("val") == len("held out") + len("and again")
    assert shards.bytes("train") == sum(len(t.encode()) for t in TRAIN)
    sizes = [p.stat().st_size for p in shards.path.glob("*.tokens")]
    assert max(sizes) <= 2048


def test_a_changed_shard_is_named(shards: Shards) -> None:
    shards.verify()
    path = shards.path / "train-00001.tokens"
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"checksum[\s\S]*train-00001.tokens"):
        shards.verify()


def test_a_cut_or_missing_shard_is_named(shards: Shards) -> None:
    path = shards.path / "train-00000.tokens"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(UserError, match=r"bytes, not[\s\S]*train-00000.tokens"):
        shards.documents("train")
    (shards.path / "val-00000.offsets").unlink()
    with pytest.raises(UserError, match=r"missing[\s\S]*val-00000.offsets"):
        shards.documents("val")


def test_a_broken_index_is_named(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        Shards(tmp_path).tokens("train")


def test_large_vocabularies_take_four_bytes_and_long_documents_their_own_shard(tmp_path: Path) -> None:
    documents = [[1, 70_000, 2], list(range(3000)), [1, 2]]
    with ShardsWriter(tmp_path, 70_001, shard_bytes=1024) as writer:
        for ids in documents:
            writer.write("train", ids, 5)
    shards = Shards(tmp_path)
    assert json.loads((tmp_path / "index.json").read_text())["dtype"] == "uint32"
    assert [d.tolist() for d in shards.documents("train")] == documents
    assert len(list(tmp_path.glob("*.tokens"))) == 3
    assert len(shards.documents("val")) == 0 and shards.documents("val").lengths.tolist() == []


def test_a_failed_write_leaves_no_index(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), ShardsWriter(tmp_path, 300) as writer:
        writer.write("train", [1, 2], 0)
        raise ZeroDivisionError
    assert not (tmp_path / "index.json").exists()


def test_large_corpora_are_encoded_in_parts(
    shards: Shards, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("publius.tokenizer.shards._BATCH_BYTES", 200)
    again = tokenize(
        testing_run(tmp_path / "again"),
        TokenizeConfig(),
        corpus=Corpus(tmp_path / "corpus"),
        tokenizer=TokenizerArtifact(tmp_path / "tokenizer"),
    )
    whole = [d.tolist() for d in shards.documents("train")]
    assert [d.tolist() for d in again.documents("train")] == whole


def test_limits_and_empty_corpora(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer")
    artifact = TokenizerArtifact(tmp_path / "tokenizer")
    write_corpus(tmp_path / "corpus", train=[Document(text, "", "") for text in TRAIN])
    few = tokenize(
        testing_run(tmp_path / "a"),
        TokenizeConfig(max_tokens=100),
        corpus=Corpus(tmp_path / "corpus"),
        tokenizer=artifact,
    )
    assert 100 <= few.tokens("train") < 300
    write_corpus(tmp_path / "none", train=[Document("", "", "")])
    with pytest.raises(UserError, match="no text"):
        tokenize(
            testing_run(tmp_path / "b"),
            TokenizeConfig(),
            corpus=Corpus(tmp_path / "none"),
            tokenizer=artifact,
        )
