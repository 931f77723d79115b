"""Who is asked: a checkpoint of ours, a preference model, a model behind an address. Each gives a solver."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from publius.constitution.judges.choice import NoChoice
from publius.constitution.styles import StyleName
from publius.core.console import progress
from publius.core.errors import UserError
from publius.core.messages import Conversation, assistant, user
from publius.evals.choices import (
    ChoiceItem,
    ChoiceScorer,
    Chosen,
    EngineChoices,
    MultipleChoice,
    RemoteChoices,
)
from publius.evals.suites.base import Kind, Suite
from publius.evals.suites.behaviour import DECLINED
from publius.evals.task import Solver, ask
from publius.inference import Assistant, Engine, Sampling
from publius.inference.remote import Answer, Question, RemoteModel
from publius.model.checkpoint import Checkpoint, RewardCheckpoint, fingerprint
from publius.reward import ModelReward
from publius.tokenizer.renderer import Renderer

__all__ = ["REPLY_TOKENS", "LanguageSubject", "PreferenceSubject", "RemoteSubject", "Subject"]

REPLY_TOKENS = 128
"""Most new tokens of a reply, unless told otherwise."""
_AT_ONCE = 32
_LETTER = re.compile(r"\(?[A-Z]\)?")


class Subject(Protocol):
    """A model that suites are asked of."""

    name: str
    kind: Kind

    @property
    def fingerprint(self) -> str | None:
        """Of its weights; None of those that are not here."""
        ...

    def solver(self, suite: Suite) -> Solver:
        """What answers the suite's questions; None in place of an answer leaves a question unscored.

        Raises:
            UserError: when the suite cannot be asked of this kind of model.
        """
        ...

    def scorer(self) -> ChoiceScorer:
        """What reads lettered options, for a judge's questions.

        Raises:
            UserError: when this kind of model cannot.
        """
        ...


class LanguageSubject:
    """A checkpoint of ours on the engine.

    Args:
        style: how multiple choice is put: `raw` continues the text, `chat` asks in a user's turn.
        max_tokens: of a reply.
    """

    kind: Kind = "language"

    def __init__(
        self,
        name: str,
        checkpoint: Checkpoint,
        *,
        style: StyleName = "raw",
        max_tokens: int = REPLY_TOKENS,
        max_batch: int = 64,
        device: str = "cpu",
    ) -> None:
        self.name, self.fingerprint = name, fingerprint(checkpoint)
        self._style: StyleName = style
        tokenizer = checkpoint.tokenizer()
        self._engine = Engine(checkpoint.load(device=device), tokenizer, max_batch=max_batch)
        self._tokenizer, self._renderer = tokenizer, Renderer(tokenizer)
        self._assistant = Assistant(
            self._engine, self._renderer, Sampling(max_tokens=max_tokens, temperature=0.0)
        )

    def solver(self, suite: Suite) -> Solver:
        """Likelihoods where a suite is published with them, letters elsewhere; or replies."""
        _suits(suite, self)
        if suite.form == "reply":
            return _in_parts(ask(self._assistant), f"{suite.name}: {self.name}")
        likelihoods = _in_parts(self._likelihoods, f"{suite.name}: {self.name}")
        return _by_form(likelihoods, lambda some: _lettered(some, self.scorer()))

    def scorer(self) -> ChoiceScorer:
        """The engine's log-probabilities of the letters."""
        return EngineChoices(self._engine, self._tokenizer, self._style)

    def _likelihoods(self, questions: Sequence[Conversation]) -> list[Conversation | None]:
        """The log-probability of every continuation, the sum over its tokens."""
        texts = [[self._ids(*pair) for pair in q.meta["likelihood"]] for q in questions]
        room = self._engine.context
        fits = [all(len(p) + len(c) <= room and p and c for p, c in options) for options in texts]
        rows = [row for options, fit in zip(texts, fits, strict=True) if fit for row in options]
        found = iter(self._engine.score([p for p, _ in rows], [c for _, c in rows]) if rows else [])
        answered: list[Conversation | None] = []
        for question, options, fit in zip(questions, texts, fits, strict=True):
            scores = [math.fsum(next(found)) for _ in options] if fit else []
            answered.append(_chose(question, scores) if fit else None)
        return answered

    def _ids(self, prompt: str, continuation: str) -> tuple[list[int], list[int]]:
        encode = self._tokenizer.encode
        if self._style == "raw":
            return [self._tokenizer.bos_id, *encode(prompt)], encode(continuation)
        body, _, cue = prompt.rpartition("\n")
        if not body or not cue.endswith(":"):  # a sentence to be ended, which no user asks: as published
            return [self._tokenizer.bos_id, *encode(prompt)], encode(continuation)
        said = Conversation(messages=(user(body.strip()), assistant(cue)))
        return self._renderer.prompt(said), encode(continuation)


class PreferenceSubject:
    """A preference model: the option it scores highest as a reply to the question.

    Where an option is only a letter, and what it stands for is in the question, there is no reply to score.
    """

    kind: Kind = "preference"

    def __init__(
        self, name: str, checkpoint: RewardCheckpoint, *, max_batch: int = 64, device: str = "cpu"
    ) -> None:
        self.name, self.fingerprint = name, fingerprint(checkpoint)
        tokenizer = checkpoint.tokenizer()
        self._reward = ModelReward(
            checkpoint.load(device=device), pad_id=tokenizer.pad_id, end_id=tokenizer.end_id, batch=max_batch
        )
        self._renderer, self._limit = Renderer(tokenizer), checkpoint.config().max_position

    def solver(self, suite: Suite) -> Solver:
        """Scores of the options, or of the replies behind them."""
        _suits(suite, self)
        return _in_parts(self._solve, f"{suite.name}: {self.name}")

    def scorer(self) -> ChoiceScorer:
        """None: it writes nothing."""
        raise UserError(
            "a preference model cannot answer a judge's question",
            where=self.name,
            fix="give a language model, or a remote one, as --judge",
        )

    def _solve(self, questions: Sequence[Conversation]) -> list[Conversation | None]:
        replies: list[list[str]] = [q.meta.get("replies") or q.meta["options"] for q in questions]
        texts = [
            [self._renderer.render(q.then(assistant(reply))).tokens for reply in some]
            for q, some in zip(questions, replies, strict=True)
        ]
        fits = [
            max(map(len, rows)) <= self._limit and not all(map(_LETTER.fullmatch, some))
            for rows, some in zip(texts, replies, strict=True)
        ]
        rows = [row for some, fit in zip(texts, fits, strict=True) if fit for row in some]
        found = iter(self._reward.score(rows) if rows else [])
        return [
            _chose(q, [float(next(found)) for _ in some]) if fit else None
            for q, some, fit in zip(questions, texts, fits, strict=True)
        ]


class RemoteSubject:
    """A model behind an address: it is shown letters, and its replies are those of its server."""

    kind: Kind = "remote"

    def __init__(self, model: RemoteModel, *, max_tokens: int = REPLY_TOKENS) -> None:
        self.name, self.fingerprint = model.config.model, None
        self._model, self._max_tokens = model, max_tokens

    def solver(self, suite: Suite) -> Solver:
        """Letters for a choice, else the reply."""
        _suits(suite, self)
        if suite.form == "reply":
            return self._reply
        return lambda questions: _lettered(questions, self.scorer())

    def scorer(self) -> ChoiceScorer:
        """Letters, by log-probabilities where the server gives some, else by words."""
        return RemoteChoices(self._model)

    def _reply(self, questions: Sequence[Conversation]) -> list[Conversation | None]:
        asked = [Question(question, self._max_tokens) for question in questions]
        answers = self._model.ask(asked, f"asking {self.name}")
        return [_answered(q, answer) for q, answer in zip(questions, answers, strict=True)]


def _answered(question: Conversation, answer: Any) -> Conversation | None:
    if not isinstance(answer, Answer):
        return None
    text = answer.text if answer.text.strip() or answer.stop != "refusal" else DECLINED
    return question.then(assistant(text))


def _suits(suite: Suite, subject: Subject) -> None:
    if subject.kind not in suite.models:
        raise UserError(
            f"{suite.name} cannot be asked of a {subject.kind} model",
            where=subject.name,
            fix=f"give a model of another kind: {', '.join(suite.models)}",
        )


def _in_parts(solve: Solver, label: str) -> Solver:
    """The same, some at a time, with a progress bar."""

    def run(questions: Sequence[Conversation]) -> list[Conversation | None]:
        found: list[Conversation | None] = []
        with progress(label, len(questions)) as ticker:
            for part in _parts(questions):
                found += solve(part)
                ticker.advance(len(part))
        return found

    return run


def _parts(questions: Sequence[Conversation]) -> Iterator[Sequence[Conversation]]:
    for start in range(0, len(questions), _AT_ONCE):
        yield questions[start : start + _AT_ONCE]


def _by_form(likelihoods: Solver, lettered: Solver) -> Solver:
    def solve(questions: Sequence[Conversation]) -> list[Conversation | None]:
        whole = [q for q in questions if "likelihood" in q.meta]
        rest = [q for q in questions if "likelihood" not in q.meta]
        one = iter(likelihoods(whole) if whole else [])
        other = iter(lettered(rest) if rest else [])
        return [next(one) if "likelihood" in q.meta else next(other) for q in questions]

    return solve


def _lettered(questions: Sequence[Conversation], scorer: ChoiceScorer) -> list[Conversation | None]:
    """By letters; the scores are logarithms of the options' probabilities, in the order of `options`."""
    items = [
        ChoiceItem(q.meta["id"], tuple(MultipleChoice(p, tuple(o)) for p, o in q.meta["orders"]), ())
        for q in questions
    ]
    return [_read(q, chosen) for q, chosen in zip(questions, scorer.score(items), strict=True)]


def _read(question: Conversation, chosen: Chosen | NoChoice) -> Conversation | None:
    if isinstance(chosen, NoChoice):
        return None
    shown: list[str] = question.meta.get("shown") or question.meta["options"]
    by_text = dict(zip(shown, chosen.probabilities, strict=True))
    scores = [math.log(max(by_text[option], 1e-300)) if option in by_text else -math.inf
              for option in question.meta["options"]]  # fmt: skip
    return _chose(question, scores, consistent=chosen.consistent)


def _chose(question: Conversation, scores: Sequence[float], **more: Any) -> Conversation:
    """With the best option as the reply (none for a tie, which is wrong), and what every option scored."""
    meta: Mapping[str, Any] = question.meta
    among: Sequence[int] = meta.get("among") or range(len(scores))
    best = max(scores[i] for i in among)
    found = [i for i in among if scores[i] == best]
    reply = str(meta["options"][found[0]]) if len(found) == 1 else ""
    told = {**meta, "scores": [None if math.isinf(s) else s for s in scores], **more}
    return question.then(assistant(reply)).model_copy(update={"meta": told})
