"""Our engine as lm-eval wants a model: log-likelihoods, rolling ones, and text until a stop.

Nothing here needs lm-eval: `harness` dresses this as its model class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch

from publius.core.console import progress
from publius.core.errors import UserError
from publius.evals.lm.chat import ChatTemplate
from publius.evals.lm.scoring import Likelihood, Pair, pairs_of, score_pairs, windows
from publius.evals.lm.words import Words
from publius.inference.engine import Engine
from publius.inference.host import Dtype
from publius.inference.request import Request
from publius.inference.sampling import Sampling
from publius.model.checkpoint import Checkpoint

__all__ = ["EngineLM"]

_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""What the most new tokens are called, first come first."""
_DEFAULT_LENGTH = 256
_KNOWN = ("top_k", "top_p", "min_p", "repetition_penalty")
_AT_ONCE = 256


class EngineLM:
    """Answers lm-eval's three kinds of requests.

    Args:
        engine: with the checkpoint's model.
        words: of the same checkpoint.
        template: its chat template, where it has one.
        seed: of texts that are sampled.
    """

    def __init__(
        self, engine: Engine, words: Words, template: ChatTemplate | None = None, *, seed: int = 0
    ) -> None:
        self.engine, self.words, self.template, self._seed = engine, words, template, seed

    @classmethod
    def of(
        cls, checkpoint: Checkpoint, *, device: str = "cpu", dtype: Dtype = None, max_batch: int = 64
    ) -> Self:
        """A checkpoint, ready to answer.

        Raises:
            UserError: when the folder is not a whole checkpoint.
        """
        folder = Path(checkpoint.path)
        words = Words(folder)
        source = folder / "chat_template.jinja"
        template = None
        if source.is_file():
            template = ChatTemplate(source.read_text("utf-8"), words.special_tokens, str(source))
        own = dtype if isinstance(dtype, torch.dtype) else torch.float32
        model = checkpoint.load(device=device, dtype=own)
        return cls(Engine(model, checkpoint.tokenizer(), dtype=dtype, max_batch=max_batch), words, template)

    def loglikelihood(self, texts: Sequence[tuple[str, str]]) -> list[Likelihood]:
        """Of each (context, continuation), in order.

        Raises:
            UserError: as `pairs_of` and `score_pairs`.
        """
        return score_pairs(self.engine, pairs_of(self.words, texts))

    def loglikelihood_rolling(self, texts: Sequence[str]) -> list[float]:
        """The log-probability of each whole text, however long, in windows of the model's context.

        Raises:
            UserError: as `score_pairs`.
        """
        pairs: list[Pair] = []
        counts: list[int] = []
        for ids in self.words.encode(texts):
            found = [*windows(ids, self.words.prefix_id, self.engine.context)]
            pairs += found
            counts.append(len(found))
        scores = iter(score_pairs(self.engine, pairs))
        return [sum(next(scores).logprob for _ in range(count)) for count in counts]

    def generate_until(self, asked: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
        """The text that follows each context, up to the first of its stop texts or the end of the text.

        Args:
            asked: contexts, each with lm-eval's settings: `until`, `max_gen_toks`, `do_sample`,
                `temperature`, `top_k`, `top_p`, `min_p`, `repetition_penalty`.

        Raises:
            UserError: for an unknown setting, and for more new tokens than the context holds.
        """
        end = self.words.decode([self.words.eos_id], skip_special=False)
        contexts = self.words.encode([context for context, _ in asked])
        requests: list[Request] = []
        for number, (ids, (_, settings)) in enumerate(zip(contexts, asked, strict=True)):
            sampling = self._sampling(settings, end)
            room = self.engine.context - sampling.max_tokens
            if room < 1:
                raise UserError(
                    f"{sampling.max_tokens} new tokens leave no room in a context of {self.engine.context}",
                    where="max_gen_toks",
                    fix=f"ask for at most {self.engine.context - 1}, and leave room for the prompt",
                )
            requests.append(Request(ids[-room:] or [self.words.prefix_id], sampling, stream=number))
        # Like beside like: rows that share a beginning, and short ones that make room early.
        order = sorted(requests, key=lambda request: tuple(request.prompt))
        with progress("writing", len(order)) as ticker:
            for start in range(0, len(order), _AT_ONCE):
                self.engine.complete(order[start : start + _AT_ONCE])
                ticker.advance(len(order[start : start + _AT_ONCE]))
        return [self._text(request) for request in requests]

    def _sampling(self, settings: Mapping[str, Any], end: str) -> Sampling:
        given = dict(settings)
        until = given.pop("until", None) or []
        stops = [until] if isinstance(until, str) else [*until]
        lengths = [given.pop(name, None) for name in _LENGTHS]
        sample, temperature = given.pop("do_sample", None), given.pop("temperature", None)
        others = {name: given.pop(name) for name in _KNOWN if given.get(name) is not None}
        if given:
            raise UserError(
                f"{', '.join(map(repr, given))} is no setting that is known here",
                where="generation_kwargs",
                fix=f"use until, max_gen_toks, do_sample, temperature, {', '.join(_KNOWN)}",
            )
        if not sample:
            temperature = 0.0 if sample is False else float(temperature or 0)
        return Sampling(
            max_tokens=int(next((length for length in lengths if length is not None), _DEFAULT_LENGTH)),
            temperature=1.0 if temperature is None else float(temperature),
            stop=tuple(dict.fromkeys(text for text in (*stops, end) if text)),
            stop_ids=(self.words.eos_id,),
            seed=self._seed,
            **others,
        )

    def _text(self, request: Request) -> str:
        text = self.words.decode(request.tokens)
        for stop in request.sampling.stop:
            text = text.partition(stop)[0]
        return text

    def chat(self, messages: Sequence[Mapping[str, str]], *, reply: bool = True) -> str:
        """Messages as one prompt, by the checkpoint's own chat template.

        Raises:
            UserError: when it has none, and as `ChatTemplate.render`.
        """
        if self.template is None:
            raise UserError(
                "this checkpoint has no chat template",
                where="chat_template.jinja",
                fix="evaluate without a chat template",
            )
        return self.template.render(messages, reply=reply)
