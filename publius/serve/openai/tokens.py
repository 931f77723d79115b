"""Tokens as OpenAI's log-probabilities show them: by their text, and where in the text they are."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from publius.inference.request import Alternatives
from publius.tokenizer.tokenizer import Tokenizer

__all__ = ["Seen", "TextLog", "Tokens"]


class Seen(NamedTuple):
    """One token of a prompt or a reply."""

    id: int
    logprob: float | None
    alternatives: Alternatives = ()


class Tokens:
    """What each id of one tokenizer is called.

    A special token has its name. Bytes that are no whole characters are written `bytes:\\xe2\\x82`, so that
    two tokens never look alike only because both are halves.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._names = {token: name for name, token in tokenizer.special.items()}

    def special(self, token: int) -> bool:
        """Whether it stands for no text."""
        return token in self._names

    def text(self, token: int) -> str:
        """What it is called."""
        if token in self._names:
            return self._names[token]
        if not 0 <= token < self._tokenizer.vocab_size:
            return f"<|{token}|>"  # a row the model has and the tokenizer does not
        raw = self._tokenizer.id_bytes(token)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    def raw(self, token: int) -> bytes:
        """The bytes it stands for; none for a special one."""
        known = 0 <= token < self._tokenizer.vocab_size
        return self._tokenizer.id_bytes(token) if known else b""

    def chat(self, seen: Seen, top: int) -> dict[str, Any]:
        """One entry of `choices[].logprobs.content`."""
        listed = [self._entry(*one) for one in seen.alternatives[:top]]
        return {**self._entry(seen.id, seen.logprob or 0.0), "top_logprobs": listed}

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        raw = None if self.special(token) else list(self.raw(token))
        return {"token": self.text(token), "logprob": _finite(logprob), "bytes": raw}

    def top(self, seen: Seen, count: int) -> dict[str, float] | None:
        """One entry of `choices[].logprobs.top_logprobs`, text to log-probability, the token's own too.

        Of two tokens that are called alike the likelier counts. None where the token follows nothing.
        """
        if seen.logprob is None:
            return None
        found: dict[str, float] = {}
        for token, logprob in (*seen.alternatives[:count], (seen.id, seen.logprob)):
            found.setdefault(self.text(token), _finite(logprob))
        return found


def _finite(logprob: float) -> float:
    """JSON has no infinity."""
    return max(logprob, -9999.0)


class TextLog:
    """Arrays of `/v1/completions` log-probabilities, piece by piece of one text.

    Args:
        tokens: names.
        top: how many alternatives are shown.
        named: whether special tokens stand in the text by their names, as in the echo of a prompt of ids.
    """

    def __init__(self, tokens: Tokens, top: int) -> None:
        self._tokens, self._top = tokens, top
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0

    def arrays(self, seen: Iterable[Seen], *, named: bool = False) -> dict[str, list[Any]]:
        """Of the tokens that follow those of the call before.

        Args:
            named: special tokens stand in the text by their names (the echo of a prompt of ids).
        """
        listed = list(seen)
        return {
            "tokens": [self._tokens.text(one.id) for one in listed],
            "token_logprobs": [None if s.logprob is None else _finite(s.logprob) for s in listed],
            "top_logprobs": [self._tokens.top(one, self._top) for one in listed],
            "text_offset": self._offsets([one.id for one in listed], named),
        }

    def _offsets(self, ids: Sequence[int], named: bool) -> list[int]:
        """Where each begins, in characters; half a character begins where the whole one does."""
        found: list[int] = []
        for token in ids:
            if self._tokens.special(token):
                self._offset += len(self._decoder.decode(b"", final=True))
                self._decoder.reset()
                found.append(self._offset)
                self._offset += len(self._tokens.text(token)) if named else 0
            else:
                found.append(self._offset)
                self._offset += len(self._decoder.decode(self._tokens.raw(token)))
        return found
