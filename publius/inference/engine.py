"""One engine for rollouts, critiques, judging, evaluation and serving: tokens in, tokens and log-probs out.

A step reads *schedule, run, postprocess*. The scheduler says which tokens are read next (`scheduler`), the
runner turns them into logits (`runner`), and the sampler draws the tokens that follow (`sampler`).

On a CPU with a C++ compiler the forward pass is native, and a row's numbers do not depend, to the bit, on
what it is computed beside: batch, chunks, reused prefixes, preemption and guesses cannot change a text.
Elsewhere the model's own forward runs, and a result depends on the batch through the rounding of matrix
products: about 1e-6 in a logit in fp32, 1e-2 in bf16.

Threads may share an engine: `submit`, `step`, `cancel` and `load` wait for each other.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Sequence

import torch

from publius.core.errors import UserError
from publius.inference.guide import Guides
from publius.inference.host import CacheDtype, Dtype, Host
from publius.inference.pages import PAGE, PagePool
from publius.inference.postprocess import postprocess
from publius.inference.readings import Probe
from publius.inference.refusals import Room, check_ids, check_new, check_request
from publius.inference.request import Completion, Request
from publius.inference.sampler import row_uniforms
from publius.inference.sampling import Sampling
from publius.inference.scheduler import Scheduler, Work
from publius.inference.scoring import Scores
from publius.inference.speculate import ModelDraft, prompt_lookup
from publius.inference.stats import Stats
from publius.model.transformer import Transformer
from publius.tokenizer.tokenizer import Tokenizer

__all__ = ["Completion", "Engine", "Request", "Sampling", "Stats"]

_LOGITS = 1 << 24
"""Most logits held at once while scoring (64 MB in fp32)."""
STEP_TOKENS = 1024
"""Most tokens a step reads: enough to fill the cores, and few enough that rows that decode wait little."""


class Engine:
    """Batched generation and scoring with one model.

    Args:
        model: the model. Its tensors are shared where the model's own forward runs in their dtype; the native
            pass packs them anew whenever they have changed.
        tokenizer: of the same vocabulary. Its end token always stops a row.
        dtype: of weights. None keeps the model's; "auto" takes bf16 where the hardware multiplies in it and
            it measures faster, else keeps the model's; "int8" (native pass only) keeps a scale an output.
        max_batch: most rows at once.
        device: None keeps the model's.
        cache_tokens: most tokens whose keys and values are kept; None is what `max_batch` full rows need, or
            a quarter of the free memory if that is less. What cannot fit is refused when it is asked for.
        cache_dtype: "int8" (native pass only) keeps keys and values so, with a scale for each token and head;
            None as the weights, or in bf16 beside int8 ones where the hardware has it.
        speculate: how many tokens to guess at each step. They are checked and never change a text.
        draft: a smaller model of the same tokenizer that guesses; None guesses from what was said before,
            which is worth it where replies repeat their prompt.
        native: False computes with PyTorch on CPU too.
        trunk: (native pass only) keep what the last layer gets, of requests with a probe: `Request.trunk`.

    Raises:
        UserError: when a number is below its least, the tokenizer has ids the model lacks, or int8 is asked
            for where the native pass cannot run.
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        *,
        dtype: Dtype = None,
        max_batch: int = 64,
        device: torch.device | str | None = None,
        cache_tokens: int | None = None,
        cache_dtype: CacheDtype = None,
        speculate: int = 0,
        draft: Transformer | None = None,
        step_tokens: int = STEP_TOKENS,
        native: bool = True,
        trunk: bool = False,
    ) -> None:
        for name, value, least in (
            ("max_batch", max_batch, 1),
            ("cache_tokens", cache_tokens if cache_tokens is not None else PAGE, PAGE),
            ("speculate", speculate, 0),
            ("step_tokens", step_tokens, 1),
        ):
            if value < least:
                raise UserError(f"{name} is {value}", where=f"Engine.{name}", fix=f"give at least {least}")
        self.tokenizer, self.max_batch, self._guides = tokenizer, max_batch, Guides(tokenizer)
        self._step_tokens, self._speculate = step_tokens, speculate
        self._scheduler: Scheduler | None = None
        self._stats = Stats()
        self._lock = threading.RLock()
        self._draft = (
            prompt_lookup
            if draft is None
            else ModelDraft(
                Engine(draft, tokenizer, dtype=dtype, max_batch=max_batch, device=device, native=native),
                tokenizer.vocab_size,
            )
        )
        self._fits(model)
        self._host = Host(
            model, dtype=dtype, device=device, native=native, max_batch=max_batch, cache_tokens=cache_tokens,
            cache_dtype=cache_dtype, trunk=trunk,
        )  # fmt: skip

    @property
    def model(self) -> Transformer:
        """What was loaded; a copy of it where PyTorch runs it in another dtype or on another device."""
        return self._host.model

    @property
    def context(self) -> int:
        """Most tokens of a prompt and its continuation together."""
        return self.model.config.max_position

    @property
    def dtype(self) -> torch.dtype:
        """What products read."""
        return self._host.dtype

    @property
    def native(self) -> bool:
        """Whether the CPU's own forward pass runs."""
        return self._host.native

    def load(self, model: Transformer) -> None:
        """Use `model` from now on; what runs goes on with it. New weights in the same model are noticed
        without it, when they are written as optimizers write (see `Host.refresh`).

        Raises:
            UserError: for another shape of model while requests run, or one smaller than the tokenizer.
        """
        with self._lock:
            self._fits(model)
            scheduler, other = self._scheduler, model.config != self.model.config
            if other and scheduler is not None and (scheduler.running or scheduler.waiting):
                raise UserError(
                    "another shape of model while requests run",
                    where="Engine.load",
                    fix="let them finish, or cancel them",
                )
            self._host.load(model)
            if other:
                self._stats, self._scheduler = self.stats, None

    def _fits(self, model: Transformer) -> None:
        if self.tokenizer.vocab_size > model.config.vocab_size:
            raise UserError(
                f"the tokenizer has {self.tokenizer.vocab_size} ids, the model {model.config.vocab_size}",
                where="Engine.load",
                fix="use the tokenizer the model was trained with",
            )

    def _ready(self) -> Scheduler:
        """The scheduler, made when first needed; with other weights nothing of the past is used again."""
        changed = self._host.refresh()
        if self._scheduler is None:
            self._scheduler = Scheduler(
                PagePool(self._host.cache.pages),
                rows=self.max_batch,
                tokens=max(self._step_tokens, self.max_batch),
                scored=_LOGITS // self.model.config.vocab_size,
                draft=self._draft if self._speculate else None,
                guesses=self._speculate,
            )
        elif changed:
            self._scheduler.forget()
        return self._scheduler

    @property
    def stats(self) -> Stats:
        """Counts so far."""
        if (scheduler := self._scheduler) is None:
            return self._stats
        return self._stats._replace(
            reused=self._stats.reused + scheduler.reused,
            preempted=self._stats.preempted + scheduler.preemptions,
            pages=scheduler.pool.in_use,
        )

    # ---- whole answers ----

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling | Sequence[Sampling]
    ) -> list[Completion]:
        """Continue every prompt; results in the order given.

        One Sampling with a seed gives row i its own stream, derived from (seed, i). A Sampling per prompt
        uses stream 0 of its own seed, so a seeded row is the same alone or in any batch.

        Raises:
            UserError: before any compute, naming the request: an empty prompt, an id outside the
                vocabulary, a prompt and `max_tokens` beyond the context or the cache, an impossible grammar.
        """
        if shared := isinstance(sampling, Sampling):
            sampling = [sampling] * len(prompts)
        if len(samplings := list(sampling)) != len(prompts):
            raise UserError(
                f"{len(prompts)} prompts but {len(samplings)} samplings",
                where="Engine.generate",
                fix="give one Sampling for all prompts, or one for each",
            )
        requests = [
            Request(prompt, one, stream=i if shared else 0)
            for i, (prompt, one) in enumerate(zip(prompts, samplings, strict=True))
        ]
        self.complete(requests)
        return [request.completion() for request in requests]

    def samples(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, n: int, *, draws: int | None = None
    ) -> list[list[Completion]]:
        """`n` continuations of every prompt, which is read once; the likeliest (a token, on average) of
        `draws` when that is given, best first.

        Raises:
            UserError: as `generate`, and when n is not between 1 and `draws`.
        """
        count = n if draws is None else draws
        if not 1 <= n <= count:
            raise UserError(f"{n} of {count} draws", where="Engine.samples", fix="give 1 <= n <= draws")
        done = self.generate([prompt for prompt in prompts for _ in range(count)], sampling)
        groups = [done[i : i + count] for i in range(0, len(done), count)]
        if draws is None:
            return groups
        return [sorted(group, key=lambda c: -sum(c.logprobs) / len(c.logprobs))[:n] for group in groups]

    def stream(self, prompt: Sequence[int], sampling: Sampling) -> Generator[int, None, Completion]:
        """Continue one prompt, yielding each token as it is drawn: the same tokens as `generate`.

        Returns (as the generator's value): the Completion.

        Raises:
            UserError: as `generate`, at the call; at the first token for a model loaded in between.
        """
        request = Request(prompt, sampling)
        self._check(0, request)
        return self._stream(request)

    def _stream(self, request: Request) -> Generator[int, None, Completion]:
        self._check(0, request)  # a stream that is never read takes no room, so it is submitted only now
        self._submit(request)
        given = 0
        try:
            while request.stop_reason is None or given < len(request.tokens):
                if given == len(request.tokens):
                    self.step()
                yield from request.tokens[given : (given := len(request.tokens))]
        finally:
            self.cancel(request)
        return request.completion()

    def score(
        self, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Log-probability (nats, temperature 1) of every token of each continuation after its prompt.

        Prompts with a common beginning share its pages; requests that read the same tokens (one prompt,
        several single-token answers) are read once. Logits exist only for the scored places.

        Raises:
            UserError: before any compute, as `generate`, naming the request.
        """
        if len(prompts) != len(continuations):
            told = f"{len(prompts)} prompts but {len(continuations)} continuations"
            raise UserError(told, where="Engine.score", fix="give one continuation for each prompt")
        scores = Scores(prompts, continuations)
        for i, (prompt, continuation) in enumerate(scores.texts):
            check_ids(i, continuation, "continuation", self.model.config.vocab_size)
            self._check(i, scores.requests[i], prompt)
        self._finish(scores.reads)
        return scores.found()

    def complete(self, requests: Sequence[Request]) -> None:
        """Run requests of one's own making to their end.

        Raises:
            UserError: as `generate`.
        """
        for i, request in enumerate(requests):
            self._check(i, request)
        self._finish(requests)

    def attempt(self, requests: Sequence[Request]) -> None:
        """As `complete`, but what cannot be run, or fails, only has its `error` set."""
        for i, request in enumerate(requests):
            try:
                self._check(i, request)
            except UserError as error:
                request.error, request.stop_reason = error, "error"
        self._run([request for request in requests if request.error is None])

    def _finish(self, requests: Sequence[Request]) -> None:
        self._run(requests)
        for request in requests:
            if request.error is not None:
                raise request.error

    def _run(self, requests: Sequence[Request]) -> None:
        """To their end; whatever happens, none of them is left behind."""
        try:
            for request in requests:
                self._submit(request)
            for request in requests:
                while request.stop_reason is None:
                    self.step()
        finally:
            for request in requests:
                self.cancel(request)

    # ---- requests one by one ----

    def submit(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        *,
        priority: int = 0,
        seconds: float | None = None,
        stream: int = 0,
        probe: Probe | None = None,
    ) -> Request:
        """Take a request; `step` works on it until its `stop_reason` is set.

        Args:
            seconds: it is ended after so many, with what it has.
            prompt, sampling, priority, stream, probe: as `Request`.

        Raises:
            UserError: as `generate`.
        """
        end = None if seconds is None else time.monotonic() + seconds
        request = Request(prompt, sampling, stream=stream, priority=priority, deadline=end, probe=probe)
        return self.enqueue(request)

    def enqueue(self, request: Request) -> Request:
        """As `submit`, a request of one's own making; raises as `generate`."""
        with self._lock:
            self._check(0, request)
            self._submit(request)
        return request

    def _submit(self, request: Request) -> None:
        with self._lock:
            check_new(0, request)  # the same one may have been given twice
            scheduler = self._ready()
            if request.targets is None and request.uniforms is None:
                request.uniforms = row_uniforms(request.sampling, request.stream).numpy()
            scheduler.add(request)

    def cancel(self, request: Request) -> None:
        """End a request with what it has; its pages are free at once. Nothing happens when it has ended."""
        with self._lock:
            if request.stop_reason is None:
                request.stop_reason = "cancelled"
                if self._scheduler is not None and request.number >= 0:
                    self._scheduler.remove(request)

    def step(self) -> bool:
        """Schedule, run, postprocess; whether anything is left to do."""
        with self._lock:
            scheduler = self._ready()
            plan = scheduler.schedule()
            if plan:
                stood = postprocess(plan, self._host.runner.run(plan), self.tokenizer)
                for work, guesses in zip(plan, stood, strict=True):
                    self._advance(scheduler, work, guesses)
                self._stats = self._stats._replace(steps=self._stats.steps + 1)
            return bool(scheduler.running or scheduler.waiting)

    def _advance(self, scheduler: Scheduler, work: Work, stood: int) -> None:
        """What has been read is kept, what has ended gives its room back."""
        request, s = work.request, self._stats
        if request.error is None:
            scheduler.advance(request, work.size + stood)
        if request.stop_reason is None and request.targets is not None and not request.left:
            request.stop_reason = "end"
        if request.stop_reason is not None:
            scheduler.remove(request)
        self._stats = s._replace(
            read=s.read + work.size + len(work.draft),
            guessed=s.guessed + len(work.draft),
            accepted=s.accepted + stood,
        )

    def _check(self, index: int, request: Request, prompt: Sequence[int] | None = None) -> None:
        """Refuse what could not be run to its end."""
        with self._lock:
            check_request(index, request, Room(self.model.config, self._ready().pool.count * PAGE), prompt)
            request.guide = self._guides.guide(index, request.prompt, request.sampling)
