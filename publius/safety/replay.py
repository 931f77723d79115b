"""Replays a drawn reply to monitors as a server streams it, and says what would have left."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from publius.safety.monitor import SEAM, Verdict, Watching
from publius.tokenizer.special import THINK_END
from publius.tokenizer.tokenizer import Tokenizer

__all__ = ["Replayed", "replay"]


class Replayed(NamedTuple):
    """What came of a reply under monitors."""

    verdict: Verdict
    """The gravest; of a block the one that stopped it."""
    left: str
    """What the client got."""
    read: int
    """Tokens drawn until the end or the block."""
    left_tokens: int
    """Tokens whose text had left whole."""


def replay(
    watching: Watching, tokens: Sequence[int], readings: NDArray[np.float32], tokenizer: Tokenizer
) -> Replayed:
    """Show `watching` the reply one token at a time; special tokens have no text, but a thought that ends is
    parted from what is said, as a server parts them.

    Args:
        watching: of this exchange, its prompt not yet shown.
        readings: one row a token (`Request.readings`).
    """
    gravest, decoder = watching.prompt(), codecs.getincrementaldecoder("utf-8")("replace")
    if gravest.action == "block":
        return Replayed(gravest, "", 0, 0)
    text, left, ends = "", 0, list[int]()
    for count, token in enumerate(tokens, 1):
        done = count == len(tokens)
        new = b"" if token in tokenizer.special_ids else tokenizer.id_bytes(token)
        text += decoder.decode(new, final=done)
        if text and token == tokenizer.special[THINK_END]:
            text += SEAM
        ends.append(len(text))
        verdict, verified = watching.reply(text, readings[:count], done=done, drawn=tokens[:count])
        if verdict.action == "block":
            return Replayed(verdict, text[:left], count, sum(end <= left for end in ends) if left else 0)
        if verdict.action == "flag":
            gravest = verdict
        left = max(left, verified)
    return Replayed(gravest, text[:left], len(tokens), sum(end <= left for end in ends))
