"""A small tokenizer, trained once."""

import pytest

from publius.tokenizer import Tokenizer, TokenizerConfig, train_bpe

TEXTS = [
    "The miller of Oakham bakes bread at dawn, and the baker's dog sleeps.",
    "In 1847 the town had 312 people; it's 12 + 30 = 42 today.\n\n\tIndented — and naïve café 😀.",
    "She said: <|end|> is only text. <|user|> too!",
] * 20


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_bpe(TEXTS, TokenizerConfig(vocab_size=370))
