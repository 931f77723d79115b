"""One prompt on its way through the engine, and what comes of it."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from publius.core.errors import UserError
from publius.inference.guide import Guide
from publius.inference.readings import Probe
from publius.inference.sampling import Sampling
from publius.tokenizer.tokenizer import Tokenizer

__all__ = ["Alternatives", "Completion", "Request", "StopReason", "Trunk", "whole"]

StopReason = Literal["end", "stop_sequence", "max_tokens", "cancelled", "deadline", "error"]
Alternatives = tuple[tuple[int, float], ...]
"""The likeliest tokens at one place and their log-probabilities, best first."""


def whole(tokens: Sequence[int], name: str) -> list[int]:
    """Token ids of any kind (a list, an array, a tensor) as a list of one's own.

    Raises:
        UserError: when they are not whole numbers, or not one row.
    """
    try:
        return array("q", tokens).tolist()
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"the {name} is not a row of token ids: {error}",
            where=f"Request.{name}",
            fix="give whole numbers, as Tokenizer.encode returns them",
        ) from error


class Trunk:
    """What the served model's last layer got at each place of one request: the residual stream of all but one
    of its layers, which whoever reads the exchange over again need not compute.

    Args:
        places: most there will be.
        width: numbers of each.
    """

    def __init__(self, places: int, width: int) -> None:
        self.values_TD = np.empty((places, width), np.float32)
        """Of every place up to the one the newest token was drawn from: what is written there once stays."""
        self.address = self.values_TD.ctypes.data
        self.known = 0
        """Places that have been written."""


@dataclass(frozen=True)
class Completion:
    """What one prompt was continued with.

    Args:
        tokens: new ids, including the one that stopped it.
        logprobs: of each token under the distribution it was drawn from (the temperature and filters of
            its Sampling); of greedy tokens, under the model's own (temperature 1).
        stop_reason: "end" at the end token or one of `stop_ids`; "cancelled" and "deadline" of a request
            that was ended from outside, with what it had.
        stop_sequence: the text of `stop` that was met.
        alternatives: for each token the likeliest ids there and their log-probabilities, when asked for.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    stop_reason: StopReason
    stop_sequence: str | None = None
    alternatives: tuple[Alternatives, ...] = ()


@dataclass(eq=False)
class Request:
    """One prompt, how to continue it, and what has come so far.

    Args:
        prompt: token ids.
        sampling: how.
        stream: numbers its random stream, beside the seed.
        priority: larger runs first, and may make others wait.
        deadline: `time.monotonic()` after which it is ended with what it has.
        targets: to score instead of continuing: at place i of the prompt, the ids whose log-probability as
            the next token is wanted; with `sampling.alternatives`, so many of the likeliest there as well.
        probe: read on the state that every token is drawn from: `readings`.
    """

    prompt: Sequence[int]
    sampling: Sampling
    stream: int = 0
    priority: int = 0
    deadline: float | None = None
    targets: dict[int, list[int]] | None = None
    probe: Probe | None = None
    tokens: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])
    alternatives: list[Alternatives] = field(default_factory=list[Alternatives])
    scores: dict[int, list[float]] = field(default_factory=dict[int, list[float]])
    ranked: dict[int, Alternatives] = field(default_factory=dict[int, Alternatives])
    """Of what is scored: the likeliest ids at each place."""
    stop_reason: StopReason | None = None
    stop_sequence: str | None = None
    error: UserError | None = None
    number: int = -1
    """Order of arrival; -1 before."""
    computed: int = 0
    """Tokens whose keys and values are kept."""
    reused: int | None = None
    """Of the prompt, tokens that came from the prefix cache when it first ran; None before."""
    pages: list[int] = field(default_factory=list[int])
    """Where they are."""
    chain: list[bytes] = field(default_factory=list[bytes])
    """A hash of everything up to the end of each full page."""
    stem: int = 0
    """Tokens that requests of the same prompt share: all that is `reusable` before anything is drawn."""
    tail: bytes = b""
    """A hash of everything up to there, where it ends inside a page."""
    uniforms: NDArray[np.float64] | None = None
    """One number for each token to draw."""
    guide: Guide | None = None
    """Which tokens may come next."""
    trunk: Trunk | None = None
    """Where the engine keeps it (`Engine(trunk=True)`), of requests with a probe, once they run."""
    _text: bytearray = field(default_factory=bytearray)
    _read: NDArray[np.float32] | None = None
    _flat: memoryview[float] | None = None
    """The same numbers in a row: written one by one this is several times faster."""

    def __post_init__(self) -> None:
        """The ids are taken now: who asked may change their list later.

        Raises:
            UserError: for a prompt that is not a row of whole numbers.
        """
        self.prompt = whole(self.prompt, "prompt")

    @property
    def readings(self) -> NDArray[np.float32]:
        """[tokens, K]: the probe's outputs on the state each token was drawn from, the first of them at the
        prompt's last place; no columns without a probe. A view: it does not grow with the request."""
        if self.probe is None:
            return np.empty((len(self.tokens), 0), np.float32)
        if self._read is None:
            return np.full((len(self.tokens), len(self.probe)), np.nan, np.float32)
        return self._read[: len(self.tokens)]

    def keep(self, ahead: int, reading: Sequence[float]) -> None:
        """The outputs at the state that the token `ahead` of the next is drawn from. Of a guess that does not
        stand they are written over."""
        if self._flat is None:
            self._read = np.full((self.sampling.max_tokens, len(reading)), np.nan, np.float32)
            self._flat = memoryview(self._read.reshape(-1).data)
        at = (len(self.tokens) + ahead) * len(reading)
        for value in reading:
            self._flat[at] = value
            at += 1

    @property
    def length(self) -> int:
        """Tokens so far."""
        return len(self.prompt) + len(self.tokens)

    @property
    def most(self) -> int:
        """Tokens there may ever be keys and values of."""
        return len(self.prompt) + (0 if self.targets is not None else self.sampling.max_tokens - 1)

    @property
    def left(self) -> int:
        """Tokens to read before the next can be drawn."""
        return self.length - self.computed

    @property
    def reusable(self) -> int:
        """Most tokens that may come from the prefix cache: the last must be read, and all that is scored."""
        return (min(self.targets) if self.targets else self.length - 1) if self.length else 0

    def ids(self, start: int, end: int) -> list[int]:
        """Tokens `start` to `end` of prompt and reply."""
        prompt = len(self.prompt)
        if end <= prompt:
            return [*self.prompt[start:end]]
        return [*self.prompt[start:prompt], *self.tokens[max(0, start - prompt) : end - prompt]]

    def add(self, token: int, logprob: float, tokenizer: Tokenizer) -> bool:
        """Take the next token; True when it is the last."""
        self.tokens.append(token)
        self.logprobs.append(logprob)
        if self.guide is not None:
            self.guide.take(token)
            self.error = self.guide.error
        if self.error is not None:
            self.stop_reason = "error"
        elif token == tokenizer.end_id or token in self.sampling.stop_ids:
            self.stop_reason = "end"
        elif self.sampling.stop and self._meets_stop(token, tokenizer):
            self.stop_reason = "stop_sequence"
        elif len(self.tokens) == self.sampling.max_tokens:
            self.stop_reason = "max_tokens"
        return self.stop_reason is not None

    def _meets_stop(self, token: int, tokenizer: Tokenizer) -> bool:
        """Compared as bytes: a stop text may begin inside one token and end inside another.

        A special token has no bytes; it parts the text, so a stop never spans two blocks of a reply. None is
        met in a tool call that a guide keeps to its grammar: how a call is written is no part of the reply.
        """
        new = tokenizer.id_bytes(token)
        if not new:
            self._text.clear()
        if self.guide is not None and self.guide.calling:
            return False
        self._text += new
        found: list[tuple[int, str]] = []
        for stop in self.sampling.stop:
            wanted = stop.encode()
            at = self._text.find(wanted, max(0, len(self._text) - len(new) - len(wanted) + 1))
            if at >= 0:
                found.append((at, stop))
        if found:
            self.stop_sequence = min(found)[1]
        return bool(found)

    def completion(self) -> Completion:
        """The finished result.

        Raises:
            UserError: what went wrong with this request.
        """
        assert self.stop_reason is not None, "the request is still running"
        if self.error is not None:
            raise self.error
        return Completion(
            tuple(self.tokens),
            tuple(self.logprobs),
            self.stop_reason,
            self.stop_sequence,
            tuple(self.alternatives),
        )
