"""Quality filters and near-duplicate removal, by datatrove's own pipeline blocks.

Filters: Gopher's quality and repetition rules (Rae et al. 2021, tables A1 and A2) with thresholds of
our own choosing. Duplicates: MinHash with banding (Broder 1997) in datatrove's four steps. datatrove
takes words from spaCy or NLTK; here a plain regular expression does, so nothing is downloaded.
"""

from __future__ import annotations

import io
import itertools
import re
import struct
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any, cast

from datatrove.data import Document as TroveDocument
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup import (
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupSignature,
)
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
from datatrove.utils.hashing import HashConfig
from datatrove.utils.word_tokenizers import WordTokenizer
from loguru import logger
from pydantic import Field

from publius.core.config import Config
from publius.core.errors import UserError
from publius.data.artifacts import Corpus, document_row
from publius.data.files import JsonlWriter
from publius.data.types import Document
from publius.pipeline import Run, stage

__all__ = ["RefineConfig", "refine"]

logger.disable("datatrove")  # it logs every step to stderr; the stage reports counts instead


class RefineConfig(Config):
    """What to drop. None switches a rule off."""

    min_words: int | None = Field(default=20, ge=1)
    max_words: int | None = Field(default=100_000, ge=1)
    min_mean_word_length: float | None = 2.5
    max_mean_word_length: float | None = 10.0
    max_symbol_ratio: float | None = 0.1
    """Hashes or ellipses per word."""
    max_bullet_lines: float | None = 0.9
    max_ellipsis_lines: float | None = 0.3
    min_alphabetic_words: float | None = 0.7
    """The share of words that hold a letter."""
    min_stop_words: int | None = 2
    """How many of the, be, to, of, and, that, have, with must occur: a crude test for English prose."""
    repetition: bool = True
    """Gopher's limits on repeated lines, paragraphs and n-grams."""
    dedup: bool = True
    """Drop all but one of near-duplicate documents, the held-out one where there is one."""
    ngram: int = Field(default=5, ge=1)
    """Words per shingle. A document of fewer words is never a duplicate."""
    buckets: int = Field(default=14, ge=1)
    hashes_per_bucket: int = Field(default=8, ge=1)
    """Two documents match with probability 1 - (1 - s^hashes)^buckets at similarity s (92% at 0.8)."""
    seed: int = 1


class _Words(WordTokenizer):
    """Words and punctuation marks, by pattern."""

    _WORD = re.compile(r"\w+(?:['\u2019]\w+)*|[^\w\s]+")

    def word_tokenize(self, text: str) -> list[str]:
        return self._WORD.findall(text)

    def sent_tokenize(self, text: str) -> list[str]:
        return re.split(r"(?<=[.!?])\s+", text)

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        return [match.span() for match in re.finditer(r"\S[^.!?]*[.!?]*", text)]


_WORDS = _Words()


_SPLITS = ("val", "train")
"""In this order: of documents that are near each other the first one stays."""


class _Read(PipelineStep):
    """Documents of a corpus into datatrove's pipeline, of one split or of both."""

    name, type = "corpus", "READER"

    def __init__(self, folder: Path, *splits: str) -> None:
        super().__init__()
        self._folder, self._splits = folder, splits

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Any:
        corpus, number = Corpus(self._folder), itertools.count()
        for split in self._splits:
            for document in corpus.train() if split == "train" else corpus.val():
                about = {"id": document.id, "source": document.source, "split": split}
                yield TroveDocument(text=document.text, id=str(next(number)), metadata=about)


class _Write(PipelineStep):
    """Kept documents out of the pipeline, in order; those of one split, the others pass."""

    name, type = "corpus", "WRITER"

    def __init__(self, path: Path, split: str) -> None:
        super().__init__()
        self._path, self._split = path, split

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Any:
        with JsonlWriter(self._path) as writer:
            for item in data:
                if item.metadata["split"] != self._split:
                    yield item
                    continue
                document = Document(item.text, str(item.metadata["id"]), str(item.metadata["source"]))
                writer.write(document_row(document))
                yield item


class _KeepFirst(PipelineStep):
    """The first document of every cluster passes: datatrove keeps the root of its union-find, which may be
    any, so that a held-out document would go and its copy in training stay."""

    name, type = "first of a cluster", "DEDUP"

    def __init__(self, clusters: Path) -> None:
        super().__init__()
        self._clusters = clusters

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Any:
        packed = self._clusters.read_bytes() if self._clusters.is_file() else b""  # no file: no duplicates
        cluster_of = dict(struct.iter_unpack("<2I", packed))
        seen: set[int] = set()
        for index, item in enumerate(data):
            cluster = cluster_of.get(index)
            if cluster is None or cluster not in seen:
                yield item
            if cluster is not None:
                seen.add(cluster)


def _filters(config: RefineConfig) -> list[PipelineStep]:
    quality = GopherQualityFilter(
        min_doc_words=config.min_words,
        max_doc_words=config.max_words,
        min_avg_word_length=cast("int | None", config.min_mean_word_length),
        max_avg_word_length=cast("int | None", config.max_mean_word_length),
        max_symbol_word_ratio=config.max_symbol_ratio,
        max_bullet_lines_ratio=config.max_bullet_lines,
        max_ellipsis_lines_ratio=config.max_ellipsis_lines,
        max_non_alpha_words_ratio=config.min_alphabetic_words,
        min_stop_words=config.min_stop_words,
        language=cast("str", _WORDS),
    )
    return [quality, GopherRepetitionFilter(language=cast("str", _WORDS))] if config.repetition else [quality]


def _execute(steps: Sequence[PipelineStep], logs: Path, tasks: int = 1) -> Counter[str]:
    """Run datatrove steps in this process; counts of dropped documents by reason."""
    executor = LocalPipelineExecutor(list(steps), tasks=tasks, workers=1, logging_dir=str(logs))
    with redirect_stderr(io.StringIO()):  # its progress bars do not know of ours
        stats = executor.run()
    counts: Counter[str] = Counter()
    for step in cast("Any", stats).stats:
        for name, metric in step.stats.items():
            if name.startswith("dropped_"):
                counts[name.removeprefix("dropped_").removeprefix("gopher_")] += int(metric.total)
    return counts


def _deduplicate(source: Path, target: Path, scratch: Path, config: RefineConfig) -> None:
    settings = MinhashConfig(
        n_grams=config.ngram,
        num_buckets=config.buckets,
        hashes_per_bucket=config.hashes_per_bucket,
        seed=config.seed,
        hash_config=HashConfig(precision=64, hash_fc="sha1"),
    )
    signatures, pairs, clusters = (str(scratch / name) for name in ("signatures", "pairs", "clusters"))
    language = cast("str", _WORDS)
    both = _Read(source, *_SPLITS)
    _execute([both, MinhashDedupSignature(signatures, settings, language)], scratch / "logs1")
    _execute([MinhashDedupBuckets(signatures, pairs, config=settings)], scratch / "logs2", config.buckets)
    _execute([MinhashDedupCluster(pairs, clusters, settings, save_cluster_id=True)], scratch / "logs3")
    writers = [_Write(target / f"{split}.jsonl.zst", split) for split in _SPLITS]
    first = _KeepFirst(Path(clusters) / "000000.clusters")
    _execute([both, first, *writers], scratch / "logs4")


@stage(version=3)
def refine(run: Run, config: RefineConfig, *, corpus: Corpus) -> Corpus:
    """Drop poor documents and near-duplicate ones, of both splits: nothing near a held-out document is
    trained on.

    Metrics: `documents_in`, `documents_kept`, and `dropped_<reason>` of the training split; `held_out_kept`.

    Raises:
        UserError: when nothing is left.
    """
    with tempfile.TemporaryDirectory(prefix="refine-", dir=run.output.parent) as folder:
        scratch = Path(folder)
        filtered = scratch / "filtered" if config.dedup else run.output
        dropped: Counter[str] = Counter()
        for split in _SPLITS:
            write = _Write(filtered / f"{split}.jsonl.zst", split)
            dropped = _execute([_Read(corpus.path, split), *_filters(config), write], scratch / split)
        if config.dedup:
            good = sum(1 for _ in Corpus(filtered).train())
            _deduplicate(filtered, run.output, scratch, config)
            dropped += Counter(duplicate=good - sum(1 for _ in Corpus(run.output).train()))
    kept = sum(1 for _ in Corpus(run.output).train())
    if not kept:
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.most_common())
        raise UserError(
            f"no document is left after refining ({reasons or 'the corpus was empty'})",
            where=str(corpus.path),
            fix="loosen the rules, for example --set refine.min_words=5",
        )
    run.metric("documents_in", kept + sum(dropped.values()))
    run.metric("documents_kept", kept)
    run.metric("held_out_kept", sum(1 for _ in Corpus(run.output).val()))
    for reason, count in sorted(dropped.items()):
        run.metric(f"dropped_{reason}", count)
    return Corpus(run.output)
