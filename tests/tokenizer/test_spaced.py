"""Tokenizers of the SentencePiece kind write a space before a text that has none: where a text goes on from
other text it is none of it, neither on the way to ids nor back, whole or streamed."""

from __future__ import annotations

from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers

from publius.core.messages import (
    Conversation,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
    assistant,
    text_of,
    user,
)
from publius.serve.blocks import BlockReader, Says
from publius.tokenizer.renderer import Renderer
from publius.tokenizer.tokenizer import Tokenizer

SPACE = "\u2581"
TEXT = st.text(alphabet="ab (é\n", max_size=8)


def spaced() -> Tokenizer:
    """Llama 2's pipeline over a few merges."""
    words = [*f'ab(){SPACE}:{{}}"', f"{SPACE}a", f"{SPACE}(", "ab", f"{SPACE}ab"]
    vocab = {"<unk>": 0} | {f"<0x{byte:02X}>": 1 + byte for byte in range(256)}
    vocab |= {word: 257 + place for place, word in enumerate(words)}
    merges = [(SPACE, "a"), (SPACE, "("), ("a", "b"), (f"{SPACE}a", "b")]
    inner = tokenizers.Tokenizer(
        models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    inner.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    inner.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return Tokenizer(inner)


TOKENIZER = spaced()
RENDERER = Renderer(TOKENIZER)


def streamed(ids: list[int], *, goes_on: bool = False, raw: bool = False) -> str:
    reader = BlockReader(TOKENIZER, goes_on=goes_on, raw=raw)
    parts = [part for id in ids for part in reader.take([id])] + reader.finish(None)
    return "".join(part.text for part in parts if isinstance(part, Says))


def test_it_is_told_apart(tokenizer: Tokenizer) -> None:
    assert TOKENIZER.spaced and not tokenizer.spaced
    for text in ("(A", " (A", "", "\n"):
        assert tokenizer.encode_on(text) == tokenizer.encode(text)
    assert tokenizer.decode_on(tokenizer.encode(" a")) == " a"


@given(TEXT, TEXT)
def test_what_goes_on_is_written_as_in_the_whole(before: str, text: str) -> None:
    ids = TOKENIZER.encode_on(text)
    assert TOKENIZER.decode_on(ids) == text
    assert TOKENIZER.decode([*TOKENIZER.encode(f"{before}.\n"), *ids]) == f"{before}.\n{text}"


def test_an_answer_is_what_the_text_really_goes_on_with() -> None:
    said = TOKENIZER.encode("ab: (a")
    assert said[: len(TOKENIZER.encode("ab:"))] == TOKENIZER.encode("ab:")
    assert TOKENIZER.encode_on(" (a") == said[len(TOKENIZER.encode("ab:")) :]
    assert TOKENIZER.encode(" (a") != TOKENIZER.encode_on(" (a")


@pytest.mark.parametrize("prefill", ["", "ab"])
@given(text=TEXT.filter(str.strip))
def test_a_reply_is_the_same_whole_and_streamed(prefill: str, text: str) -> None:
    asked = Conversation(messages=(user("b"), *([assistant(prefill)] if prefill else [])))
    prompt = RENDERER.prompt(asked)
    goes_on = RENDERER.goes_on(prompt)
    assert goes_on == bool(prefill)
    ids = TOKENIZER.encode_on(text) if goes_on else TOKENIZER.encode(text)
    parsed = RENDERER.parse([*ids, TOKENIZER.end_id], goes_on=goes_on)
    assert text_of(parsed.blocks) == streamed(ids, goes_on=goes_on) == text


def test_every_block_begins_a_text() -> None:
    call = ToolUseBlock(id="toolu_0", name="a", input={"b": "ab"})
    said = assistant([ThinkingBlock(thinking="ab (a"), TextBlock(text="b ab"), call])
    ids = RENDERER.render(Conversation(messages=(user("b"), said))).tokens
    ids = ids[len(RENDERER.prompt(Conversation(messages=(user("b"),)))) :]
    assert streamed(ids) == 'ab (ab ab{"b":"ab"}'
    thought, text, called = RENDERER.parse(ids).blocks
    assert (thought, text) == said.content[:2]
    assert isinstance(called, ToolUseBlock) and called.input == call.input


def test_raw_text_is_told_as_it_goes_on() -> None:
    assert streamed(TOKENIZER.encode_on(" ab"), raw=True) == " ab"


def test_transformers_begins_every_stretch_with_the_space(tmp_path: Path) -> None:
    """Mistral's pipeline: its "first" would leave the space out after each special token of a prompt."""
    transformers = pytest.importorskip("transformers")
    inner = tokenizers.Tokenizer.from_str(TOKENIZER._inner.to_str())
    inner.normalizer = normalizers.Sequence([])
    inner.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, "first", split=False)
    ours = Tokenizer(inner)
    ours.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    said = [{"role": "user", "content": "ab a"}, {"role": "assistant", "content": "a (ab"}]
    chat = Conversation(messages=(user("ab a"), assistant("a (ab")))
    ids = theirs.apply_chat_template(said, tokenize=True, return_dict=False)
    assert ids == Renderer(ours).render(chat).tokens == RENDERER.render(chat).tokens
