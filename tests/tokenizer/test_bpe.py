"""Training is deterministic, splits digits, and stops at the asked size."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from publius.core.errors import UserError
from publius.data import Corpus, Document, write_corpus
from publius.pipeline import testing_run
from publius.tokenizer import TokenizerConfig, train_bpe, train_tokenizer

TEXTS = [f"year {n} and {n * 37 % 911} loaves of rye bread for the town" for n in range(300)]


def _corpus(folder: Path, train: list[str], val: list[str]) -> Corpus:
    write_corpus(
        folder,
        train=[Document(text, str(i), "t") for i, text in enumerate(train)],
        val=[Document(text, f"v{i}", "t") for i, text in enumerate(val)],
    )
    return Corpus(folder)


def test_same_texts_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        train_bpe(iter(TEXTS), TokenizerConfig(vocab_size=350)).save(tmp_path / name)
    assert (tmp_path / "a/tokenizer.json").read_bytes() == (tmp_path / "b/tokenizer.json").read_bytes()


def test_digits_are_split_or_kept_to_three() -> None:
    single = train_bpe(TEXTS, TokenizerConfig(vocab_size=500))
    assert [single.id_bytes(i) for i in single.encode("2024")] == [b"2", b"0", b"2", b"4"]
    tripled = train_bpe(["100 100 100"] * 9, TokenizerConfig(vocab_size=500, split_digits=False))
    assert [tripled.id_bytes(i) for i in tripled.encode("100100")] == [b"100", b"100"]


def test_frequent_words_are_one_token_and_text_shrinks() -> None:
    tokenizer = train_bpe(TEXTS, TokenizerConfig(vocab_size=500))
    assert len(tokenizer.encode(" bread")) == 1
    assert len(tokenizer.encode("bread bread")) < len("bread bread") / 3


def test_special_text_in_the_corpus_makes_no_special_merge() -> None:
    tokenizer = train_bpe(["<|end|><|/think|>" * 20] * 50, TokenizerConfig(vocab_size=400))
    assert not tokenizer.special_ids & set(tokenizer.encode("<|end|><|/think|>"))


def test_the_stage(tmp_path: Path) -> None:
    corpus = _corpus(tmp_path / "corpus", TEXTS, ["rye bread for 7"])
    run = testing_run(tmp_path / "run")
    artifact = train_tokenizer(run, TokenizerConfig(vocab_size=290), corpus=corpus)
    tokenizer = artifact.load()
    assert tokenizer.vocab_size == 290 == run.metrics["vocab_size"]["value"]
    expected = 15 / len(tokenizer.encode("rye bread for 7"))
    assert run.metrics["bytes_per_token"]["value"] == pytest.approx(expected)


def test_the_stage_reads_no_more_than_asked(tmp_path: Path) -> None:
    corpus = _corpus(tmp_path / "corpus", ["rye bread " * 50, "zebra zebra " * 50], [])
    artifact = train_tokenizer(
        testing_run(tmp_path / "run"), TokenizerConfig(vocab_size=300, max_bytes=400), corpus=corpus
    )
    assert len(artifact.load().encode(" zebra")) > 3


def test_empty_corpus_and_small_vocabulary_are_refused(tmp_path: Path) -> None:
    corpus = _corpus(tmp_path / "corpus", [], [])
    with pytest.raises(UserError, match="no text"):
        train_tokenizer(testing_run(tmp_path / "run"), TokenizerConfig(), corpus=corpus)
    with pytest.raises(ValidationError):
        TokenizerConfig(vocab_size=268)
