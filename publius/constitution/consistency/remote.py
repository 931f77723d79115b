"""The judge of one reply behind an HTTP address, read by log-probabilities where there are some."""

from __future__ import annotations

import re
from collections.abc import Sequence

from publius.constitution.consistency.question import (
    Consistency,
    ConsistencyConfig,
    ReplyCase,
    Unread,
    ask,
    examples,
)
from publius.constitution.judges import Abstention, ParseFailure, RemoteJudgeConfig, Skipped
from publius.constitution.judges.choice import Choice, NoChoice, read_choice
from publius.constitution.judges.judgement import logit
from publius.constitution.raw_text import fill
from publius.core.messages import Conversation, Message, assistant, user
from publius.inference.remote import Answer, Question, RemoteModel, Unanswered

__all__ = ["RemoteConsistencyJudge"]


class RemoteConsistencyJudge:
    """Asks a remote model, the worked examples as earlier turns.

    Args:
        model: to be asked; the caller closes it.
        config: how, for any judge.
        own: how, for this one.
    """

    def __init__(self, model: RemoteModel, config: ConsistencyConfig, own: RemoteJudgeConfig) -> None:
        self._model, self._config, self._own = model, config, own
        self._options = (config.answers[0].strip(), config.answers[1].strip())
        self._examples = examples(config.constitution)[: config.shots]

    def consistent(self, cases: Sequence[ReplyCase]) -> list[Consistency | Unread]:
        """One reading per case, in order.

        Raises:
            UserError: as `RemoteModel.ask`.
        """
        own, k = self._own, self._config.samples
        questions = [
            Question(self._conversation(case), own.answer_tokens, own.alternatives, sample)
            for case in cases
            for sample in range(k)
        ]
        answers = self._model.ask(questions, f"asking {own.model}")
        choices = [
            read_choice(
                [_folded(answer, self._options) for answer in answers[i : i + k]],
                [option.casefold() for option in self._options],
                final=False,
                min_read=own.min_read,
            )
            for i in range(0, len(answers), k)
        ]
        return [self._reading(choice, case) for choice, case in zip(choices, cases, strict=True)]

    def _reading(self, choice: Choice | NoChoice, case: ReplyCase) -> Consistency | Unread:
        name = case.principle.id
        if isinstance(choice, Choice):
            if choice.mass < self._config.min_mass:
                return ParseFailure("too little probability on either answer", name, choice.mass)
            return Consistency(logit(choice.probabilities[0]), choice.mass, name)
        if choice.kind == "unreached":
            return Skipped(choice.text, name)
        if choice.kind == "declined":
            return Abstention(choice.text, name)
        return ParseFailure(f"the answer is neither: {choice.text.strip()[:200]!r}", name)

    def _conversation(self, case: ReplyCase) -> Conversation:
        turns: list[Message] = []
        for example in self._examples:
            option = self._options[0 if example.good else 1]
            turns += [user(self._ask(example.case(case))), assistant(option)]
        return Conversation(messages=(*turns, user(self._ask(case))))

    def _ask(self, case: ReplyCase) -> str:
        # the last line is the cue that a completion goes on from; an instruction stands in its place
        body = ask(self._config, case).rpartition("\n")[0]
        how = fill(self._own.instruction, first=self._options[0], second=self._options[1])
        return f"{body.strip()}\n\n{how}"


def _folded(answer: Answer | Unanswered, options: Sequence[str]) -> Answer | Unanswered:
    """Without case, and an option only where the answer begins with it: "there is no rule" is not a no."""
    if isinstance(answer, Unanswered):
        return answer
    words = "|".join(re.escape(option.casefold()) for option in options)
    text = answer.text.casefold()
    begun = re.match(rf"\W*({words})(?!\w)", text)
    said = begun[1] if begun else re.sub(rf"(?<!\w)({words})(?!\w)", "...", text)
    tokens = tuple(
        token._replace(
            text=token.text.casefold(),
            alternatives=tuple((other.casefold(), logprob) for other, logprob in token.alternatives),
        )
        for token in (answer.tokens if begun else ())
    )
    return answer._replace(text=said, tokens=tokens)
