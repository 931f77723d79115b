"""One engine for rollouts, critiques, judging, evaluation and serving: tokens in, tokens and log-probs out.

It runs on the very tensors the trainer updates. Rows are batched, prompts that begin alike share one
forward pass over what they share, and a finished row's place is taken by the next prompt.

How far results depend on the batch: in fp32 not at all, beyond the rounding of matrix products (about
1e-6 in a logit; a greedy choice can differ only between two tokens that close). In bf16 that rounding is
about 1e-2, so near-ties may fall differently in another batch; use fp32 where texts must repeat exactly.

Shape letters: B rows, T tokens, D hidden, N scored tokens, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
import torch.nn.functional as F

from publius.core.device import compute_dtype
from publius.core.errors import UserError
from publius.inference.batch import Batch, Completion, Request, pad, prefix_cache
from publius.inference.kv_cache import KVCache, PrefillView
from publius.inference.sampler import Sampling
from publius.inference.scheduler import Group, chunk_rows, share_prefixes
from publius.model.transformer import Transformer
from publius.tokenizer.tokenizer import Tokenizer

__all__ = ["Completion", "Engine", "Sampling"]

_LOGITS = 1 << 24
"""Most logits held at once while scoring (64 MB in fp32)."""


class Engine:
    """Batched generation and scoring with one model.

    Args:
        model: the model; its tensors are shared, not copied, unless `dtype` or `device` differ from its own.
        tokenizer: of the same vocabulary. Its end token always stops a row.
        dtype: of weights and cache. None keeps the model's; "auto" takes bf16 where it measures faster
            (see `_measured_dtype`), else keeps the model's; a torch dtype casts once per `load`.
        max_batch: most rows at once.
        device: None keeps the model's.

    Raises:
        UserError: when `max_batch` is below 1, or the tokenizer has ids the model lacks.
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        *,
        dtype: torch.dtype | Literal["auto"] | None = None,
        max_batch: int = 64,
        device: torch.device | str | None = None,
    ) -> None:
        if max_batch < 1:
            raise UserError(f"max_batch is {max_batch}", where="Engine.max_batch", fix="give at least 1")
        self.tokenizer, self.max_batch = tokenizer, max_batch
        self._dtype, self._device = dtype, device
        self._copy: Transformer | None = None
        self.model: Transformer = model
        self.load(model)

    @property
    def context(self) -> int:
        """Most tokens of a prompt and its continuation together."""
        return self.model.config.max_position

    def load(self, model: Transformer) -> None:
        """Use `model` from now on. New weights in the same model need it only when `dtype` made a copy."""
        if self.tokenizer.vocab_size > model.config.vocab_size:
            raise UserError(
                f"the tokenizer has {self.tokenizer.vocab_size} ids, the model {model.config.vocab_size}",
                where="Engine.load",
                fix="use the tokenizer the model was trained with",
            )
        device = torch.device(self._device) if self._device is not None else model.device
        wanted = self._dtype or model.dtype
        dtype = _measured_dtype(device, model.dtype, self.max_batch) if isinstance(wanted, str) else wanted
        if dtype == model.dtype and device == model.device:
            self.model, self._copy = model, None
        elif self._copy is not None and self._copy.config == model.config:
            with torch.no_grad():
                for mine, theirs in zip(self._copy.parameters(), model.parameters(), strict=True):
                    mine.copy_(theirs)
        else:
            self.model = copy.deepcopy(model).to(device, dtype).requires_grad_(False)
            self._copy = self.model
        with torch.inference_mode(False):
            # The model makes its rotary table at first use and keeps it. Made in inference mode, it could
            # not be used in training afterwards.
            first = torch.zeros((1, 1), dtype=torch.int64, device=self.model.device)
            self.model.rotary.at(first, None, self.model.dtype)

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling | Sequence[Sampling]
    ) -> list[Completion]:
        """Continue every prompt; results in the order given.

        One Sampling with a seed gives row i its own stream, derived from (seed, i). A Sampling per prompt
        uses stream 0 of its own seed, so a seeded row is the same alone or in any batch.

        Raises:
            UserError: before any compute, naming the request: an empty prompt, an id outside the
                vocabulary, or a prompt and `max_tokens` that exceed the context.
        """
        shared = isinstance(sampling, Sampling)
        samplings = [sampling] * len(prompts) if isinstance(sampling, Sampling) else list(sampling)
        if len(samplings) != len(prompts):
            raise UserError(
                f"{len(prompts)} prompts but {len(samplings)} samplings",
                where="Engine.generate",
                fix="give one Sampling for all prompts, or one for each",
            )
        for i, (prompt, one) in enumerate(zip(prompts, samplings, strict=True)):
            self._check(i, prompt, one.max_tokens)
        requests = [
            Request(prompt, one, stream=i if shared else 0)
            for i, (prompt, one) in enumerate(zip(prompts, samplings, strict=True))
        ]
        if requests:
            batch = Batch(self.model, self.tokenizer, requests, self.max_batch)
            with _eager(self.model):
                while batch.step():
                    pass
        return [request.completion() for request in requests]

    def stream(self, prompt: Sequence[int], sampling: Sampling) -> Generator[int, None, Completion]:
        """Continue one prompt, yielding each token as it is drawn: the same tokens as `generate`.

        Returns (as the generator's value): the Completion.

        Raises:
            UserError: as `generate`, at the call, not at the first token.
        """
        self._check(0, prompt, sampling.max_tokens)
        return self._stream(Request(prompt, sampling))

    def _stream(self, request: Request) -> Generator[int, None, Completion]:
        batch, given = Batch(self.model, self.tokenizer, [request], 1), 0
        running = True
        while running:
            with _eager(self.model):  # not held across the yield
                running = batch.step()
            yield from request.tokens[given:]
            given = len(request.tokens)
        return request.completion()

    def score(
        self, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Log-probability (nats, temperature 1) of every token of each continuation after its prompt.

        Prompts with a common beginning share one pass over it; requests that read the same tokens (one
        prompt, several single-token answers) are read once. Logits exist only for the scored places.

        Raises:
            UserError: before any compute, as `generate`, naming the request.
        """
        if len(prompts) != len(continuations):
            raise UserError(
                f"{len(prompts)} prompts but {len(continuations)} continuations",
                where="Engine.score",
                fix="give one continuation for each prompt",
            )
        reads: dict[tuple[int, ...], list[int]] = {}
        for i, (prompt, continuation) in enumerate(zip(prompts, continuations, strict=True)):
            self._check(i, prompt, max(0, len(continuation) - 1))
            self._check_ids(i, continuation, "continuation")
            if continuation:
                reads.setdefault((*prompt, *continuation[:-1]), []).append(i)
        rows = list(reads)
        limits = [min(len(prompts[i]) for i in reads[row]) - 1 for row in rows]
        results: list[list[float]] = [[] for _ in prompts]
        for group in share_prefixes(rows, limits):
            with _eager(self.model), torch.inference_mode():
                for members, hidden_BTD in self._read(rows, group):
                    wanted = [
                        (b, i, len(prompts[i]) - 1 - group.shared)
                        for b, member in enumerate(members)
                        for i in reads[rows[member]]
                    ]
                    self._gather(hidden_BTD, wanted, continuations, results)
        return results

    def _read(
        self, rows: Sequence[tuple[int, ...]], group: Group
    ) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Hidden states [B, T, D] of each chunk of a group's rows, after their shared prefix."""
        shared, device, done = group.shared, self.model.device, 0
        prefix: KVCache | None = None
        if shared:
            prefix = prefix_cache(self.model, rows[group.members[0]][:shared])
        while done < len(group.members):
            left = group.members[done : done + self.max_batch]
            count = chunk_rows([len(rows[i]) - shared for i in left], self.max_batch)
            members = left[:count]
            done += count
            tokens_BT = pad([rows[i][shared:] for i in members], device)
            if prefix is None:
                yield members, self.model.hidden(tokens_BT)
            else:
                positions = torch.arange(shared, shared + tokens_BT.shape[1], device=device)[None]
                view = PrefillView(prefix=prefix)
                yield members, self.model.hidden(tokens_BT, positions_BT=positions, cache=view)

    def _gather(
        self,
        hidden_BTD: torch.Tensor,
        wanted: Sequence[tuple[int, int, int]],
        continuations: Sequence[Sequence[int]],
        results: list[list[float]],
    ) -> None:
        """Score the wanted (row, request, first place) of one chunk into `results`."""
        device = hidden_BTD.device
        places = [(b, start + j) for b, i, start in wanted for j in range(len(continuations[i]))]
        targets = torch.tensor([t for _, i, _ in wanted for t in continuations[i]], device=device)
        index = torch.tensor(places, device=device)
        hidden_ND = hidden_BTD[index[:, 0], index[:, 1]]
        at_once = max(1, _LOGITS // self.model.config.vocab_size)
        scored: list[float] = []
        for hidden, target in zip(hidden_ND.split(at_once), targets.split(at_once), strict=True):
            scored += (-F.cross_entropy(self.model.logits(hidden).float(), target, reduction="none")).tolist()
        done = 0
        for _, i, _ in wanted:
            results[i] = scored[done : done + len(continuations[i])]
            done += len(continuations[i])

    def _check(self, index: int, prompt: Sequence[int], new: int) -> None:
        """Refuse a prompt that is empty, out of the vocabulary, or too long with `new` more tokens."""
        where, room = f"request {index}", self.context
        if not prompt:
            raise UserError("the prompt is empty", where=where, fix="give at least one token (<|bos|>)")
        if len(prompt) + new > room:
            raise UserError(
                f"prompt of {len(prompt)} tokens and {new} new ones exceed the context of {room}",
                where=where,
                fix=f"shorten the prompt or ask for at most {max(0, room - len(prompt))} new tokens",
            )
        self._check_ids(index, prompt, "prompt")

    def _check_ids(self, index: int, tokens: Sequence[int], name: str) -> None:
        size = self.model.config.vocab_size
        if tokens and not (min(tokens) >= 0 and max(tokens) < size):
            wrong = next(token for token in tokens if not 0 <= token < size)
            raise UserError(
                f"the {name} holds id {wrong}, outside the vocabulary of {size}",
                where=f"request {index}",
                fix="encode with the tokenizer the model was trained with",
            )


def _measured_dtype(device: torch.device, own: torch.dtype, rows: int) -> torch.dtype:
    """bf16 where the hardware multiplies in it and there are rows enough to gain; else the model's own.

    Measured (one core with AVX512-BF16, models of 192x4 and 256x4, 64 rows): bf16 scores 2 to 2.5 times
    faster and generates 1.1 to 1.3 times faster. At one row fp32 is up to twice as fast; they meet near 16.
    """
    return compute_dtype(device) if device.type == "cuda" or rows >= 32 else own


def _eager(model: Transformer) -> AbstractContextManager[object]:
    """Ignore blocks the trainer compiled in place: every new shape here would compile them again."""
    if any(module._compiled_call_impl is not None for module in model.modules()):  # pyright: ignore[reportPrivateUsage]
        return torch.compiler.set_stance("force_eager")
    return nullcontext()
