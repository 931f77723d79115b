from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from publius.core.errors import UserError
from publius.evals.lm.words import Words
from publius.model.checkpoint import Checkpoint

TEXTS = ["", " ", "The river", " the mill\n", "<|bos|><|user|>Which?<|end|>", "tab\tand é and 川", "12345"]


def test_ids_are_those_of_transformers_special_tokens_in_a_text_included(merging: Checkpoint, peer) -> None:
    words = Words(merging.path)
    assert words.encode(TEXTS) == [peer.tokenizer.encode(text) for text in TEXTS]
    assert words.encode(["<|end|>"]) == [[words.eos_id]]
    ids = peer.tokenizer.encode("The river <|end|>é")
    assert words.decode(ids) == peer.tokenizer.decode(ids, skip_special_tokens=True)


def test_the_prefix_is_what_begins_a_text(merging: Checkpoint, peer) -> None:
    words = Words(merging.path)
    assert (words.prefix_id, words.eos_id) == (peer.tokenizer.bos_token_id, peer.tokenizer.eos_token_id)
    assert words.special_tokens["eos_token"] == "<|end|>"


@pytest.fixture
def adding(merging: Checkpoint, tmp_path: Path) -> Path:
    """A tokenizer that puts the first token before every text, as Llama's does."""
    folder = tmp_path / "adding"
    shutil.copytree(merging.path, folder)
    inner = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    first = inner.token_to_id("<|bos|>")
    inner.post_processor = TemplateProcessing(single="<|bos|> $A", special_tokens=[("<|bos|>", first)])  # pyright: ignore[reportAttributeAccessIssue]
    inner.save(str(folder / "tokenizer.json"))
    return folder


def test_what_a_tokenizer_adds_is_added_once(adding: Path) -> None:
    words, theirs = Words(adding), AutoTokenizer.from_pretrained(adding)
    plain, said = "The river", "<|bos|>The river"
    assert (
        words.encode([plain, said]) == [theirs.encode(plain)] * 2
    )  # as lm-eval: not before one that says it
    assert words.encode([plain], special=False) == [theirs.encode(plain, add_special_tokens=False)]
    assert words.encode([said], special=True)[0][:2] == [words.prefix_id] * 2


def test_a_checkpoint_without_a_first_token_begins_with_the_last(merging: Checkpoint, tmp_path: Path) -> None:
    shutil.copy(merging.path / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<|end|>"}}))
    words = Words(tmp_path)
    assert words.prefix_id == words.eos_id == 2
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(UserError, match="no token that ends a text"):
        Words(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 7, "bos_token_id": 3}))
    assert (Words(tmp_path).eos_id, Words(tmp_path).prefix_id) == (7, 3)


def test_files_that_cannot_be_read_are_named(merging: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no tokenizer here"):
        Words(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        Words(tmp_path)
    shutil.copy(merging.path / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(UserError, match="no JSON"):
        Words(tmp_path)
