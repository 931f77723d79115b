"""The four kinds of data a stage can take or give, and the writers that make them.

Each is a folder of `train.jsonl.zst` and `val.jsonl.zst`, one JSON object a line, so that any tool
can read it: `zstdcat train.jsonl.zst | head -1`. Reading gives back exactly what was written, `meta`
included.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from publius.core.errors import UserError
from publius.core.messages import Conversation
from publius.data.files import JsonlWriter, read_lines
from publius.data.types import Document, Preference
from publius.pipeline import Artifact

__all__ = [
    "SPLITS",
    "Conversations",
    "Corpus",
    "Preferences",
    "Prompts",
    "document_row",
    "model_row",
    "write_conversations",
    "write_corpus",
    "write_preferences",
    "write_prompts",
]

SPLITS: Final = ("train", "val")
"""Every data artifact has both files; `val` may be empty."""

_Item = TypeVar("_Item")


class Corpus(Artifact):
    """Documents for pretraining, streamed."""

    def train(self) -> Iterator[Document]:
        """The training documents, in file order.

        Raises:
            UserError: when the file is missing, damaged or not a corpus.
        """
        return _read(self.file("train.jsonl.zst"), _document)

    def val(self) -> Iterator[Document]:
        """The held-out documents."""
        return _read(self.file("val.jsonl.zst"), _document)


class Conversations(Artifact):
    """Whole conversations: demonstrations to fine-tune on."""

    def train(self) -> list[Conversation]:
        """The training conversations."""
        return list(_read(self.file("train.jsonl.zst"), Conversation.model_validate))

    def val(self) -> list[Conversation]:
        """The held-out conversations."""
        return list(_read(self.file("val.jsonl.zst"), Conversation.model_validate))


class Prompts(Artifact):
    """Conversations that end in a user message, or in a partial assistant message (a prefill)."""

    def train(self) -> list[Conversation]:
        """The training prompts."""
        return list(_read(self.file("train.jsonl.zst"), Conversation.model_validate))

    def val(self) -> list[Conversation]:
        """The held-out prompts."""
        return list(_read(self.file("val.jsonl.zst"), Conversation.model_validate))


class Preferences(Artifact):
    """Pairs of replies with a target probability."""

    def train(self) -> list[Preference]:
        """The training pairs."""
        return list(_read(self.file("train.jsonl.zst"), Preference.model_validate))

    def val(self) -> list[Preference]:
        """The held-out pairs."""
        return list(_read(self.file("val.jsonl.zst"), Preference.model_validate))


def document_row(document: Document) -> dict[str, Any]:
    """The JSON object a document is stored as."""
    return document._asdict()


def model_row(item: Conversation | Preference) -> dict[str, Any]:
    """The JSON object a conversation or preference is stored as."""
    return item.model_dump(mode="json")


def write_corpus(folder: Path, *, train: Iterable[Document], val: Iterable[Document] = ()) -> None:
    """Write a `Corpus` folder; each file appears whole or not at all.

    Raises:
        UserError: when the disk refuses the write.
    """
    _write(folder, train, val, document_row)


def write_conversations(
    folder: Path, *, train: Iterable[Conversation], val: Iterable[Conversation] = ()
) -> None:
    """Write a `Conversations` folder, as `write_corpus` does."""
    _write(folder, train, val, model_row)


def write_prompts(folder: Path, *, train: Iterable[Conversation], val: Iterable[Conversation] = ()) -> None:
    """Write a `Prompts` folder, as `write_corpus` does."""
    _write(folder, train, val, model_row)


def write_preferences(folder: Path, *, train: Iterable[Preference], val: Iterable[Preference] = ()) -> None:
    """Write a `Preferences` folder, as `write_corpus` does."""
    _write(folder, train, val, model_row)


def _write(
    folder: Path, train: Iterable[_Item], val: Iterable[_Item], row: Callable[[_Item], dict[str, Any]]
) -> None:
    for split, items in zip(SPLITS, (train, val), strict=True):
        with JsonlWriter(folder / f"{split}.jsonl.zst") as writer:
            for item in items:
                writer.write(row(item))


def _document(row: Any) -> Document:
    return Document(**row)


def _read(path: Path, build: Callable[[Any], _Item]) -> Iterator[_Item]:
    advice = "delete the artifact and run its stage again"
    try:
        for line in read_lines(str(path)):
            try:
                item = build(json.loads(line.text))
            except (ValueError, TypeError, ValidationError) as error:
                reason = str(error).splitlines()[0]
                raise UserError(
                    f"a line of this artifact cannot be read: {reason}", where=f"{path}:{line.number}"
                ) from error
            yield item
    except UserError as error:
        raise UserError(error.what, where=error.where, fix=advice) from error
