"""Rows in flight: prefill, decode one token for every row, retire finished rows, refill their slots.

`Batch` owns the KV cache and everything that changes from token to token; the engine owns the model and
checks what it is given. Slots 0..n-1 are computed at every step; a finished row stays as a dead row until
a new prompt takes its slot or, when none waits, until live rows are moved into the holes.

Shape letters: B rows computed, S slots, T tokens, V vocabulary, D hidden.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from publius.core.errors import UserError
from publius.inference.kv_cache import DecodeView, KVCache, PrefillView
from publius.inference.sampler import Sampling, log_probs, pick, row_uniforms
from publius.inference.scheduler import Chunk, Scheduler
from publius.model.transformer import Transformer
from publius.tokenizer.tokenizer import Tokenizer

__all__ = ["Batch", "Completion", "Request", "pad", "prefix_cache"]

StopReason = Literal["end", "stop_sequence", "max_tokens"]


@dataclass(frozen=True)
class Completion:
    """What one prompt was continued with.

    Args:
        tokens: new ids, including the one that stopped it.
        logprobs: of each token under the distribution it was drawn from (the temperature and filters of
            its Sampling); of greedy tokens, under the model's own (temperature 1).
        stop_reason: "end" at the end token or one of `stop_ids`.
        stop_sequence: the text of `stop` that was met.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    stop_reason: StopReason
    stop_sequence: str | None = None


@dataclass
class Request:
    """One prompt, how to continue it, and what has come so far. `stream` numbers its random stream."""

    prompt: Sequence[int]
    sampling: Sampling
    stream: int = 0
    tokens: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])
    stop_reason: StopReason | None = None
    stop_sequence: str | None = None
    _text: bytearray = field(default_factory=bytearray)

    def add(self, token: int, logprob: float, tokenizer: Tokenizer) -> bool:
        """Take the next token; True when it is the last."""
        self.tokens.append(token)
        self.logprobs.append(logprob)
        if token == tokenizer.end_id or token in self.sampling.stop_ids:
            self.stop_reason = "end"
        elif self.sampling.stop and self._meets_stop(tokenizer.id_bytes(token)):
            self.stop_reason = "stop_sequence"
        elif len(self.tokens) == self.sampling.max_tokens:
            self.stop_reason = "max_tokens"
        return self.stop_reason is not None

    def _meets_stop(self, new: bytes) -> bool:
        """Compared as bytes: a stop text may begin inside one token and end inside another.

        A special token has no bytes; it parts the text, so a stop never spans two blocks of a reply.
        """
        if not new:
            self._text.clear()
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
        """The finished result."""
        assert self.stop_reason is not None, "the request is still running"
        return Completion(tuple(self.tokens), tuple(self.logprobs), self.stop_reason, self.stop_sequence)


def pad(sequences: Sequence[Sequence[int]], device: torch.device) -> torch.Tensor:
    """int64 [B, T], each row followed by zeros; what they compute is never read."""
    width = max(len(sequence) for sequence in sequences)
    return torch.tensor([[*s, *([0] * (width - len(s)))] for s in sequences], device=device)


def prefix_cache(model: Transformer, tokens: Sequence[int]) -> KVCache:
    """A one-slot cache holding exactly `tokens`, computed once for all the rows that start with them."""
    c = model.config
    cache = KVCache(c.layers, 1, c.kv_heads, len(tokens), c.head_dim, dtype=model.dtype, device=model.device)
    slot = torch.zeros(1, dtype=torch.int64, device=model.device)
    positions = torch.arange(len(tokens), device=model.device)[None]
    model.hidden(pad([tokens], model.device), positions_BT=positions, cache=PrefillView(cache, slot))
    return cache


class Batch:
    """Runs requests to their end, at most `slots` at a time.

    Args:
        model: runs where its weights are, in their dtype.
        tokenizer: knows the end token and the bytes of each token.
        requests: checked by the caller (ids in the vocabulary, lengths within the context).
        slots: most rows at once.
    """

    def __init__(
        self, model: Transformer, tokenizer: Tokenizer, requests: Sequence[Request], slots: int
    ) -> None:
        slots = min(slots, len(requests))
        self._model, self._tokenizer, self._requests = model, tokenizer, requests
        self._scheduler = Scheduler([r.prompt for r in requests], slots)
        self._rows: list[Request | None] = [None] * slots  # a finished row leaves its slot None
        self._count = 0  # slots 0..count-1 are computed at each step
        longest = max(len(r.prompt) + r.sampling.max_tokens for r in requests)
        c, device = model.config, model.device
        self._cache = KVCache(
            c.layers, slots, c.kv_heads, longest, c.head_dim, dtype=model.dtype, device=device
        )
        most = max(r.sampling.max_tokens for r in requests)
        self._uniforms = torch.zeros((slots, most), dtype=torch.float64, device=device)
        self._samplings = [Sampling()] * slots
        self._greedy = torch.zeros(slots, dtype=torch.bool, device=device)
        self._token = torch.zeros(slots, dtype=torch.int64, device=device)  # next to be read
        self._position = torch.zeros(slots, dtype=torch.int64, device=device)  # and where it goes
        self._step = torch.zeros(slots, dtype=torch.int64, device=device)  # new tokens so far
        self._live = torch.zeros(slots, dtype=torch.int64, device=device)  # 1 or 0: advances the three
        self._prefix: tuple[tuple[int, ...], KVCache] | None = None

    @property
    def running(self) -> int:
        """Rows still being continued."""
        return sum(row is not None for row in self._rows)

    @torch.inference_mode()
    def step(self) -> bool:
        """Prefill waiting prompts or decode one token per row; False when all requests have finished."""
        free = [slot for slot, row in enumerate(self._rows) if row is None]
        running = len(self._rows) - len(free)
        if self._scheduler.wants(len(free), running):
            self._prefill(self._scheduler.take(free))
        elif running:
            if not self._scheduler.waiting and self._count - running >= max(1, self._count // 8):
                self._compact(running)
            self._decode()
        else:
            return False
        return True

    def _prefill(self, chunk: Chunk) -> None:
        """Read the prompts of `chunk` into its slots and draw the first token of each."""
        model, device = self._model, self._model.device
        requests = [self._requests[i] for i in chunk.members]
        shared = chunk.group.shared
        prefix = self._shared_prefix(requests[0].prompt[:shared]) if shared else None
        slots = torch.tensor(chunk.slots, device=device)
        tokens_BT = pad([r.prompt[shared:] for r in requests], device)
        positions = torch.arange(shared, shared + tokens_BT.shape[1], device=device)[None]
        view = PrefillView(self._cache, slots, prefix)
        hidden_BTD = model.hidden(tokens_BT, positions_BT=positions, cache=view)
        last_B = torch.tensor([len(r.prompt) - shared - 1 for r in requests], device=device)
        for slot, request in zip(chunk.slots, requests, strict=True):
            self._rows[slot] = request
            self._samplings[slot] = request.sampling
            uniforms = row_uniforms(request.sampling, request.stream)
            self._uniforms[slot, : len(uniforms)] = uniforms.to(device)
        self._greedy[slots] = torch.tensor([r.sampling.temperature == 0 for r in requests], device=device)
        self._position[slots] = torch.tensor([len(r.prompt) for r in requests], device=device)
        self._step[slots] = 0
        self._live[slots] = 1
        self._count = max(self._count, max(chunk.slots) + 1)
        rows_B = torch.arange(len(requests), device=device)
        self._token[slots] = self._draw(hidden_BTD[rows_B, last_B], chunk.slots, slots)
        self._step[slots] = self._live[slots]

    def _shared_prefix(self, tokens: Sequence[int]) -> KVCache:
        """The cache of a prefix; only the last one is kept, since groups are served one after another."""
        key = tuple(tokens)
        if self._prefix is None or self._prefix[0] != key:
            self._prefix = (key, prefix_cache(self._model, tokens))
        return self._prefix[1]

    def _decode(self) -> None:
        """Read the last token of every row and draw the next."""
        count, live_B = self._count, self._live[: self._count]
        position_B = self._position[:count]
        length = max(len(row.prompt) + len(row.tokens) for row in self._rows if row is not None)
        mask_B11L = (torch.arange(length, device=position_B.device) <= position_B[:, None])[:, None, None]
        hidden_BTD = self._model.hidden(
            self._token[:count, None],
            positions_BT=position_B[:, None],
            mask=mask_B11L,
            cache=DecodeView(self._cache, position_B, length),
        )
        tokens_B = self._draw(hidden_BTD[:, 0], range(count), slice(0, count))
        self._token[:count] = tokens_B
        position_B += live_B
        self._step[:count] += live_B

    def _draw(
        self, hidden_BD: torch.Tensor, slots: Sequence[int], index: torch.Tensor | slice
    ) -> torch.Tensor:
        """Draw a token for each of `slots` (`index` is the same as a tensor index); retire the finished."""
        samplings = [self._samplings[slot] for slot in slots]
        logp_BV = log_probs(self._model.logits(hidden_BD), samplings)
        uniforms_B = self._uniforms[index].gather(1, self._step[index, None])[:, 0]
        tokens_B, chosen_B = pick(logp_BV, uniforms_B, self._greedy[index])
        finished: list[int] = []
        for slot, token, logprob in zip(slots, tokens_B.tolist(), chosen_B.tolist(), strict=True):
            row = self._rows[slot]
            if row is not None and math.isnan(logprob):
                raise UserError(
                    "the model's logits are not numbers (NaN)",
                    where="Engine",
                    fix="its weights are damaged or diverged in training: use an earlier checkpoint",
                )
            if row is not None and row.add(token, logprob, self._tokenizer):
                self._rows[slot] = None
                finished.append(slot)
        if finished:
            self._live[torch.tensor(finished, device=self._live.device)] = 0
        return tokens_B

    def _compact(self, running: int) -> None:
        """Move live rows from the end into the holes, so that only `running` slots are computed."""
        sources = [s for s in range(running, self._count) if self._rows[s] is not None]
        targets = [s for s in range(running) if self._rows[s] is None]
        self._count = running
        if not sources:
            return
        for source, target in zip(sources, targets, strict=True):
            self._rows[target], self._rows[source] = self._rows[source], None
            self._samplings[target] = self._samplings[source]
        length = max(len(row.prompt) + len(row.tokens) for row in self._rows if row is not None)
        source = torch.tensor(sources, device=self._token.device)
        target = torch.tensor(targets, device=self._token.device)
        self._cache.move(source, target, length)
        for state in (self._uniforms, self._greedy, self._token, self._position, self._step, self._live):
            state[target] = state[source]
