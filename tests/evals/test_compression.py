from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np
import pytest

from publius.core.errors import UserError
from publius.data import Corpus, Document, write_corpus
from publius.evals import CompressionConfig, compression_baselines, gzip_bpb
from publius.evals.compression import capped
from publius.pipeline import testing_run
from publius.testing import byte_tokenizer
from publius.tokenizer import Shards, TokenizeConfig, TokenizerArtifact, tokenize


def make(tmp_path: Path, train: list[str], val: list[str]) -> tuple[Corpus, Shards, TokenizerArtifact]:
    def documents(texts: list[str], split: str) -> list[Document]:
        return [Document(text, f"{split}{i}", "test") for i, text in enumerate(texts)]

    write_corpus(tmp_path / "corpus", train=documents(train, "t"), val=documents(val, "v"))
    (tmp_path / "tokenizer").mkdir()
    byte_tokenizer().save(tmp_path / "tokenizer")
    corpus, tokenizer = Corpus(tmp_path / "corpus"), TokenizerArtifact(tmp_path / "tokenizer")
    shards = tokenize(testing_run(tmp_path / "shards"), TokenizeConfig(), corpus=corpus, tokenizer=tokenizer)
    return corpus, shards, tokenizer


def test_baselines_of_text_that_repeats(tmp_path: Path) -> None:
    text = "the mill by the river grinds grain"
    corpus, shards, tokenizer = make(tmp_path, [text] * 200, [text + " well", text])
    run = testing_run(tmp_path / "run")
    report = compression_baselines(
        run, CompressionConfig(), corpus=corpus, shards=shards, tokenizer=tokenizer
    )
    metrics = report.metrics()
    ngram, by_gzip = metrics["baseline.ngram_bpb"].value, metrics["baseline.gzip_bpb"].value
    assert ngram is not None and by_gzip is not None
    joined = f"{text} well\n{text}".encode()
    assert by_gzip == pytest.approx(8 * len(gzip.compress(joined, mtime=0)) / len(joined))
    assert 0.02 < ngram < by_gzip  # only " well" is news to it
    assert run.metrics["baseline.ngram_bpb"]["value"] == ngram
    assert report.document().model is None


def test_random_bytes_cost_what_they_must(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    train, val = (["".join(rng.choice(list("abcdefgh"), 400)) for _ in range(n)] for n in (60, 10))
    corpus, shards, tokenizer = make(tmp_path, train, val)
    report = compression_baselines(
        testing_run(tmp_path / "run"),
        CompressionConfig(order=2),
        corpus=corpus,
        shards=shards,
        tokenizer=tokenizer,
    )
    value = report.metrics()["baseline.ngram_bpb"].value
    assert value is not None and math.log2(8) - 0.01 < value < math.log2(8) + 0.1


def test_the_cap_takes_whole_documents_in_order() -> None:
    documents = [np.arange(n) for n in (3, 4, 5)]
    assert [len(d) for d in capped(documents, 7)] == [3, 4]
    assert [len(d) for d in capped(documents, 6)] == [3]
    assert capped(documents, 2) == []


def test_nothing_held_out_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no held-out text"):
        gzip_bpb([])
    corpus, shards, tokenizer = make(tmp_path, ["some text"], ["more"])
    config = CompressionConfig(max_tokens=1)
    with pytest.raises(UserError, match="n-gram baseline needs"):
        compression_baselines(
            testing_run(tmp_path / "run"), config, corpus=corpus, shards=shards, tokenizer=tokenizer
        )
