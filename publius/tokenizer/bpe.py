"""Training a byte-level BPE tokenizer: 256 bytes, then the most frequent pairs, merged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import tokenizers
from pydantic import Field
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers

from publius.core.config import Config
from publius.core.errors import UserError
from publius.data.artifacts import Corpus
from publius.data.types import Document
from publius.pipeline import Run, stage
from publius.tokenizer.special import SPECIAL_TOKENS
from publius.tokenizer.tokenizer import Tokenizer, TokenizerArtifact

__all__ = ["TokenizerConfig", "train_bpe", "train_tokenizer"]

_SMALLEST = 256 + len(SPECIAL_TOKENS)
_SAMPLE_BYTES = 1_000_000

# The pre-split of GPT-4 and Llama 3: merges never cross from letters into digits or punctuation, which
# also means that no merge can spell out a special token. Digits one by one (or up to three).
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class TokenizerConfig(Config):
    """How to train a tokenizer."""

    vocab_size: int = Field(default=2048, ge=_SMALLEST)
    """Ids in all: special tokens, 256 bytes, merges. A small corpus may give fewer."""
    split_digits: bool = True
    """One id per digit: sums are learnt far better so."""
    min_frequency: int = Field(default=2, ge=1)
    """A pair seen less often is not merged."""
    max_bytes: int | None = Field(default=200_000_000, ge=1)
    """Read only about this much text (from the start of the corpus); None reads all."""


def train_bpe(texts: Iterable[str], config: TokenizerConfig) -> Tokenizer:
    """Train on `texts`; the same texts and config give the same tokenizer."""
    inner = tokenizers.Tokenizer(models.BPE())
    split = Regex(_SPLIT % ("" if config.split_digits else "{1,3}"))
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(split, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    return Tokenizer(inner)


@stage(version=1)
def train_tokenizer(run: Run, config: TokenizerConfig, *, corpus: Corpus) -> TokenizerArtifact:
    """Train a tokenizer on the training documents of `corpus`.

    Metrics: `vocab_size`, and `bytes_per_token` on held-out text (training text where none is held out).

    Raises:
        UserError: when the corpus has no text.
    """
    tokenizer = train_bpe(_texts(corpus, config.max_bytes), config)
    tokenizer.save(run.output)
    sample = _sample(corpus.val()) or _sample(corpus.train())
    tokens = sum(len(ids) for ids in tokenizer.encode_batch(sample))
    run.metric("vocab_size", tokenizer.vocab_size)
    run.metric("bytes_per_token", sum(len(text.encode("utf-8")) for text in sample) / tokens)
    return TokenizerArtifact(run.output)


def _texts(corpus: Corpus, limit: int | None) -> Iterator[str]:
    read = 0
    for document in corpus.train():
        read += len(document.text.encode("utf-8"))
        yield document.text
        if limit is not None and read >= limit:
            break
    if read == 0:
        raise UserError("the corpus has no text", where=str(corpus.path), fix="give documents with text")


def _sample(documents: Iterable[Document]) -> list[str]:
    texts: list[str] = []
    read = 0
    for document in documents:
        if document.text:
            texts.append(document.text)
            read += len(document.text)
        if read >= _SAMPLE_BYTES:
            break
    return texts
