"""What a remote judge is asked, in words: the constitution's comparison as a conversation."""

from __future__ import annotations

from collections.abc import Sequence

from publius.constitution.judges.config import RemoteJudgeConfig
from publius.constitution.judges.verdict import Pair
from publius.constitution.principles import ComparisonShot, Constitution, Principle
from publius.constitution.raw_text import Case, fill, transcript, visible
from publius.core.messages import Conversation, Message, assistant, user

__all__ = ["ChatQuestions", "cases_of"]


def cases_of(pairs: Sequence[Pair], principles: Sequence[Principle]) -> list[Case]:
    """Two cases for each pair: a shown first, then b shown first."""
    if len(pairs) != len(principles):
        raise ValueError(f"{len(pairs)} pairs but {len(principles)} principles")
    cases: list[Case] = []
    for (conversation, a, b), principle in zip(pairs, principles, strict=True):
        question = principle.comparison_question
        cases += [
            Case(conversation, visible(a), visible(b), question),
            Case(conversation, visible(b), visible(a), question),
        ]
    return cases


class ChatQuestions:
    """Comparisons as user turns, the worked examples as earlier turns.

    Unlike a prompt for our own engine nothing is put into the model's mouth: not every remote model goes on
    from a half-written reply, so an instruction says how to answer.
    """

    def __init__(
        self, constitution: Constitution, config: RemoteJudgeConfig, *, shots: int, chain_of_thought: bool
    ) -> None:
        self._constitution, self._config = constitution, config
        self._shots, self._thinks = shots, chain_of_thought
        self.options = (constitution.answers[0].strip(), constitution.answers[1].strip())

    def question(self, case: Case) -> Conversation:
        """One case as a conversation that ends with the user."""
        turns: list[Message] = []
        shots = self._constitution.reasonings if self._thinks else self._constitution.comparisons
        for shot in shots[: self._shots]:
            turns += [user(self._ask(_shot_case(shot, case))), assistant(self._answer(shot, case))]
        return Conversation(messages=(*turns, user(self._ask(case))))

    def _ask(self, case: Case) -> str:
        layout = self._constitution.layout
        # the last line of the layout is the cue that a completion goes on from
        body = (layout.reasoning if self._thinks else layout.comparison).rpartition("\n")[0]
        said = transcript(layout, case.conversation).strip()
        asked = fill(body, conversation=said, question=case.question, a=case.a.strip(), b=case.b.strip())
        how = self._config.reasoning_instruction if self._thinks else self._config.instruction
        return f"{asked.strip()}\n\n{fill(how, first=self.options[0], second=self.options[1])}"

    def _answer(self, shot: ComparisonShot, case: Case) -> str:
        option = self.options["AB".index(shot.answer)]
        reasoning = getattr(shot, "reasoning", None)
        if reasoning is None:
            return option
        thought = fill(str(reasoning), principle=shot.question or case.question).strip()
        return f"{thought}\n\nThe answer is {option}."


def _shot_case(shot: ComparisonShot, case: Case) -> Case:
    turns = tuple((user, assistant)[i % 2](text) for i, text in enumerate(shot.conversation))
    return Case(Conversation(messages=turns), shot.a, shot.b, shot.question or case.question)
