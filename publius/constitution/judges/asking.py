"""What a remote judge is asked, in words: the constitution's comparison as a conversation."""

from __future__ import annotations

from collections.abc import Sequence

from publius.constitution.judges.config import RemoteJudgeConfig
from publius.constitution.judges.judgement import Pair
from publius.constitution.principles import ComparisonShot, Constitution, Principle
from publius.constitution.raw_text import Case, RawText, fill, shot_case, talk, thought_of, visible
from publius.core.messages import Conversation

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
        self._raw = RawText(constitution)
        self.options = (constitution.answers[0].strip(), constitution.answers[1].strip())

    def question(self, case: Case) -> Conversation:
        """One case as a conversation that ends with the user."""
        turns: list[str] = []
        if self._thinks:
            for shot in self._constitution.reasonings[: self._shots]:
                said = f"{thought_of(shot, case)}\n\nThe answer is {self._option(shot)}."
                turns += [self._ask(shot_case(shot, case)), said]
        else:
            for shot in self._constitution.comparisons[: self._shots]:
                turns += [self._ask(shot_case(shot, case)), self._option(shot)]
        return talk([*turns, self._ask(case)])

    def _ask(self, case: Case) -> str:
        layout = self._constitution.layout
        # without the last line, the cue that a completion goes on from
        if self._thinks:
            asked = self._raw.reasoned(case, self._raw.parts(layout.reasoning)[0])
            how = self._config.reasoning_instruction
        else:
            asked = self._raw.compared(case, self._raw.parts(layout.comparison)[0])
            how = self._config.instruction
        return f"{asked.strip()}\n\n{fill(how, first=self.options[0], second=self.options[1])}"

    def _option(self, shot: ComparisonShot) -> str:
        return self.options["AB".index(shot.answer)]
