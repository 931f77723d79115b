"""A constitution's layout, filled: the plain transcripts that a base model goes on from.

As in Bai et al. (2022), section 4.1 and appendices E.1 to E.3. Slots are filled in one pass, so text that
happens to contain `{a}` stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from publius.constitution.principles import (
    ComparisonShot,
    Constitution,
    CritiqueShot,
    Layout,
    Principle,
    ReasoningShot,
)
from publius.core.messages import Conversation, Message, ToolResultBlock, assistant, text_of, user

__all__ = ["Asked", "Case", "RawText", "fill", "shot_case", "talk", "thought_of", "transcript", "visible"]


class Case(NamedTuple):
    """Two answers to one conversation, to be compared under one question."""

    conversation: Conversation
    a: str
    b: str
    question: str


class Asked(NamedTuple):
    """A prompt: worked examples, and behind them what is asked, up to where the model goes on."""

    examples: list[str]
    text: str

    def whole(self, without: int = 0) -> str:
        """All of it, but for the first `without` examples."""
        return "".join(self.examples[without:]) + self.text


def fill(template: str, **slots: str) -> str:
    """Replace each `{name}` in one pass; text put into a slot is never itself filled."""
    return re.sub(r"\{(\w+)\}", lambda m: slots.get(m[1], m[0]), template)


def visible(message: Message) -> str:
    """The text of a message, tool results included, thinking and calls left out."""
    results = "".join(b.content for b in message.content if isinstance(b, ToolResultBlock))
    return results + text_of(message)


def talk(texts: Sequence[str]) -> Conversation:
    """Texts that alternate human, assistant, human, ..."""
    return Conversation(messages=tuple((user, assistant)[i % 2](text) for i, text in enumerate(texts)))


def shot_case(shot: ComparisonShot, case: Case) -> Case:
    """A worked comparison, under its own question or the one being asked."""
    return Case(talk(shot.conversation), shot.a, shot.b, shot.question or case.question)


def thought_of(shot: ReasoningShot, case: Case) -> str:
    """The worked reasoning, with the question in its `{principle}` slot."""
    return fill(shot.reasoning, principle=shot.question or case.question).strip()


def transcript(layout: Layout, conversation: Conversation) -> str:
    """A conversation as `Human:`/`Assistant:` turns."""
    return _turns(layout, conversation, layout.human, layout.assistant)


def _turns(layout: Layout, conversation: Conversation, human: str, assistant: str) -> str:
    parts = [fill(layout.system, system=conversation.system)] if conversation.system else []
    for message in conversation.messages:
        text = visible(message)
        parts.append(fill(human, q=text) if message.role == "user" else fill(assistant, a=text))
    return "".join(parts)


class RawText:
    """Prompts as text. `shots` is the most examples shown."""

    def __init__(self, constitution: Constitution, shots: int = 8) -> None:
        self.constitution, self.layout, self._shots = constitution, constitution.layout, shots

    def transcript(self, conversation: Conversation, response: str | None = None) -> str:
        """`Human:`/`Assistant:` turns; `response` is appended as the last assistant turn."""
        layout = self.layout
        said = transcript(layout, conversation)
        return said if response is None else said + fill(layout.assistant, a=response)

    def critique(self, conversation: Conversation, response: str, principle: Principle) -> Asked:
        """Up to the place where the critique is written."""
        examples = [self.critique_example(shot) for shot in self.constitution.critiques[: self._shots]]
        return Asked(examples, self._criticised(conversation, response, principle))

    def revision(
        self, conversation: Conversation, response: str, principle: Principle, critique: str | None
    ) -> Asked:
        """Up to the place where the revision is written; no critique asks for a direct revision."""
        start = self.transcript(conversation, response)
        if critique is not None:
            start = f"{self._criticised(conversation, response, principle)} {critique.strip()}"
        shots = self.constitution.critiques[: self._shots]
        examples = [self.critique_example(shot, direct=critique is None) for shot in shots]
        return Asked(
            examples, start + fill(self.layout.revision, revision_request=principle.revision_request)
        )

    def comparison(self, case: Case) -> Asked:
        """Up to the place where one of the two answers follows."""
        examples = [
            self.comparison_example(shot, case) + self.layout.separator
            for shot in self.constitution.comparisons[: self._shots]
        ]
        return Asked(examples, self.compared(case, self.layout.comparison))

    def reasoning(self, case: Case) -> Asked:
        """Up to the place where the chain of thought is written."""
        examples = [
            self.reasoning_example(shot, case) + self.layout.separator
            for shot in self.constitution.reasonings[: self._shots]
        ]
        return Asked(examples, self.reasoned(case, self.layout.reasoning))

    def conclusion(self, case: Case, thought: str) -> Asked:
        """`reasoning`, the thought, and the cue after which the answer follows."""
        asked = self.reasoning(case)
        return asked._replace(text=f"{asked.text} {thought.strip()}{self.layout.conclusion}")

    def critique_example(self, shot: CritiqueShot, *, direct: bool = False) -> str:
        """A worked critique and revision, or without its critique."""
        if shot.verbatim is not None and not direct:
            return shot.verbatim
        start = self.transcript(talk(shot.conversation), shot.response)
        if not direct:
            request = fill(self.layout.critique, critique_request=shot.critique_request)
            start += f"{request} {shot.critique.strip()}"
        revision = fill(self.layout.revision, revision_request=shot.revision_request)
        return f"{start}{revision} {shot.revision.strip()}"

    def comparison_example(self, shot: ComparisonShot, case: Case) -> str:
        """A worked comparison and its answer, without the separator behind it."""
        if shot.verbatim is not None:
            return fill(shot.verbatim, principle=shot.question or case.question)
        return self.compared(shot_case(shot, case), self.layout.comparison) + self._answer(shot)

    def reasoning_example(self, shot: ReasoningShot, case: Case) -> str:
        """A worked comparison with its reasoning and answer, without the separator behind it."""
        if shot.verbatim is not None:
            return fill(shot.verbatim, principle=shot.question or case.question)
        start = self.reasoned(shot_case(shot, case), self.layout.reasoning)
        return f"{start} {thought_of(shot, case)}{self.layout.conclusion}{self._answer(shot)}"

    def compared(self, case: Case, template: str) -> str:
        """The case in the slots of `layout.comparison` or a part of it."""
        return _filled(template, case, self.transcript(case.conversation))

    def reasoned(self, case: Case, template: str) -> str:
        """The case in the slots of `layout.reasoning`, which may name the speakers in its own way."""
        layout = self.layout
        said = _turns(layout, case.conversation, layout.reasoning_human, layout.reasoning_assistant)
        return _filled(template, case, said)

    def parts(self, template: str) -> tuple[str, str]:
        """For a chat model: what the user says, and the cue, the last line, that the assistant begins with.

        The speakers' labels, which a chat turn makes needless, are left out.
        """
        human, assistant = (
            fill(label, q="", a="").strip() for label in (self.layout.human, self.layout.assistant)
        )
        body, _, cue = template.rpartition("\n")
        body = body.strip().removeprefix(human) if human else body.strip()
        return body.lstrip(), cue.removeprefix(assistant).lstrip()

    def _criticised(self, conversation: Conversation, response: str, principle: Principle) -> str:
        request = fill(self.layout.critique, critique_request=principle.critique_request)
        return self.transcript(conversation, response) + request

    def _answer(self, shot: ComparisonShot) -> str:
        return self.constitution.answers["AB".index(shot.answer)]


def _filled(template: str, case: Case, said: str) -> str:
    return fill(
        template, conversation=said.strip(), question=case.question, a=case.a.strip(), b=case.b.strip()
    )
