"""Text to ids and back, with one promise: no text, whatever it says, becomes a special token.

A special token is put into a prompt by its id alone (the Renderer does that), so a user who types
"<|end|><|assistant|>" only sends the letters. The work itself is done by Hugging Face `tokenizers`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import tokenizers
from tokenizers import AddedToken, pre_tokenizers

from publius.core.errors import UserError
from publius.pipeline import Artifact
from publius.tokenizer.chat_template import CHAT_TEMPLATE
from publius.tokenizer.special import BOS, END, PAD, SPECIAL_TOKENS

__all__ = ["Tokenizer", "TokenizerArtifact"]

_LONG = 10_000
"""Characters from which a text is encoded as a batch of one, during which other threads run: alone, 4 MB hold
the interpreter for seconds."""
_RAW_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class Tokenizer:
    """A byte-level tokenizer with our special tokens.

    Args:
        inner: any `tokenizers.Tokenizer`. Special tokens of ours that it lacks are added at the end of
            its vocabulary (see `added`); the object is changed in place and belongs to us from then on.

    Raises:
        UserError: when some text would still yield a special token.
    """

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        before = set(inner.get_vocab(with_added_tokens=True))
        self.added = tuple(token for token in SPECIAL_TOKENS if token not in before)
        """Special tokens that had to be added: the model's embedding must grow to `vocab_size`."""
        inner.add_special_tokens(
            [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
        )
        inner.encode_special_tokens = True  # special tokens met in text are spelled out, as letters
        # "first" writes the space at the head of a whole prompt only. The Renderer encodes every stretch by
        # itself, so all begin with it; `transformers`, which splits a prompt at its special tokens, must too.
        split = inner.pre_tokenizer
        if isinstance(split, pre_tokenizers.Metaspace) and split.prepend_scheme == "first":
            split.prepend_scheme = "always"
        inner.no_padding()
        inner.no_truncation()
        self._inner = inner
        vocab = inner.get_vocab(with_added_tokens=True)
        if len(set(vocab.values())) != len(vocab):  # added tokens are numbered from its size, over its holes
            raise UserError(
                "two tokens of this tokenizer have one id: its vocabulary has holes where tokens are added",
                where="tokenizer",
                fix="number its tokens without holes, or put placeholders into them",
            )
        self.special: dict[str, int] = {token: vocab[token] for token in SPECIAL_TOKENS}
        """Special token text -> id."""
        self.vocab_size: int = max(vocab.values()) + 1
        """Ids are below this (holes in an imported vocabulary are counted)."""
        self.pad_id: int = self.special[PAD]
        self.bos_id: int = self.special[BOS]
        self.end_id: int = self.special[END]
        self.special_ids: frozenset[int] = frozenset(self.special.values())
        self._refuse_leaks()

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The tokenizer of a folder that holds `tokenizer.json` (ours, or any Hugging Face one).

        Raises:
            UserError: when the file is missing or cannot be read.
        """
        path = Path(folder) / "tokenizer.json"
        if not path.is_file():
            raise UserError("no tokenizer here", where=str(path), fix="give a folder with a tokenizer.json")
        try:
            inner = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the Rust side raises bare Exception
            raise UserError(
                f"the tokenizer cannot be read: {error}", where=str(path), fix="copy the file again"
            ) from error
        return cls(inner)

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` and the small files with which `transformers` loads it.

        The same tokenizer writes the same bytes.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._inner.save(str(folder / "tokenizer.json"))
        names = {"bos_token": BOS, "eos_token": END, "pad_token": PAD}
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **names,
            "clean_up_tokenization_spaces": False,
            "add_prefix_space": False,
        }
        _write_json(folder / "tokenizer_config.json", config)
        _write_json(folder / "special_tokens_map.json", names)
        (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")

    def encode(self, text: str) -> list[int]:
        """The ids of `text`; never a special id."""
        if len(text) > _LONG:
            return self.encode_batch([text])[0]
        return self._inner.encode(text, add_special_tokens=False).ids

    @cached_property
    def spaced(self) -> bool:
        """Whether a text begins with a space that it does not have (SentencePiece: Llama 2, Mistral): then
        what goes on from other text is written otherwise than what begins one."""
        return b"".join(map(self.id_bytes, self.encode("a"))) == b" a"

    def encode_on(self, text: str) -> list[int]:
        """The ids of `text` where it goes on from other text."""
        if not self.spaced:
            return self.encode(text)
        before, ids = self.encode("\n"), self.encode(f"\n{text}")
        return ids[len(before) :] if ids[: len(before)] == before else self.encode(text)

    def decode_on(self, ids: Iterable[int]) -> str:
        """The text of `ids` where they go on from others: the space they begin with is one."""
        if not self.spaced:
            return self.decode(ids)
        return self.decode([*self.encode("\n"), *ids]).removeprefix("\n")

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, in parallel."""
        return [e.ids for e in self._inner.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
        """The text of `ids`; a character cut in half becomes U+FFFD.

        Args:
            skip_special: leave special tokens out instead of writing their names.
        """
        return self._inner.decode(list(ids), skip_special_tokens=skip_special)

    def id_bytes(self, token: int) -> bytes:
        """The exact bytes one id stands for, for streaming; empty for special tokens, holes, and ids that
        only the model has (checkpoints are padded)."""
        try:
            return self._bytes[token]
        except IndexError:
            return b""

    @cached_property
    def _bytes(self) -> list[bytes]:
        table = [b""] * self.vocab_size
        byte_level = '"ByteLevel"' in json.dumps(json.loads(self._inner.to_str())["decoder"])
        added = self._inner.get_added_tokens_decoder()
        for token, index in self._inner.get_vocab(with_added_tokens=True).items():
            if index in added:
                table[index] = b"" if added[index].special else token.encode("utf-8")
            elif byte_level:
                table[index] = bytes(_BYTE_OF[c] for c in token)
            elif raw := _RAW_BYTE.fullmatch(token):
                table[index] = bytes([int(raw[1], 16)])
            else:  # SentencePiece writes a space as U+2581
                table[index] = token.replace("\u2581", " ").encode("utf-8")
        return table

    def _refuse_leaks(self) -> None:
        for token in SPECIAL_TOKENS:
            for text in (token, f"a{token}b", f" {token} ", f"{token}{token}\n"):
                if self.special_ids & set(self.encode(text)):
                    raise UserError(
                        f"this tokenizer turns the typed text {token!r} into a special token",
                        where="tokenizer",
                        fix="use a byte-level BPE tokenizer, or train one with publius",
                    )


class TokenizerArtifact(Artifact):
    """A stage's tokenizer: the files of `Tokenizer.save`."""

    def load(self) -> Tokenizer:
        """The tokenizer.

        Raises:
            UserError: when its files are missing or damaged.
        """
        return Tokenizer.load(self.path)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _byte_characters() -> dict[str, int]:
    """The printable character byte-level BPE writes for each byte (GPT-2, Radford et al. 2019)."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [b for b in range(256) if b not in set(printable)]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


_BYTE_OF = _byte_characters()
