"""Planted questions are all found, whatever their dress; disjoint text raises no alarm."""

from __future__ import annotations

import random

import pytest

from publius.core.errors import UserError
from publius.evals import contamination
from publius.evals.contamination import Overlaps, shard_blocks, text_blocks
from publius.testing import byte_tokenizer
from publius.tokenizer.bpe import TokenizerConfig, train_bpe
from publius.tokenizer.shards import Shards, ShardsWriter


def sentence(rng: random.Random, letters: str, words: int) -> str:
    return " ".join("".join(rng.choice(letters) for _ in range(rng.randint(2, 8))) for _ in range(words))


@pytest.fixture
def items() -> dict[str, list[str]]:
    rng = random.Random(1)
    lengths = [8, 9, 12, 13, 14, 25, 40] * 8
    return {f"i{k}": [sentence(rng, "abcdefgh", n).capitalize() + "?"] for k, n in enumerate(lengths)}


@pytest.fixture
def corpus() -> list[str]:
    rng = random.Random(2)
    return [sentence(rng, "stuvwxyz", rng.randint(0, 200)) for _ in range(60)]


def plant(corpus: list[str], items: dict[str, list[str]]) -> list[str]:
    """Each item in the middle of a document of its own: other case, other spaces, curly quotes around."""
    rng, planted = random.Random(3), list(corpus)
    for number, [passage] in enumerate(items.values()):
        words = planted[number].split(" ")
        place = rng.randint(0, len(words))
        dressed = "\u201c" + passage.upper().replace(" ", "\n\u2014 ") + "\u201d"
        planted[number] = " ".join([*words[:place], dressed, *words[place:]])
    return planted


def sharded(folder, texts, tokenizer) -> Shards:
    with ShardsWriter(folder, tokenizer.vocab_size, shard_bytes=4096) as writer:
        for text in texts:
            ids = [tokenizer.bos_id, *tokenizer.encode(text), tokenizer.end_id]
            writer.write("train", ids, len(text.encode()))
        writer.write("val", [tokenizer.bos_id, tokenizer.end_id], 0)
    return Shards(folder)


@pytest.mark.parametrize("block", [1 << 20, 300, 64])
def test_all_that_is_planted_is_found_and_nothing_else(items, corpus, block, monkeypatch):
    monkeypatch.setattr(contamination, "_BLOCK", block)
    clean, dirty = Overlaps(items), Overlaps(items)
    clean.scan(text_blocks(corpus))
    dirty.scan(text_blocks(plant(corpus, items)))
    assert not any(found.dirty for found in clean.found().values())
    assert all(found.dirty and found.covered == 1.0 for found in dirty.found().values())
    assert dirty.found()["i3"].words == items["i3"][0].rstrip("?")


@pytest.mark.parametrize("block", [1 << 20, 100])
def test_token_shards(items, corpus, block, monkeypatch, tmp_path):
    monkeypatch.setattr(contamination, "_BLOCK", block)
    texts = plant(corpus, items)
    for name, tokenizer in (
        ("bytes", byte_tokenizer()),
        ("merges", train_bpe(texts, TokenizerConfig(vocab_size=700))),
    ):
        wanted = Overlaps(items)
        shards = sharded(tmp_path / f"{name}{block}", texts, tokenizer)
        wanted.scan(shard_blocks(shards, tokenizer), shards.tokens("train"))
        assert all(found.covered == 1.0 for found in wanted.found().values()), name
        assert wanted.tokens == shards.tokens("train")
        none = Overlaps(items)
        none.scan(shard_blocks(sharded(tmp_path / f"c{name}{block}", corpus, tokenizer), tokenizer))
        assert not any(found.dirty for found in none.found().values()), name


def test_a_run_does_not_cross_documents_nor_passages(monkeypatch):
    words = sentence(random.Random(4), "abcd", 26).split(" ")
    text = " ".join(words)
    for block in (1 << 20, 10):
        monkeypatch.setattr(contamination, "_BLOCK", block)
        halves = Overlaps({"a": [" ".join(words[7:20])]})
        halves.scan(text_blocks([" ".join(words[:13]), " ".join(words[13:])]))
        assert not halves.found()["a"].dirty
    apart = Overlaps({"a": [" ".join(words[:13]), " ".join(words[13:])], "b": [text]})
    apart.scan(text_blocks([" ".join(words[6:19])]))
    assert not apart.found()["a"].dirty and apart.found()["b"].dirty
    assert apart.found()["b"].covered == 13 / 26 and apart.found()["b"].words == " ".join(words[6:19])


def test_shorter_items_need_all_of_their_words_and_the_shortest_cannot_be_told():
    found = Overlaps({"ten": ["a b c d e f g h i j"], "five": ["a b c d e"], "none": [""]})
    found.scan(text_blocks(["a b c d e f g h i", "x a b c d e y"]))
    told = found.found()
    assert not told["ten"].dirty and told["ten"].runs == 1
    assert told["five"].short and told["none"].short and not told["five"].dirty
    found.scan(text_blocks(["so: A, b; c d e f g h i J."]))
    assert found.found()["ten"].dirty, "a second corpus adds to the first"
    five = Overlaps({"five": ["a b c d e"]}, words=5, least=5)
    five.scan(text_blocks(["x a b c d e y"]))
    assert five.found()["five"].dirty


def test_text_that_is_all_one_word_and_other_scripts():
    passage = "Où est la loutre grise près du vieux moulin à eau de la rivière ?"
    found = Overlaps({"fr": [passage]})
    found.scan(text_blocks(["x" * 200_000, passage.replace(" ", "\u00a0")]))
    assert found.found()["fr"].dirty
    cut = Overlaps({"fr": [passage.replace("moulin", "pont")]})
    cut.scan(text_blocks([passage]))
    assert not cut.found()["fr"].dirty


@pytest.mark.parametrize(("words", "least"), [(0, 0), (13, 14), (65, 8)])
def test_numbers_that_make_no_sense(words, least):
    with pytest.raises(UserError, match="give 1 <= least <= words"):
        Overlaps({}, words=words, least=least)
