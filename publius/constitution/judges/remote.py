"""A judge behind an HTTP address, read by log-probabilities where there are some, else by its words."""

from __future__ import annotations

from collections.abc import Sequence

from publius.constitution.judges.asking import ChatQuestions, cases_of
from publius.constitution.judges.choice import Choice, NoChoice, read_choice
from publius.constitution.judges.config import JudgeConfig, RemoteJudgeConfig
from publius.constitution.judges.judgement import (
    Abstention,
    Pair,
    ParseFailure,
    Reading,
    Ruling,
    Skipped,
    judgement_of,
    logit,
)
from publius.constitution.principles import Principle
from publius.inference.remote import Question, RemoteModel

__all__ = ["RemoteJudge"]


class RemoteJudge:
    """Asks a remote model. One principle per pair; both orders; soft, unclamped labels.

    Args:
        model: to be asked; the caller closes it.
        config: how, for any judge.
        own: how, for this one.
    """

    def __init__(self, model: RemoteModel, config: JudgeConfig, own: RemoteJudgeConfig) -> None:
        self._model, self._config, self._own = model, config, own
        self._questions = ChatQuestions(
            config.constitution, own, shots=config.shots, chain_of_thought=config.chain_of_thought
        )

    def judge(self, pairs: Sequence[Pair], principles: Sequence[Principle]) -> list[Ruling]:
        """One verdict per pair, in order; `principles[i]` is asked of `pairs[i]`.

        Raises:
            UserError: as `RemoteModel.ask`.
        """
        cases = cases_of(pairs, principles)
        config, own = self._config, self._own
        tokens = own.answer_tokens + (config.thought_tokens if config.chain_of_thought else 0)
        asked = [
            Question(self._questions.question(case), tokens, own.alternatives, sample)
            for case in cases
            for sample in range(config.samples)
        ]
        answers = self._model.ask(asked, f"asking {own.model}")
        k = config.samples
        choices = [
            read_choice(
                answers[i : i + k],
                self._questions.options,
                final=config.chain_of_thought,
                min_read=own.min_read,
            )
            for i in range(0, len(answers), k)
        ]
        return [self._verdict(choices[2 * i], choices[2 * i + 1], p) for i, p in enumerate(principles)]

    def _verdict(self, ab: Choice | NoChoice, ba: Choice | NoChoice, principle: Principle) -> Ruling:
        for kind in ("unreached", "declined", "unread"):
            for one in (ab, ba):
                if isinstance(one, NoChoice) and one.kind == kind:
                    return _without(one, principle.id)
        assert isinstance(ab, Choice) and isinstance(ba, Choice)
        reason = ab.text.strip() if self._config.chain_of_thought else ""
        first, second = (Reading(logit(choice.probabilities[0]), choice.mass) for choice in (ab, ba))
        return judgement_of(first, second, principle.id, min_mass=self._config.min_mass, reason=reason)


def _without(one: NoChoice, principle_id: str) -> Ruling:
    if one.kind == "unreached":
        return Skipped(one.text, principle_id)
    if one.kind == "declined":
        return Abstention(one.text, principle_id)
    return ParseFailure(f"the answer names no option: {one.text.strip()[:200]!r}", principle_id)
