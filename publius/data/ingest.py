"""Stages that bring a user's files in, with clean splits.

An item's split is decided by a hash of what it is about (a document's text; the first thing the user
says, for conversations, pairs and prompts), so the same text never lands on both sides, in whatever
file or order it comes. Given held-out files, items of theirs are dropped from the training side.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from itertools import chain, islice
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, Self, TypeVar

from fsspec.core import url_to_fs
from pydantic import Field

from publius.core.config import Config
from publius.core.errors import UserError
from publius.core.messages import Conversation, TextBlock
from publius.data.artifacts import (
    SPLITS,
    Conversations,
    Corpus,
    Preferences,
    Prompts,
    document_row,
    model_row,
)
from publius.data.files import JsonlWriter, expand, read_lines
from publius.data.pair_shapes import MissingSide, TiedPair
from publius.data.sources import Drop, file_conversations, file_documents, file_preferences, file_prompts
from publius.data.splits import about, normal
from publius.data.types import Document, Preference
from publius.pipeline import Run, stage

__all__ = [
    "IngestConfig",
    "IngestPreferencesConfig",
    "IngestTextConfig",
    "fingerprint",
    "fraction_of",
    "ingest_chats",
    "ingest_preferences",
    "ingest_prompts",
    "ingest_text",
]

_Item = TypeVar("_Item")


class IngestConfig(Config):
    """Which files to read, and how to split them."""

    paths: tuple[str, ...] = Field(min_length=1)
    """Files, folders, globs or URLs (`hf://datasets/owner/name/...`)."""
    val_paths: tuple[str, ...] = ()
    """Held-out files. When given, nothing else is held out."""
    val_fraction: float = Field(default=0.02, ge=0.0, lt=1.0)
    """The share held out when `val_paths` is empty."""
    seed: int = 0
    max_items: int | None = Field(default=None, ge=1)
    """Read at most so many, in turn from each file, so that every file has its share."""
    drop_malformed: bool = False
    """Pass over (and count) rows that are valid JSON but no valid item, instead of stopping at the first."""


class IngestPreferencesConfig(IngestConfig):
    """Which pairs to read, how to split them, and what to do with those that say nothing."""

    ties: Literal["drop", "keep", "error"] = "drop"
    """Pairs of which neither reply is better: passed over and counted, kept as labels of 0.5, or refused."""
    source: str | None = Field(default=None, min_length=1)
    """Name all pairs so, whatever their rows say: `train_reward.source_weights` weighs by this name."""
    missing: Literal["error", "drop"] = "error"
    """Pairs that lack a reply: refused, or passed over and counted (so, too, under `drop_malformed`)."""


class IngestTextConfig(IngestConfig):
    """Which documents to read, and how to split them."""

    val_fraction: float = Field(default=0.01, ge=0.0, lt=1.0)
    max_bytes: int | None = Field(default=None, ge=1)
    """Stop after about so much training text, read in turn from each file."""


class _Kind(NamedTuple, Generic[_Item]):
    """How one kind of item is read, told apart, and stored."""

    noun: str
    read: Callable[[str, Drop | None], Iterator[_Item]]
    about: Callable[[_Item], str]
    row: Callable[[_Item], dict[str, Any]]


def fingerprint(config: IngestConfig) -> dict[str, str]:
    """File -> SHA-256 of its contents (for URLs, what the server says identifies them).

    It enters the stage's identity: a changed file is new data.
    """
    found: dict[str, str] = {}
    for path in expand([*config.paths, *config.val_paths]):
        if "://" in path:
            system, inner = url_to_fs(path)
            found[path] = str(system.ukey(inner))
        else:
            with Path(path).open("rb") as file:
                found[path] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _digest(text: str, seed: int) -> bytes:
    """A hash of the text that ignores case and spacing, so that trivial copies stay together."""
    return hashlib.blake2b(f"{seed}\0{normal(text)}".encode(), digest_size=16).digest()


def fraction_of(text: str, seed: int) -> float:
    """A number in [0, 1) that depends on `text` and `seed` alone."""
    return int.from_bytes(_digest(text, seed)[:8], "big") / 2**64


@stage(version=2, fingerprint=fingerprint)
def ingest_text(run: Run, config: IngestTextConfig) -> Corpus:
    """Read documents. Empty ones are dropped.

    Metrics: `train_documents`, `val_documents`, `train_bytes`, `dropped_empty`, `dropped_held_out` (in
    the held-out files too), `dropped_malformed`. The stages below name theirs after their items.

    Raises:
        UserError: for unreadable input, naming file and line, and when no text is found.
    """
    kind = _Kind("documents", file_documents, lambda d: d.text, document_row)
    _ingest(run, config, kind, config.max_bytes)
    return Corpus(run.output)


@stage(version=2, fingerprint=fingerprint)
def ingest_chats(run: Run, config: IngestConfig) -> Conversations:
    """Read conversations to fine-tune on. A last message that nobody answered is cut off, and conversations
    without a reply, or whose last one is empty, are dropped. Metrics and errors as `ingest_text`; these
    count as `dropped_empty`.
    """
    kind = _Kind("conversations", _to_the_reply, lambda c: about(c.messages), model_row)
    _ingest(run, config, kind)
    return Conversations(run.output)


@stage(version=3, fingerprint=fingerprint)
def ingest_preferences(run: Run, config: IngestPreferencesConfig) -> Preferences:
    """Read pairs of replies; pairs of one prompt stay on one side.

    Metrics and errors as `ingest_text`, and `dropped_ties`, `dropped_missing`.
    """

    def read(path: str, drop: Drop | None) -> Iterator[Preference]:
        for pair in file_preferences(path, drop, ties=config.ties == "keep"):
            yield pair if config.source is None else pair.model_copy(update={"source": config.source})

    kind = _Kind("pairs", read, lambda p: about(p.prompt.messages), model_row)
    _ingest(run, config, kind)
    return Preferences(run.output)


@stage(version=2, fingerprint=fingerprint)
def ingest_prompts(run: Run, config: IngestConfig) -> Prompts:
    """Read prompts; of whole conversations the last reply is dropped. Metrics and errors as `ingest_text`."""
    kind = _Kind("prompts", file_prompts, lambda c: about(c.messages), model_row)
    _ingest(run, config, kind)
    return Prompts(run.output)


def _to_the_reply(path: str, drop: Drop | None) -> Iterator[Conversation]:
    for conversation in file_conversations(path, drop):
        if conversation.messages[-1].role == "user":  # a last message nobody answered teaches nothing
            conversation = conversation.model_copy(update={"messages": conversation.messages[:-1]})
        yield conversation


def _replies(conversation: Conversation) -> bool:
    """Whether it ends with a reply that says or does something."""
    last = conversation.messages[-1].content if conversation.messages else ()
    return any(not isinstance(block, TextBlock) or block.text.strip() for block in last)


def _ingest(run: Run, config: IngestConfig, kind: _Kind[_Item], max_bytes: int | None = None) -> None:
    train, val = (run.output / f"{split}.jsonl.zst" for split in SPLITS)
    with _Splitter(train, val, config, kind) as splitter:
        for path in expand(config.val_paths) if config.val_paths else ():
            for item in kind.read(path, splitter.drop):
                if splitter.answered(item):
                    splitter.hold_out(item)
        files = expand(config.paths)
        limited = config.max_items is not None or max_bytes is not None
        items = _in_turn([kind.read(path, splitter.drop) for path in files], fair=limited)
        for item in islice((item for item in items if splitter.answered(item)), config.max_items):
            splitter.place(item)
            if max_bytes is not None and splitter.train_bytes >= max_bytes:
                break
    counts = splitter.counts()
    if not counts[f"train_{kind.noun}"]:
        raise splitter.first_error or UserError(
            "nothing to train on was found", where=", ".join(config.paths), fix="give data with text"
        )
    if not counts[f"val_{kind.noun}"] and config.val_fraction and not config.val_paths:
        moved = _move_rows(train, val, splitter.nearest_rows)
        counts[f"train_{kind.noun}"] -= moved
        counts[f"val_{kind.noun}"] += moved
    for name, count in counts.items():
        run.metric(name, count)


class _Splitter(AbstractContextManager["_Splitter[Any]"], Generic[_Item]):
    """Writes items to the side their text decides."""

    def __init__(self, train: Path, val: Path, config: IngestConfig, kind: _Kind[_Item]) -> None:
        self._train, self._val = JsonlWriter(train), JsonlWriter(val)
        self._config, self._kind = config, kind
        self._held_out: set[bytes] = set()
        self._dropped = {"empty": 0, "held_out": 0, "malformed": 0}
        self._passed = {"malformed"} if config.drop_malformed else set[str]()
        if isinstance(config, IngestPreferencesConfig):
            self._dropped |= {"ties": 0, "missing": 0}
            self._passed |= {"ties"} if config.ties == "drop" else set()
            self._passed |= {"missing"} if config.missing == "drop" or config.drop_malformed else set()
        self._nearest = 1.0
        self.drop: Drop | None = self._drop if self._passed else None
        self.first_error: UserError | None = None
        """That of the first row passed over."""
        self.nearest_rows: list[int] = []
        """Training rows to hold out where chance held out none: those whose hash came nearest."""
        self.train_bytes = 0
        """UTF-8 bytes of what the training items are about."""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._train)
            stack.enter_context(self._val)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._stack.__exit__(*error)

    def hold_out(self, item: _Item) -> None:
        """Put an item of the held-out files aside, and remember it; an empty document is dropped."""
        if isinstance(item, Document) and not item.text.strip():
            self._dropped["empty"] += 1
            return
        self._held_out.add(_digest(self._kind.about(item), self._config.seed))
        self._val.write(self._kind.row(item))

    def _drop(self, error: UserError) -> None:
        reason = {TiedPair: "ties", MissingSide: "missing"}.get(type(error), "malformed")
        if reason not in self._passed:
            raise error
        self._dropped[reason] += 1
        self.first_error = self.first_error or error

    def answered(self, item: _Item) -> bool:
        """Whether a conversation to learn from has a reply; those that have none are counted."""
        found = self._kind.noun != "conversations" or not isinstance(item, Conversation) or _replies(item)
        self._dropped["empty"] += not found
        return found

    def place(self, item: _Item) -> None:
        """Write an item to its side, or drop and count it."""
        text = self._kind.about(item)
        share = fraction_of(text, self._config.seed)
        if isinstance(item, Document) and not text.strip():
            self._dropped["empty"] += 1
        elif self._held_out and _digest(text, self._config.seed) in self._held_out:
            self._dropped["held_out"] += 1
        elif not self._config.val_paths and share < self._config.val_fraction:
            self._val.write(self._kind.row(item))
        else:
            if share < self._nearest:
                self._nearest, self.nearest_rows = share, []
            if share == self._nearest:
                self.nearest_rows.append(self._train.rows)
            self._train.write(self._kind.row(item))
            self.train_bytes += len(text.encode("utf-8"))

    def counts(self) -> dict[str, int]:
        """Metric name -> number."""
        noun = self._kind.noun
        return {
            f"train_{noun}": self._train.rows,
            f"val_{noun}": self._val.rows,
            "train_bytes": self.train_bytes,
            **{f"dropped_{why}": count for why, count in self._dropped.items()},
        }


def _move_rows(train: Path, val: Path, indices: Sequence[int]) -> int:
    """Move rows from the training file to the held-out one, unless that would leave none; how many moved."""
    rows = [json.loads(line.text) for line in read_lines(str(train))]
    chosen = set(indices)
    if len(chosen) == len(rows):
        return 0
    with JsonlWriter(val) as writer:
        for index in sorted(chosen):
            writer.write(rows[index])
    with JsonlWriter(train) as writer:
        for index, row in enumerate(rows):
            if index not in chosen:
                writer.write(row)
    return len(chosen)


def _in_turn(sources: Sequence[Iterator[_Item]], fair: bool) -> Iterator[_Item]:
    """Items of all files: one file after another, or, when not all will be read, one from each in turn."""
    if not fair:
        yield from chain.from_iterable(sources)
        return
    live = list(sources)
    while live:
        for source in list(live):
            item = next(source, None)
            if item is None:
                live.remove(source)
            else:
                yield item
