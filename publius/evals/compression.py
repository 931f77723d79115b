"""What old compressors reach on the held-out text: the bar a language model must clear.

Two baselines, in bits per UTF-8 byte: gzip over the held-out text, and an interpolated 5-gram model
over the same tokens the language model trains on.
"""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from publius.core.config import Config
from publius.core.errors import UserError
from publius.data import Corpus
from publius.evals.ngram import NGram
from publius.evals.report import Measure, Report, ReportDocument, write_report
from publius.pipeline import Run, stage
from publius.tokenizer import Shards, TokenizerArtifact

__all__ = ["CompressionConfig", "capped", "compression_baselines", "gzip_bpb"]


class CompressionConfig(Config):
    """How far the baselines go."""

    order: int = Field(default=5, ge=1)
    max_tokens: int = Field(default=3_000_000, ge=1)
    """Training tokens the n-gram model sees, whole documents in file order."""
    gzip_level: int = Field(default=9, ge=1, le=9)


def gzip_bpb(texts: Iterable[str], level: int = 9) -> tuple[float, int]:
    """Bits per byte of gzip over the texts joined by line ends, and the number of bytes.

    Joining favours gzip: it may refer back to earlier documents and pays its header once.
    """
    data = "\n".join(texts).encode()
    if not data:
        raise UserError(
            "there is no held-out text to compress", where="corpus val", fix="hold out some documents"
        )
    return 8 * len(gzip.compress(data, level, mtime=0)) / len(data), len(data)


def capped(documents: Iterable[NDArray[np.integer]], max_tokens: int) -> list[NDArray[np.integer]]:
    """The longest prefix of whole documents within `max_tokens`."""
    sizes = 0

    def room(document: NDArray[np.integer]) -> bool:
        nonlocal sizes
        sizes += len(document)
        return sizes <= max_tokens

    return list(itertools.takewhile(room, documents))


def _ngram_bpb(config: CompressionConfig, shards: Shards, vocab_size: int) -> float:
    train = capped(shards.documents("train"), config.max_tokens)
    held_out: Sequence[NDArray[np.integer]] = list(shards.documents("val"))
    if not train or not held_out:
        raise UserError(
            "the n-gram baseline needs training and held-out documents",
            where=str(shards.path),
            fix="hold out some documents, or raise compression max_tokens above the first document's length",
        )
    return NGram(train, vocab_size, config.order).bits(held_out) / shards.bytes("val")


@stage(version=1)
def compression_baselines(
    run: Run, config: CompressionConfig, *, corpus: Corpus, shards: Shards, tokenizer: TokenizerArtifact
) -> Report:
    """Metrics `baseline.gzip_bpb` and `baseline.ngram_bpb`, beside the model's own `val_bpb`."""
    by_gzip, size = gzip_bpb((document.text for document in corpus.val()), config.gzip_level)
    by_ngram = _ngram_bpb(config, shards, tokenizer.load().vocab_size)
    metrics = {
        "baseline.gzip_bpb": Measure(value=by_gzip, n=size),
        "baseline.ngram_bpb": Measure(value=by_ngram, n=shards.bytes("val")),
    }
    for name, measure in metrics.items():
        run.metric(name, measure.estimate())
    document = ReportDocument(
        model=None, prefix="baseline", split="val", metrics=metrics, config=config.model_dump()
    )
    write_report(run.output, document)
    return Report(run.output)
