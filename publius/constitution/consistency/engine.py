"""The judge of one reply on our own engine: log-probabilities of yes and no, never text."""

from __future__ import annotations

import math
from collections.abc import Sequence

from publius.constitution.consistency.question import (
    Consistency,
    ConsistencyConfig,
    ReplyCase,
    Unread,
    ask,
    examples,
)
from publius.constitution.judges import ParseFailure
from publius.core.errors import UserError
from publius.core.messages import Conversation, assistant, user
from publius.inference.engine import Engine
from publius.tokenizer.renderer import Renderer
from publius.tokenizer.tokenizer import Tokenizer

__all__ = ["EngineConsistencyJudge"]


class EngineConsistencyJudge:
    """Asks `engine`'s model, one forward for each case. Almost no mass on either answer is a `ParseFailure`.

    Raises:
        UserError: when the two answers cannot be told apart.
    """

    def __init__(self, engine: Engine, tokenizer: Tokenizer, config: ConsistencyConfig) -> None:
        self._engine, self._tokenizer, self._config = engine, tokenizer, config
        self._yes, self._no = _told_apart(*(tokenizer.encode_on(text) for text in config.answers))
        self._context = engine.model.config.max_position - max(len(self._yes), len(self._no))
        self._renderer = Renderer(tokenizer)
        self._examples = examples(config.constitution)[: config.shots]

    def consistent(self, cases: Sequence[ReplyCase]) -> list[Consistency | Unread]:
        """One reading per case, in order."""
        prompts = [self._prompt(case) for case in cases]
        fits = [i for i, prompt in enumerate(prompts) if len(prompt) <= self._context]
        scores = self._engine.score(
            [prompts[i] for i in fits for _ in (0, 1)], [ids for _ in fits for ids in (self._yes, self._no)]
        )
        too_long = "the prompt does not fit the judge's context"
        found: list[Consistency | Unread] = [ParseFailure(too_long, c.principle.id) for c in cases]
        for k, i in enumerate(fits):
            found[i] = self._reading(sum(scores[2 * k]), sum(scores[2 * k + 1]), cases[i].principle.id)
        return found

    def _reading(self, yes: float, no: float, principle_id: str) -> Consistency | ParseFailure:
        mass = math.exp(yes) + math.exp(no)
        if not math.isfinite(yes - no):
            return ParseFailure("the judge's log-probabilities are not finite", principle_id)
        if mass < self._config.min_mass:
            return ParseFailure("too little probability on either answer", principle_id, mass)
        return Consistency(yes - no, mass, principle_id)

    def _prompt(self, case: ReplyCase) -> list[int]:
        answers, asked = self._config.answers, ask(self._config, case)
        shots = [
            (ask(self._config, example.case(case)), answers[0 if example.good else 1])
            for example in self._examples
        ]
        while True:
            ids = self._render(shots, asked)
            if len(ids) <= self._context or not shots:
                return ids
            shots = shots[1:]

    def _render(self, shots: Sequence[tuple[str, str]], asked: str) -> list[int]:
        if self._config.style == "raw":
            separator = self._config.constitution.layout.separator
            text = "".join(f"{question}{answer}{separator}" for question, answer in shots) + asked
            return [self._tokenizer.bos_id, *self._tokenizer.encode(text)]
        turns = [_at_cue(question, answer) for question, answer in [*shots, (asked, "")]]
        messages = [message for body, reply in turns for message in (user(body), assistant(reply))]
        return self._renderer.prompt(Conversation(messages=tuple(messages)))


def _at_cue(question: str, answer: str) -> tuple[str, str]:
    body, _, cue = question.rpartition("\n")
    return body, cue + answer


def _told_apart(yes: list[int], no: list[int]) -> tuple[list[int], list[int]]:
    """What is scored of both answers: as the pairwise judge, to where they differ if all else is alike."""
    for i, (a, b) in enumerate(zip(yes, no, strict=False)):
        if a != b:
            alike = yes[i + 1 :] == no[i + 1 :]
            return (yes[: i + 1], no[: i + 1]) if alike else (yes, no)
    raise UserError(
        "the two answers are the same, or one begins the other",
        where="ConsistencyConfig.answers",
        fix="use answers such as ` yes` and ` no`",
    )
