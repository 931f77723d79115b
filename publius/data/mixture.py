"""Several corpora into one, by weight; and a part of one, by source."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence, Set
from pathlib import Path

from pydantic import Field, model_validator

from publius.core.config import Config
from publius.core.errors import UserError
from publius.data.artifacts import Corpus, document_row
from publius.data.files import JsonlWriter
from publius.data.splits import normal
from publius.data.types import Document
from publius.pipeline import Run, stage

__all__ = ["MixConfig", "SelectConfig", "interleave", "mix", "quotas", "select"]


class MixConfig(Config):
    """How much of each corpus."""

    weights: tuple[float, ...] = Field(min_length=1)
    """The share of the mixture's bytes, one per corpus, in the order they are wired. Any scale."""
    max_bytes: int | None = Field(default=None, ge=1)
    """Bytes of training text in all. None: as much as `repeats` allows."""
    repeats: float = Field(default=1.0, gt=0.0)
    """How often, at most, any corpus may be read through."""

    @model_validator(mode="after")
    def _positive(self) -> MixConfig:
        if min(self.weights) < 0 or sum(self.weights) <= 0:
            raise ValueError("weights must not be negative, and not all zero")
        return self


def quotas(
    sizes: Sequence[int], weights: Sequence[float], *, max_bytes: int | None, repeats: float
) -> list[int]:
    """Bytes to take of each corpus: in proportion to `weights`, none beyond `repeats` times its size.

    Args:
        sizes: training bytes of each corpus.
        weights: the share of each, any scale.
        max_bytes: the total wanted; it shrinks where a corpus would run out.
    """
    total = sum(weights)
    shares = [weight / total for weight in weights]
    possible = min(size * repeats / share for size, share in zip(sizes, shares, strict=True) if share > 0)
    amount = possible if max_bytes is None else min(possible, max_bytes)
    return [int(amount * share) for share in shares]


def interleave(
    corpora: Sequence[Corpus], wanted: Sequence[int], *, held_out: Set[bytes] = frozenset()
) -> Iterator[tuple[int, Document]]:
    """`(corpus index, document)`, always from the corpus furthest behind its share, until all are served.

    A corpus that runs out begins again. The order depends on the corpora and quotas alone.

    Args:
        held_out: keys of documents to pass over; a corpus of which something is wanted must hold others.
    """
    taken = [0] * len(corpora)
    sources = [_kept(corpus, held_out) for corpus in corpora]
    live = [index for index, amount in enumerate(wanted) if amount > 0]
    while live:
        index = min(live, key=lambda i: (taken[i] / wanted[i], i))
        document = next(sources[index], None)
        if document is None:
            sources[index] = _kept(corpora[index], held_out)
            document = next(sources[index])
        taken[index] += len(document.text.encode("utf-8"))
        yield index, document
        if taken[index] >= wanted[index]:
            live.remove(index)


@stage(version=2)
def mix(run: Run, config: MixConfig, *, corpora: list[Corpus]) -> Corpus:
    """One corpus from several, by weight; a training document that any of them holds out is left out.

    Texts that differ in case and spacing only are one, as in `ingest_text`.

    Metrics: `bytes` and `share` (lists, one per corpus, of what was written), `dropped_held_out` (documents
    of the corpora with a weight).

    Raises:
        UserError: when weights and corpora differ in number, or one with a weight has nothing to train on.
    """
    if len(config.weights) != len(corpora):
        raise UserError(
            f"{len(config.weights)} weights for {len(corpora)} corpora",
            where="mix.weights",
            fix="give one each",
        )
    held_out = _write_held_out(run.output / "val.jsonl.zst", corpora, config.weights)
    sizes, dropped = [0] * len(corpora), 0
    for index, (corpus, weight) in enumerate(zip(corpora, config.weights, strict=True)):
        left_out = 0
        for document in corpus.train():
            if _key(document) in held_out:
                left_out += 1
            else:
                sizes[index] += len(document.text.encode("utf-8"))
        dropped += left_out if weight else 0
        if weight and not sizes[index]:
            why = "all of it is held out" if left_out else "is empty"
            raise UserError(
                f"a corpus to be mixed has nothing to train on: {why}",
                where=str(corpus.path),
                fix="give it documents, or no weight",
            )
    wanted = quotas(sizes, config.weights, max_bytes=config.max_bytes, repeats=config.repeats)
    written = [0] * len(corpora)
    with JsonlWriter(run.output / "train.jsonl.zst") as writer:
        for index, document in interleave(corpora, wanted, held_out=held_out):
            writer.write(document_row(document))
            written[index] += len(document.text.encode("utf-8"))
    if not sum(written):
        raise UserError("the mixture is empty", where="mix", fix="raise max_bytes")
    run.metric("bytes", written)
    run.metric("share", [amount / sum(written) for amount in written])
    run.metric("dropped_held_out", dropped)
    return Corpus(run.output)


def _write_held_out(path: Path, corpora: Sequence[Corpus], weights: Sequence[float]) -> set[bytes]:
    """The held-out documents of the corpora with a weight, each once; keys of those of all corpora."""
    held_out: set[bytes] = set()
    with JsonlWriter(path) as writer:
        for corpus, weight in zip(corpora, weights, strict=True):
            for document in corpus.val() if weight else ():
                if _key(document) not in held_out:
                    writer.write(document_row(document))
                    held_out.add(_key(document))
    return held_out.union(*({_key(d) for d in corpus.val()} for corpus in corpora))


def _kept(corpus: Corpus, held_out: Set[bytes]) -> Iterator[Document]:
    return (document for document in corpus.train() if not held_out or _key(document) not in held_out)


class SelectConfig(Config):
    """Which documents to keep, by where they come from. Exactly one of the two is given."""

    sources: tuple[str, ...] = ()
    """Keep documents of these sources only."""
    without: tuple[str, ...] = ()
    """Leave documents of these sources out."""

    @model_validator(mode="after")
    def _one(self) -> SelectConfig:
        if bool(self.sources) == bool(self.without):
            raise ValueError("give sources or without")
        return self

    def keeps(self, source: str) -> bool:
        """Whether a document of `source` stays."""
        return source in self.sources if self.sources else source not in self.without


@stage(version=1, light=True)
def select(run: Run, config: SelectConfig, *, corpus: Corpus) -> Corpus:
    """A part of a corpus, both splits: what one model of several is to read.

    Metrics: `train_documents`, `val_documents` (kept), `left_out`.

    Raises:
        UserError: when a named source is not in the corpus, or nothing is left to train on.
    """
    seen: set[str] = set()
    counts = {"train": 0, "val": 0}
    left_out = 0
    for split, documents in (("train", corpus.train()), ("val", corpus.val())):
        with JsonlWriter(run.output / f"{split}.jsonl.zst") as writer:
            for document in documents:
                seen.add(document.source)
                if config.keeps(document.source):
                    writer.write(document_row(document))
                    counts[split] += 1
                else:
                    left_out += 1
    if unknown := sorted({*config.sources, *config.without} - seen):
        raise UserError(
            f"no document comes from {', '.join(unknown)}",
            where="select",
            fix=f"choose from {', '.join(sorted(seen))}",
        )
    if not counts["train"]:
        raise UserError("nothing is left to train on", where="select", fix="keep more sources")
    for split, count in counts.items():
        run.metric(f"{split}_documents", count)
    run.metric("left_out", left_out)
    return Corpus(run.output)


def _key(document: Document) -> bytes:
    return hashlib.blake2b(normal(document.text).encode("utf-8"), digest_size=16).digest()
