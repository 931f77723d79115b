"""Bytes to ids and messages to ids, and back. Start with `tokenizer.py`, then `renderer.py`."""

from publius.tokenizer.bpe import TokenizerConfig, train_bpe, train_tokenizer
from publius.tokenizer.renderer import Parsed, Rendered, Renderer
from publius.tokenizer.shards import Shards, ShardsWriter, TokenizeConfig, TokenizedDocuments, tokenize
from publius.tokenizer.special import SPECIAL_TOKENS
from publius.tokenizer.tokenizer import Tokenizer, TokenizerArtifact

__all__ = [
    "SPECIAL_TOKENS",
    "Parsed",
    "Rendered",
    "Renderer",
    "Shards",
    "ShardsWriter",
    "TokenizeConfig",
    "TokenizedDocuments",
    "Tokenizer",
    "TokenizerArtifact",
    "TokenizerConfig",
    "tokenize",
    "train_bpe",
    "train_tokenizer",
]
