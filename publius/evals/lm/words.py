"""A checkpoint's texts as ids, exactly as `transformers`, and so lm-eval's own model class, reads the folder.

`Tokenizer` promises that no text becomes a special token. Benchmarks were measured without that promise: a
chat template joins strings, and the names of special tokens in them must become ids. So this reads
`tokenizer.json` as it stands.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import tokenizers

from publius.core.errors import UserError

__all__ = ["Words"]


class Words:
    """Encodes and decodes.

    Args:
        folder: of a checkpoint in Hugging Face layout.

    Raises:
        UserError: when its tokenizer cannot be read, or names no token that ends a text.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise UserError("no tokenizer here", where=str(path), fix="give a folder with a tokenizer.json")
        try:
            self._inner = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the Rust side raises bare Exception
            raise UserError(
                f"the tokenizer cannot be read: {error}", where=str(path), fix="copy the file again"
            ) from error
        self._inner.no_padding()
        self._inner.no_truncation()
        names = {**_read(folder / "special_tokens_map.json"), **_read(folder / "tokenizer_config.json")}
        numbers = _read(folder / "config.json")
        self.special_tokens = {
            key: text for key in ("bos_token", "eos_token", "pad_token") if (text := _text(names.get(key)))
        }
        """What a chat template may name: `bos_token`, `eos_token`, `pad_token`."""
        end = self._id("eos_token", numbers)
        if end is None:
            raise UserError(
                "the checkpoint names no token that ends a text",
                where=str(folder / "tokenizer_config.json"),
                fix='write "eos_token" there',
            )
        self.eos_id: int = end
        """Ends a text."""
        first = self._id("bos_token", numbers)
        self.prefix_id: int = end if first is None else first
        """Stands before a text that follows nothing: what begins a text, else what ends one."""
        self._adds = bool(self._inner.encode("", add_special_tokens=True).ids)
        self._prefix = self.decode([self.prefix_id], skip_special=False)

    def _id(self, name: str, numbers: dict[str, Any]) -> int | None:
        text = self.special_tokens.get(name)
        found = None if text is None else self._inner.token_to_id(text)
        number = numbers.get(f"{name}_id")
        return found if found is not None else number if isinstance(number, int) else None

    def encode(self, texts: Sequence[str], *, special: bool | None = None) -> list[list[int]]:
        """The ids of each text. Names of special tokens in a text become those tokens.

        Args:
            special: whether what the tokenizer puts around every text is put around these; None: it is, but
                for a text that says the first of it already.
        """
        if not self._adds:
            return self._encode(texts, False)
        wanted = [not text.startswith(self._prefix) if special is None else special for text in texts]
        parts = {
            way: iter(self._encode([t for t, w in zip(texts, wanted, strict=True) if w is way], way))
            for way in (False, True)
        }
        return [next(parts[way]) for way in wanted]

    def _encode(self, texts: Sequence[str], special: bool) -> list[list[int]]:
        return [one.ids for one in self._inner.encode_batch_fast(list(texts), add_special_tokens=special)]

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """The text of `ids`."""
        return self._inner.decode(list(ids), skip_special_tokens=skip_special)


def _read(path: Path) -> dict[str, Any]:
    """A small JSON file beside the tokenizer; nothing when there is none."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"this is no JSON: {error}", where=str(path), fix="copy the file again") from error
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def _text(value: Any) -> str:
    """A token's name: alone, or with how it is matched."""
    value = value.get("content") if isinstance(value, dict) else value
    return value if isinstance(value, str) else ""
