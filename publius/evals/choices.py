"""Multiple choice: questions with lettered options, for our engine, a preference model, or a remote one.

An item is one question as it was published, or a pair of replies asked in both orders and averaged in logit
space. What could not be scored counts as wrong and is told by kind.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from publius.constitution.judges.choice import Choice, NoChoice, read_choice
from publius.constitution.judges.judgement import Judgement, Pair, logit
from publius.constitution.principles import Layout, Principle
from publius.constitution.styles import StyleName
from publius.core.console import progress
from publius.core.errors import UserError
from publius.core.messages import Conversation, assistant, user
from publius.inference.engine import Engine
from publius.inference.remote import Question, RemoteModel
from publius.inference.sampling import Sampling
from publius.reward.reward_judge import RewardJudge
from publius.tokenizer.renderer import Renderer
from publius.tokenizer.tokenizer import Tokenizer

__all__ = [
    "ChoiceItem",
    "ChoiceScorer",
    "Chosen",
    "EngineChoices",
    "MultipleChoice",
    "RemoteChoices",
    "RewardChoices",
]

_AT_ONCE = 32
_TOP = 20
_LAYOUT = Layout()
_REASONING = _LAYOUT.reasoning.rpartition("\n")[2]
"""The cue of a chain of thought."""
_UNFIT = NoChoice("unfit", "the question does not fit the model's context")


class MultipleChoice(NamedTuple):
    """A question that ends with a cue such as "The answer is:", and what may follow it, spaces and all."""

    prompt: str
    options: tuple[str, ...]


class ChoiceItem(NamedTuple):
    """One question of a set.

    Attributes:
        orders: the question as published; or two, the second with its options the other way round.
        right: indices of the right options in the first order.
        lengths: characters of the reply behind each option, in the first order; empty where unknown.
        pair: the conversation and the replies behind the two options, where they are known.
    """

    id: str
    orders: tuple[MultipleChoice, ...]
    right: tuple[int, ...]
    lengths: tuple[int, ...] = ()
    pair: Pair | None = None


class Chosen(NamedTuple):
    """How likely each option is, in the first order.

    Attributes:
        mass: probability of all options together, before they are normalised; NaN where nothing was left out.
        consistent: both orders prefer the same; None where one was asked.
    """

    probabilities: tuple[float, ...]
    mass: float
    consistent: bool | None = None


class ChoiceScorer(Protocol):
    """Scores items."""

    def score(self, items: Sequence[ChoiceItem]) -> list[Chosen | NoChoice]:
        """One result per item, in order."""
        ...


class EngineChoices:
    """The log-probabilities of the options after the prompt, as published (Bai et al. 2022, section 4.1).

    Args:
        style: `raw` continues the text; `chat` asks it in a user's turn and puts the last line, the cue,
            into the assistant's mouth.
        thought_tokens: 0 reads the options at once; else a chain of thought of at most so many tokens is
            sampled before.
        samples: thoughts to each question, whose probabilities are averaged.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        style: StyleName = "raw",
        *,
        thought_tokens: int = 0,
        samples: int = 1,
        seed: int = 0,
    ) -> None:
        self._engine, self._tokenizer, self._style = engine, tokenizer, style
        self._thought_tokens, self._samples, self._seed = thought_tokens, samples, seed
        self._renderer = Renderer(tokenizer)

    def score(self, items: Sequence[ChoiceItem]) -> list[Chosen | NoChoice]:
        """One result per item, in order."""
        found: list[Chosen | NoChoice] = []
        with progress("scoring", len(items)) as ticker:
            for start in range(0, len(items), _AT_ONCE):
                part = items[start : start + _AT_ONCE]
                orders = [order for item in part for order in item.orders]
                found += _joined(
                    part, self._think(orders, start) if self._thought_tokens else self._read(orders)
                )
                ticker.advance(len(part))
        return found

    def _read(self, questions: Sequence[MultipleChoice]) -> list[Choice | NoChoice]:
        raw = self._style == "raw"
        prompts = [self._prompt(*((q.prompt, "") if raw else _parts(q.prompt))) for q in questions]
        return self._score(prompts, questions)

    def _think(self, questions: Sequence[MultipleChoice], place: int) -> list[Choice | NoChoice]:
        repeated = [q for q in questions for _ in range(self._samples)]
        bodies = [_parts(q.prompt)[0] for q in repeated]
        prompts = [self._prompt(body, f"\n\n{_REASONING}") for body in bodies]
        room = self._engine.context - self._thought_tokens
        stops = _LAYOUT.stops if self._style == "raw" else ()
        fits = [i for i, prompt in enumerate(prompts) if len(prompt) <= room]
        sampling = [
            Sampling(
                max_tokens=self._thought_tokens,
                stop=stops,
                stop_ids=(self._tokenizer.end_id,),
                seed=self._seed * 1_000_003 + place * 2 * self._samples + i,
            )
            for i in fits
        ]
        written = self._engine.generate([prompts[i] for i in fits], sampling) if fits else []
        ends: list[list[int]] = []
        for i, completion in zip(fits, written, strict=True):
            thought = self._tokenizer.decode(list(completion.tokens), skip_special=True)
            for stop in stops:
                thought = thought.split(stop, 1)[0]
            begun = f"\n\n{_REASONING} {thought.strip()}{_LAYOUT.conclusion}"
            ends.append(self._prompt(bodies[i], begun))
        each: list[Choice | NoChoice] = [_UNFIT] * len(repeated)
        for i, one in zip(fits, self._score(ends, [repeated[i] for i in fits]), strict=True):
            each[i] = one
        n = self._samples
        return [_average(each[i : i + n]) for i in range(0, len(each), n)]

    def _score(
        self, prompts: Sequence[list[int]], questions: Sequence[MultipleChoice]
    ) -> list[Choice | NoChoice]:
        """What each prompt says of its question's options."""
        options = [[self._tokenizer.encode_on(option) for option in q.options] for q in questions]
        fits = [
            len(prompt) + max(map(len, given)) <= self._engine.context
            for prompt, given in zip(prompts, options, strict=True)
        ]
        rows = [
            (prompt, ids)
            for prompt, given, fit in zip(prompts, options, fits, strict=True)
            for ids in given
            if fit
        ]
        scores = iter(self._engine.score([prompt for prompt, _ in rows], [ids for _, ids in rows]))
        read: list[Choice | NoChoice] = []
        for given, fit in zip(options, fits, strict=True):
            if fit:
                read.append(_weighed([sum(next(scores)) for _ in given]))
            else:
                read.append(_UNFIT)
        return read

    def _prompt(self, asked: str, begun: str) -> list[int]:
        """What is asked, and what the model has said already."""
        if self._style == "raw":
            return [self._tokenizer.bos_id, *self._tokenizer.encode(asked + begun)]
        said = (user(asked.strip()), assistant(begun.strip())) if begun.strip() else (user(asked.strip()),)
        return self._renderer.prompt(Conversation(messages=said))


class RemoteChoices:
    """A remote model, told how to answer; read by log-probabilities where it gives some, else by its words.

    Args:
        thought_tokens: 0 asks for the answer at once; else a chain of thought of so many tokens comes first.
        samples: answers to each question, averaged.
        logprobs: ask for log-probabilities (OpenAI dialect).
    """

    def __init__(
        self,
        model: RemoteModel,
        *,
        thought_tokens: int = 0,
        samples: int = 1,
        logprobs: bool = True,
        answer_tokens: int = 16,
    ) -> None:
        self._model, self._samples = model, samples
        self._thought_tokens, self._answer_tokens = thought_tokens, answer_tokens
        self._alternatives = _TOP if logprobs and model.config.dialect == "openai" else 0

    def score(self, items: Sequence[ChoiceItem]) -> list[Chosen | NoChoice]:
        """One result per item, in order.

        Raises:
            UserError: as `RemoteModel.ask`.
        """
        questions = [order for item in items for order in item.orders]
        tokens = self._answer_tokens + self._thought_tokens
        asked = [
            Question(Conversation(messages=(user(self._ask(q)),)), tokens, self._alternatives, sample)
            for q in questions
            for sample in range(self._samples)
        ]
        answers = self._model.ask(asked, f"asking {self._model.config.model}")
        k = self._samples
        read = [
            read_choice(
                answers[k * i : k * i + k],
                [option.strip() for option in question.options],
                final=self._thought_tokens > 0,
            )
            for i, question in enumerate(questions)
        ]
        return _joined(items, read)

    def _ask(self, question: MultipleChoice) -> str:
        *others, last = [option.strip() for option in question.options]
        offered = f"{', '.join(others)} or {last}"
        how = f"Answer with {offered} and nothing else."
        if self._thought_tokens:
            how = f"Let's think step by step, then end with a line of its own: the answer is {offered}."
        return f"{_parts(question.prompt)[0]}\n\n{how}"


class RewardChoices:
    """A preference model: it reads the two replies, not the question about them."""

    def __init__(self, judge: RewardJudge) -> None:
        self._judge = judge

    def score(self, items: Sequence[ChoiceItem]) -> list[Chosen | NoChoice]:
        """One result per item, in order.

        Raises:
            UserError: when no item has the replies behind its options.
        """
        pairs = [item.pair for item in items if item.pair is not None]
        if not pairs:
            raise UserError(
                "a preference model needs the replies behind the options, and these questions lack them",
                where="the file",
                fix="give a file with pairs of replies, or a language model",
            )
        verdicts = iter(self._judge.judge(pairs, [_NO_PRINCIPLE] * len(pairs)))
        found: list[Chosen | NoChoice] = []
        for item in items:
            verdict = next(verdicts) if item.pair is not None else None
            if isinstance(verdict, Judgement):
                found.append(Chosen((verdict.probability, 1 - verdict.probability), math.nan))
            else:
                found.append(NoChoice("unfit", "no replies, or too long for the model"))
        return found


_NO_PRINCIPLE = Principle(
    id="none", text="-", source="-", category="-",
    critique_request="-", revision_request="-", comparison_question="-",
)  # fmt: skip
"""A preference model reads none."""


def _weighed(logprobs: Sequence[float]) -> Choice:
    shares = [math.exp(logprob) for logprob in logprobs]
    mass = sum(shares)
    if not mass:  # options of hundreds of tokens: beside each other they still differ
        most = max(logprobs)
        shares = [math.exp(logprob - most) if most > -math.inf else 1.0 for logprob in logprobs]
    total = sum(shares)
    return Choice(tuple(share / total for share in shares), mass or 1e-300, "")


def _average(read: Sequence[Choice | NoChoice]) -> Choice | NoChoice:
    """Probabilities averaged over the samples that could be read."""
    found = [one for one in read if isinstance(one, Choice)]
    if not found:
        return read[0]
    shares = zip(*(one.probabilities for one in found), strict=True)
    mass = sum(one.mass for one in found) / len(found)
    return Choice(tuple(sum(column) / len(found) for column in shares), mass, "")


def _parts(prompt: str) -> tuple[str, str]:
    """The question, and the cue on its last line."""
    body, _, cue = prompt.strip().rpartition("\n")
    return (body.strip(), cue) if cue.rstrip().endswith(":") else (prompt.strip(), "")


def _joined(items: Sequence[ChoiceItem], read: Sequence[Choice | NoChoice]) -> list[Chosen | NoChoice]:
    """Results of all orders, item after item -> one result for each item."""
    found: list[Chosen | NoChoice] = []
    rest = iter(read)
    for item in items:
        given = [next(rest) for _ in item.orders]
        silent = next((one for one in given if isinstance(one, NoChoice)), None)
        if silent is not None:
            found.append(silent)
            continue
        choices = [one for one in given if isinstance(one, Choice)]
        if len(choices) == 1:
            found.append(Chosen(choices[0].probabilities, choices[0].mass))
        else:
            found.append(_both(*choices))
    return found


def _both(first: Choice, second: Choice) -> Chosen:
    """Two orders, averaged in logit space; the second's options are turned back."""
    mass = min(first.mass, second.mass)
    turned = list(reversed(second.probabilities))
    if len(turned) > 2:
        return _many(first.probabilities, turned, mass)
    there, back = logit(first.probabilities[0]), logit(turned[0])
    p = 1 / (1 + math.exp(-(there + back) / 2))
    return Chosen((p, 1 - p), mass, (there > 0) == (back > 0))


def _many(there: Sequence[float], back: Sequence[float], mass: float) -> Chosen:
    """Geometric means of more than two options: of two they would be the mean of the logits."""
    weights = [math.sqrt(max(a, 1e-12) * max(b, 1e-12)) for a, b in zip(there, back, strict=True)]
    shares = tuple(weight / sum(weights) for weight in weights)
    return Chosen(shares, mass, there.index(max(there)) == back.index(max(back)))
