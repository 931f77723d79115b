"""A corpus as token ids on disk: memory-mapped, checksummed, read without copying.

Each shard is two raw little-endian files: `<split>-00000.tokens` (uint16, or uint32 when the
vocabulary needs it) and `<split>-00000.offsets` (int64: where each document starts, and the end).
`index.json` lists them with sizes and SHA-256, and is written last.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import IO, Any, Literal, Self, cast, overload

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from publius.core.config import Config, execution
from publius.core.errors import UserError
from publius.data.artifacts import SPLITS, Corpus
from publius.data.types import Document
from publius.pipeline import Artifact, Run, stage
from publius.tokenizer.tokenizer import Tokenizer, TokenizerArtifact

__all__ = ["Shards", "ShardsWriter", "Split", "TokenizeConfig", "TokenizedDocuments", "tokenize"]

SHARD_BYTES = 64 * 2**20
"""A shard holds no more (a single longer document has one of its own)."""
_BATCH_BYTES = 4_000_000

Split = Literal["train", "val"]


class TokenizedDocuments(Sequence[NDArray[np.unsignedinteger[Any]]]):
    """The documents of a split, each a read-only view of the mapped file (bos, text, end)."""

    def __init__(self, shards: Sequence[tuple[NDArray[np.unsignedinteger[Any]], NDArray[np.int64]]]) -> None:
        self._shards = shards
        self._ends = list(accumulate(len(offsets) - 1 for _, offsets in shards))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> NDArray[np.unsignedinteger[Any]]: ...
    @overload
    def __getitem__(self, index: slice) -> list[NDArray[np.unsignedinteger[Any]]]: ...
    def __getitem__(
        self, index: int | slice
    ) -> NDArray[np.unsignedinteger[Any]] | list[NDArray[np.unsignedinteger[Any]]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"document {index} of {len(self)}")
        shard = bisect_right(self._ends, position)
        tokens, offsets = self._shards[shard]
        local = position - (self._ends[shard - 1] if shard else 0)
        return tokens[offsets[local] : offsets[local + 1]]

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each document, without touching the tokens."""
        parts = [np.diff(offsets) for _, offsets in self._shards]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)


class Shards(Artifact):
    """A tokenized corpus with splits `train` and `val`."""

    @cached_property
    def _index(self) -> dict[str, Any]:
        path = self.file("index.json")
        try:
            return cast("dict[str, Any]", json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise _corrupt(path, "it is not JSON") from error

    @property
    def vocab_size(self) -> int:
        """Ids are below this."""
        return int(self._index["vocab_size"])

    def documents(self, split: Split) -> TokenizedDocuments:
        """The documents of a split, as views of memory-mapped files.

        Raises:
            UserError: naming a shard whose size is wrong. `verify` also reads the contents.
        """
        dtype = np.dtype(self._index["dtype"]).newbyteorder("<")
        shards: list[tuple[NDArray[Any], NDArray[np.int64]]] = []
        for shard in self._index["splits"][split]["shards"]:
            for part in ("tokens", "offsets"):
                self._check_size(shard[part])
            tokens = np.memmap(self.path / shard["tokens"]["file"], dtype, "r")
            offsets = np.fromfile(self.path / shard["offsets"]["file"], np.dtype("<i8"))
            shards.append((tokens, offsets))
        return TokenizedDocuments(shards)

    def tokens(self, split: Split) -> int:
        """Tokens of a split, bos and end counted."""
        return int(self._index["splits"][split]["tokens"])

    def bytes(self, split: Split) -> int:
        """UTF-8 bytes of the split's text: what bits per byte divides by."""
        return int(self._index["splits"][split]["bytes"])

    def verify(self) -> None:
        """Read every file and compare its SHA-256 with the index.

        Raises:
            UserError: naming the first file that is missing, cut off or changed.
        """
        for split in SPLITS:
            for shard in self._index["splits"][split]["shards"]:
                for part in ("tokens", "offsets"):
                    self._check_size(shard[part])
                    path = self.path / shard[part]["file"]
                    with path.open("rb") as file:
                        if hashlib.file_digest(file, "sha256").hexdigest() != shard[part]["sha256"]:
                            raise _corrupt(path, "its checksum does not match the index")

    def _check_size(self, part: dict[str, Any]) -> None:
        path = self.path / part["file"]
        size = path.stat().st_size if path.is_file() else -1
        if size != part["bytes"]:
            found = "it is missing" if size < 0 else f"it has {size} bytes, not {part['bytes']}"
            raise _corrupt(path, found)


def _corrupt(path: Path, why: str) -> UserError:
    return UserError(
        f"a token shard is damaged: {why}",
        where=str(path),
        fix="delete the artifact and run its stage again",
    )


class ShardsWriter:
    """Writes a `Shards` folder, document by document; `index.json` appears when the block ends well."""

    def __init__(self, folder: Path, vocab_size: int, *, shard_bytes: int = SHARD_BYTES) -> None:
        self._folder = folder
        self._vocab_size = vocab_size
        self._dtype = np.dtype("uint16" if vocab_size <= 2**16 else "uint32")
        self._limit = shard_bytes // self._dtype.itemsize
        self._splits: dict[str, dict[str, Any]] = {
            split: {"tokens": 0, "documents": 0, "bytes": 0, "shards": []} for split in SPLITS
        }
        self._split = ""
        self._file: IO[bytes] | None = None
        self._offsets = [0]

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        return self

    def write(self, split: Split, tokens: Sequence[int], text_bytes: int) -> None:
        """Add one document; all of one split must come before the next begins."""
        if split != self._split or (self._offsets[-1] and self._offsets[-1] + len(tokens) > self._limit):
            self._finish_shard()
            self._split = split
        if self._file is None:
            number = len(self._splits[split]["shards"])
            self._file = (self._folder / f"{split}-{number:05d}.tokens").open("wb")
        self._file.write(np.asarray(tokens, self._dtype.newbyteorder("<")).tobytes())
        self._offsets.append(self._offsets[-1] + len(tokens))
        totals = self._splits[split]
        totals["tokens"] += len(tokens)
        totals["documents"] += 1
        totals["bytes"] += text_bytes

    def _finish_shard(self) -> None:
        if self._file is None:
            return
        self._file.close()
        self._file = None
        shards = self._splits[self._split]["shards"]
        name = f"{self._split}-{len(shards):05d}"
        (self._folder / f"{name}.offsets").write_bytes(np.asarray(self._offsets, "<i8").tobytes())
        shards.append({part: self._entry(f"{name}.{part}") for part in ("tokens", "offsets")})
        self._offsets = [0]

    def _entry(self, name: str) -> dict[str, Any]:
        path = self._folder / name
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"file": name, "bytes": path.stat().st_size, "sha256": digest}

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:
            if self._file is not None:
                self._file.close()
            return
        self._finish_shard()
        index = {"dtype": self._dtype.name, "vocab_size": self._vocab_size, "splits": self._splits}
        temporary = self._folder / "index.json.partial"
        temporary.write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
        temporary.replace(self._folder / "index.json")


class TokenizeConfig(Config):
    """How to tokenize; shard size does not change the documents."""

    shard_bytes: int = execution(SHARD_BYTES, ge=1024, le=SHARD_BYTES)
    max_tokens: int | None = Field(default=None, ge=1)
    """Stop the training split after about this many tokens; None takes all."""


@stage(version=1)
def tokenize(run: Run, config: TokenizeConfig, *, corpus: Corpus, tokenizer: TokenizerArtifact) -> Shards:
    """Turn a corpus into shards; each document is bos, its ids, end.

    Metrics: `train_tokens`, `val_tokens`, `bytes_per_token` (of the training split).

    Raises:
        UserError: when no training document has any text.
    """
    encoder = tokenizer.load()
    with ShardsWriter(run.output, encoder.vocab_size, shard_bytes=config.shard_bytes) as writer:
        for split in SPLITS:
            documents = corpus.train() if split == "train" else corpus.val()
            written = 0
            for ids, size in _encoded(encoder, documents):
                writer.write(split, ids, size)
                written += len(ids)
                if split == "train" and config.max_tokens and written >= config.max_tokens:
                    break
    shards = Shards(run.output)
    train_tokens = shards.tokens("train")
    if train_tokens == 0:
        raise UserError("the corpus has no text", where=str(corpus.path), fix="give documents with text")
    run.count(tokens=train_tokens)
    run.metric("train_tokens", train_tokens)
    run.metric("val_tokens", shards.tokens("val"))
    run.metric("bytes_per_token", shards.bytes("train") / train_tokens)
    return shards


def _encoded(encoder: Tokenizer, documents: Iterable[Document]) -> Iterator[tuple[list[int], int]]:
    """`(ids, text bytes)` of each document with text, encoded some megabytes at a time."""
    texts: list[str] = []
    size = 0
    for document in documents:
        if document.text:
            texts.append(document.text)
            size += len(document.text)
        if size >= _BATCH_BYTES:
            yield from _batch(encoder, texts)
            texts, size = [], 0
    yield from _batch(encoder, texts)


def _batch(encoder: Tokenizer, texts: list[str]) -> Iterator[tuple[list[int], int]]:
    for text, ids in zip(texts, encoder.encode_batch(texts), strict=True):
        yield [encoder.bos_id, *ids, encoder.end_id], len(text.encode("utf-8"))
