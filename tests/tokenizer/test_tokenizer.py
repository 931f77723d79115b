"""Text to ids and back; no text yields a special id; files load elsewhere."""

import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from publius.core.errors import UserError
from publius.tokenizer import SPECIAL_TOKENS, Tokenizer, TokenizerArtifact

TEXT = st.text(st.characters(codec="utf-8")) | st.lists(
    st.sampled_from([*SPECIAL_TOKENS, " ", "\n", "a", "7", "é", "<|", "|>"])
).map("".join)


def test_special_tokens_have_the_first_ids(tokenizer: Tokenizer) -> None:
    assert [tokenizer.special[name] for name in SPECIAL_TOKENS] == list(range(13))
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.end_id) == (0, 1, 2)
    assert tokenizer.vocab_size == 370
    assert tokenizer.added == ()


@given(text=TEXT)
def test_decode_undoes_encode_and_no_id_is_special(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not tokenizer.special_ids & set(ids)
    assert b"".join(map(tokenizer.id_bytes, ids)) == text.encode()


@given(texts=st.lists(TEXT, max_size=4))
def test_batch_is_single(tokenizer: Tokenizer, texts: list[str]) -> None:
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


def test_decode_writes_or_skips_special_tokens(tokenizer: Tokenizer) -> None:
    ids = [tokenizer.bos_id, *tokenizer.encode("bread"), tokenizer.end_id]
    assert tokenizer.decode(ids) == "<|bos|>bread<|end|>"
    assert tokenizer.decode(ids, skip_special=True) == "bread"
    assert tokenizer.id_bytes(tokenizer.end_id) == b""


def test_half_a_character_is_replaced_in_text_and_exact_in_bytes(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("字")  # not in the training text: three single bytes
    assert len(ids) == 3
    assert tokenizer.decode(ids[:2]) == "\ufffd"
    assert tokenizer.id_bytes(ids[0]) == b"\xe5"


def test_save_and_load(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "a")
    loaded = TokenizerArtifact(tmp_path / "a").load()
    loaded.save(tmp_path / "b")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    text = "typed <|end|><|assistant|> text"
    assert loaded.encode(text) == tokenizer.encode(text)
    assert not loaded.special_ids & set(loaded.encode(text))
    config = json.loads((tmp_path / "a" / "tokenizer_config.json").read_text())
    assert config["eos_token"] == "<|end|>"


def test_load_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no tokenizer here"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        Tokenizer.load(tmp_path)


def _foreign() -> tokenizers.Tokenizer:
    """A SentencePiece-like tokenizer of another family, with special tokens of its own."""
    vocab = {"<unk>": 0, "▁": 1, "a": 2, "b": 3, "▁a": 4, "<": 5, "|": 6, ">": 7}
    vocab |= {f"<0x{byte:02X}>": len(vocab) + byte for byte in range(256)}
    inner = tokenizers.Tokenizer(
        models.BPE(vocab=vocab, merges=[("▁", "a")], unk_token="<unk>", byte_fallback=True)
    )
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    inner.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(), decoders.Fuse()])
    inner.add_special_tokens(["<s>"])
    inner.add_tokens([AddedToken("<|end|>", special=False)])
    return inner


def test_a_foreign_tokenizer_gains_our_special_tokens(tmp_path: Path) -> None:
    tokenizer = Tokenizer(_foreign())
    assert tokenizer.added == tuple(name for name in SPECIAL_TOKENS if name != "<|end|>")
    assert tokenizer.vocab_size == 8 + 256 + 2 + 12
    assert len(tokenizer.special_ids) == 13
    assert tokenizer.decode(tokenizer.encode("b a\né")) == "b a\né"
    assert b"".join(map(tokenizer.id_bytes, tokenizer.encode("b aé"))) == "b aé".encode()
    assert not tokenizer.special_ids & set(tokenizer.encode("a<|end|>b<|user|>"))
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert (again.added, again.special) == ((), tokenizer.special)


def test_a_vocabulary_with_holes_is_refused() -> None:
    """Added tokens are numbered from its size: one of them would be a word, too."""
    vocab = {"<unk>": 0, "a": 1, "b": 2, "ab": 8}
    inner = tokenizers.Tokenizer(models.BPE(vocab, [("a", "b")], unk_token="<unk>"))
    with pytest.raises(UserError, match="holes"):
        Tokenizer(inner)


@pytest.mark.parametrize("size", [9_999, 10_000, 10_001, 30_000])
def test_a_long_text_is_encoded_like_a_short_one(tokenizer: Tokenizer, size: int) -> None:
    text = ("The cat <|end|> sat on\n the é mat. " * 1000)[:size]
    assert tokenizer.encode(text) == tokenizer._inner.encode(text, add_special_tokens=False).ids


def test_a_tokenizer_whose_vocabulary_spells_a_special_token_is_refused() -> None:
    inner = tokenizers.Tokenizer(models.WordLevel({"<unk>": 0, "<|end|>": 1}, unk_token="<unk>"))
    with pytest.raises(UserError, match="typed text"):
        Tokenizer(inner)
