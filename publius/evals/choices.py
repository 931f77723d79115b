"""Multiple choice: questions with lettered options, for our engine, a preference model, or a remote one.

An item is one question as it was published, or a pair of replies asked in both orders and averaged in logit
space. What could not be scored counts as wrong and is told by kind.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from publius.constitution.judges.choice import Choice, NoChoice, read_choice
from publius.constitution.judges.judgement import Judgement, Pair, logit
from publius.constitution.principles import Principle
from publius.constitution.styles import StyleName
from publius.core.console import progress
from publius.core.errors import UserError
from publius.core.messages import Conversation, assistant, user
from publius.core.stats import (
    CalibrationBin,
    Estimate,
    bootstrap,
    calibration,
    calibration_error,
    mean_estimate,
    wilson,
)
from publius.inference.engine import Engine
from publius.inference.remote import Question, RemoteModel
from publius.reward.reward_judge import RewardJudge
from publius.tokenizer.renderer import Renderer
from publius.tokenizer.tokenizer import Tokenizer

__all__ = [
    "ChoiceItem",
    "ChoiceReport",
    "ChoiceScorer",
    "Chosen",
    "EngineChoices",
    "MultipleChoice",
    "RemoteChoices",
    "RewardChoices",
    "score_choices",
]

_AT_ONCE = 32
_TOP = 20


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
    """

    def __init__(self, engine: Engine, tokenizer: Tokenizer, style: StyleName = "raw") -> None:
        self._engine, self._tokenizer, self._style = engine, tokenizer, style
        self._renderer = Renderer(tokenizer)

    def score(self, items: Sequence[ChoiceItem]) -> list[Chosen | NoChoice]:
        """One result per item, in order."""
        found: list[Chosen | NoChoice] = []
        with progress("scoring", len(items)) as ticker:
            for start in range(0, len(items), _AT_ONCE):
                part = items[start : start + _AT_ONCE]
                orders = [order for item in part for order in item.orders]
                found += _joined(part, self._read(orders))
                ticker.advance(len(part))
        return found

    def _read(self, questions: Sequence[MultipleChoice]) -> list[Choice | NoChoice]:
        asked = [(self._prompt(q.prompt), [self._tokenizer.encode(o) for o in q.options]) for q in questions]
        room = self._engine.context
        fits = [len(prompt) + max(map(len, options)) <= room for prompt, options in asked]
        rows = [
            (prompt, ids)
            for (prompt, options), fit in zip(asked, fits, strict=True)
            for ids in options
            if fit
        ]
        scores = iter(self._engine.score([prompt for prompt, _ in rows], [ids for _, ids in rows]))
        read: list[Choice | NoChoice] = []
        for (_, options), fit in zip(asked, fits, strict=True):
            if fit:
                shares = [math.exp(sum(next(scores))) for _ in options]
                mass = sum(shares) or 1e-300
                read.append(Choice(tuple(share / mass for share in shares), mass, ""))
            else:
                read.append(NoChoice("unfit", "the question does not fit the model's context"))
        return read

    def _prompt(self, text: str) -> list[int]:
        if self._style == "raw":
            return [self._tokenizer.bos_id, *self._tokenizer.encode(text)]
        body, cue = _parts(text)
        said = (user(body), assistant(cue)) if cue else (user(body),)
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
    """Two orders of two options, averaged in logit space; the second's options are turned back."""
    there, back = logit(first.probabilities[0]), logit(second.probabilities[1])
    p = 1 / (1 + math.exp(-(there + back) / 2))
    return Chosen((p, 1 - p), min(first.mass, second.mass), (there > 0) == (back > 0))


class ChoiceReport(NamedTuple):
    """How well a set of questions was answered.

    Attributes:
        accuracy: unscored items are wrong; a tie between options is wrong.
        ece: expected calibration error of the chosen option's probability.
        longer: how often the longer reply is the right one, where lengths are known and differ.
        first: how often the first option is right, of items asked in one order: what a model that always
            says (A) would score.
        inconsistency: how often the two orders preferred different replies; n = 0 where one was asked.
        mass: mean probability of all options together.
        unscored: counts by kind: `declined`, `unread`, `unreached`, `unfit`.
    """

    n: int
    accuracy: Estimate
    ece: Estimate
    longer: Estimate
    first: Estimate
    inconsistency: Estimate
    mass: Estimate
    unscored: dict[str, int]
    calibration: list[CalibrationBin]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: values that could not be measured are None."""
        estimates = {
            name: {key: _number(value) for key, value in part.as_dict().items()}
            for name, part in self._asdict().items()
            if isinstance(part, Estimate)
        }
        table = [row._asdict() for row in self.calibration]
        return {"n": self.n, **estimates, "unscored": self.unscored, "calibration": table}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def score_choices(items: Sequence[ChoiceItem], scorer: ChoiceScorer) -> ChoiceReport:
    """Score a set of questions and report.

    Raises:
        UserError: when there are none, and as the scorer.
    """
    if not items:
        raise UserError("there are no questions", where="the file", fix="give a file with rows")
    results = scorer.score(items)
    right = [
        isinstance(chosen, Chosen) and _best(chosen.probabilities) in item.right
        for item, chosen in zip(items, results, strict=True)
    ]
    read = [(chosen, ok) for chosen, ok in zip(results, right, strict=True) if isinstance(chosen, Chosen)]
    said = [(max(chosen.probabilities), ok) for chosen, ok in read]
    low = 0.5 if all(len(item.orders[0].options) == 2 for item in items) else 0.0
    kinds = Counter(chosen.kind for chosen in results if isinstance(chosen, NoChoice))
    measured = [item for item in items if item.lengths and len(set(item.lengths)) > 1]
    fixed = [item for item in items if len(item.orders) == 1]
    turned = [chosen for chosen, _ in read if chosen.consistent is not None]
    return ChoiceReport(
        n=len(items),
        accuracy=wilson(sum(right), len(right)),
        ece=bootstrap(said, lambda some: calibration_error(some, low=low), draws=200)
        if said
        else Estimate(math.nan, 0, 0.0, 1.0),
        longer=wilson(sum(_longest(item) in item.right for item in measured), len(measured)),
        first=wilson(sum(0 in item.right for item in fixed), len(fixed)),
        inconsistency=wilson(sum(not chosen.consistent for chosen in turned), len(turned)),
        mass=mean_estimate([chosen.mass for chosen, _ in read if not math.isnan(chosen.mass)]),
        unscored={kind: kinds[kind] for kind in ("declined", "unread", "unreached", "unfit")},
        calibration=calibration(said, low=low),
    )


def _longest(item: ChoiceItem) -> int:
    return item.lengths.index(max(item.lengths))


def _best(probabilities: Sequence[float]) -> int | None:
    """The likeliest option; None for a tie."""
    best = max(probabilities)
    found = [i for i, p in enumerate(probabilities) if p == best]
    return found[0] if len(found) == 1 else None
