"""What tokens are called, and where they are."""

from __future__ import annotations

from publius.serve.openai.tokens import Seen, TextLog, Tokens
from publius.testing import byte_tokenizer

TOKENIZER = byte_tokenizer()
TOKENS = Tokens(TOKENIZER)


def test_names() -> None:
    a, *euro = TOKENIZER.encode("a\u20ac")
    assert TOKENS.text(a) == "a" and TOKENS.text(TOKENIZER.end_id) == "<|end|>"
    assert [TOKENS.text(token) for token in euro] == ["bytes:\\xe2", "bytes:\\x82", "bytes:\\xac"]
    assert len({TOKENS.text(token) for token in range(TOKENIZER.vocab_size)}) == TOKENIZER.vocab_size
    assert TOKENS.text(9999) == "<|9999|>" and TOKENS.raw(9999) == b""


def test_a_tokens_own_number_is_among_the_likeliest_and_the_likelier_of_two_names_counts() -> None:
    a, b = TOKENIZER.encode("ab")
    assert TOKENS.top(Seen(a, None), 2) is None
    assert TOKENS.top(Seen(a, -3.0, ((b, -0.1), (a, -3.0))), 1) == {"b": -0.1, "a": -3.0}
    assert TOKENS.top(Seen(b, -0.1, ((b, -0.1), (a, -3.0))), 2) == {"b": -0.1, "a": -3.0}
    assert TOKENS.top(Seen(a, float("-inf")), 0) == {"a": -9999.0}
    entry = TOKENS.chat(Seen(TOKENIZER.end_id, -1.0, ((a, -0.5), (b, -0.7))), 1)
    assert entry == {
        "token": "<|end|>",
        "logprob": -1.0,
        "bytes": None,
        "top_logprobs": [{"token": "a", "logprob": -0.5, "bytes": [97]}],
    }


def test_offsets_are_in_characters_and_go_on_from_call_to_call() -> None:
    log = TextLog(TOKENS, 0)
    ids = [1, *TOKENIZER.encode("a\u20acb")]
    first = log.arrays([Seen(token, -1.0) for token in ids], named=True)
    assert first["text_offset"] == [0, 7, 8, 8, 8, 9]
    second = log.arrays([Seen(token, -1.0) for token in [*TOKENIZER.encode("cd"), TOKENIZER.end_id]])
    assert second["text_offset"] == [10, 11, 12]
    assert log.arrays([]) == {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}


def test_a_half_before_a_special_token_is_one_character() -> None:
    half = TOKENIZER.encode("\u20ac")[0]
    log = TextLog(TOKENS, 0)
    found = log.arrays([Seen(half, -1.0), Seen(TOKENIZER.end_id, -1.0), Seen(half, -1.0)])
    assert found["text_offset"] == [0, 1, 1]
