"""How one prompt is continued: what a request may ask for, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from publius.core.errors import UserError
from publius.inference.grammar import Grammar

__all__ = ["Sampling"]


@dataclass(frozen=True)
class Sampling:
    """How to continue a prompt.

    Args:
        max_tokens: most new tokens, >= 1.
        temperature: 0 is greedy; 1 samples from the model's own distribution.
        top_k: keep the k likeliest tokens; None keeps all.
        top_p: then keep the smallest set whose probability reaches top_p, in (0, 1]; None keeps all.
        min_p: then keep tokens at least min_p times as likely as the likeliest, in (0, 1]; None keeps all.
        repetition_penalty: logits of tokens in the prompt or the reply are divided by it when positive, else
            multiplied (Keskar et al. 2019, arXiv 1909.05858); 1 is none.
        presence_penalty: taken from logits of tokens already in the reply.
        frequency_penalty: taken once for every time a token is in the reply.
        logit_bias: added to the logits of these ids.
        alternatives: how many of the likeliest tokens to report at each place, with log-probabilities.
        stop: stop when the new text contains one of these.
        stop_ids: stop at these tokens, beside the tokenizer's end token, which always stops.
        seed: None draws from torch's global generator.
        grammar: what the reply must match. Tokens are drawn from what may come next, with their
            log-probabilities among it. Such a row is not guessed ahead; what must come is not asked for, and
            is read with what follows.
        thinking_budget: most tokens of thinking in the reply; then the token that ends thinking follows.

    Raises:
        UserError: naming the field out of range.
    """

    max_tokens: int = 64
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict[int, float])
    alternatives: int = 0
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    seed: int | None = None
    grammar: Grammar | None = None
    thinking_budget: int | None = None

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            _refuse("max_tokens", self.max_tokens, "at least 1")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            _refuse("temperature", self.temperature, "finite, and 0 (greedy) or more")
        if self.top_k is not None and self.top_k < 1:
            _refuse("top_k", self.top_k, "at least 1, or None to keep all tokens")
        for name in ("top_p", "min_p"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                _refuse(name, value, "above 0 and at most 1, or None to keep all tokens")
        if not (math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0):
            _refuse("repetition_penalty", self.repetition_penalty, "finite and above 0 (1 is none)")
        for name in ("presence_penalty", "frequency_penalty"):
            if not math.isfinite(getattr(self, name)):
                _refuse(name, getattr(self, name), "finite (0 is none)")
        if any(math.isnan(value) or value == math.inf for value in self.logit_bias.values()):
            _refuse("logit_bias", dict(self.logit_bias), "numbers, or -inf to forbid a token")
        if self.alternatives < 0:
            _refuse("alternatives", self.alternatives, "0 or more")
        if self.thinking_budget is not None and self.thinking_budget < 0:
            _refuse("thinking_budget", self.thinking_budget, "0 or more, or None to leave it open")
        if isinstance(self.stop, str) or any(not text for text in self.stop):
            _refuse("stop", self.stop, "a tuple of texts, none of them empty")
        try:  # in C: it may be long, and a copy with other values asks again
            "".join(self.stop).encode()
        except UnicodeEncodeError:
            _refuse("stop", self.stop, "text that can be encoded: half a surrogate pair cannot")

    @property
    def plain(self) -> bool:
        """Whether a token is all that is drawn, from all tokens."""
        filtered = self.temperature > 0 and (self.top_k or self.top_p or self.min_p)
        return not (filtered or self.alternatives)

    @property
    def adjusts(self) -> bool:
        """Whether logits are changed: by what has been said, or by biases."""
        return bool(self._penalises or self.logit_bias)

    @property
    def only_biases(self) -> bool:
        """Whether they are changed by biases alone."""
        return bool(self.logit_bias) and not self._penalises

    @cached_property
    def biases(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The ids of `logit_bias` that a vocabulary may have, and what is added to each. Made once: they are
        wanted at every token."""
        known = {id: bias for id, bias in self.logit_bias.items() if 0 <= id < 2**31}
        with np.errstate(over="ignore"):  # past float32 it is inf, which the draw tells of
            values = np.array(list(known.values()), np.float64).astype(np.float32)
        return np.array(list(known), np.int64), values

    @property
    def _penalises(self) -> bool:
        return bool(self.repetition_penalty != 1 or self.presence_penalty or self.frequency_penalty)


def _refuse(field: str, value: object, wanted: str) -> None:
    raise UserError(f"{field} is {value!r}", where=f"Sampling.{field}", fix=f"{field} must be {wanted}")
