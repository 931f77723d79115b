"""From a constitution to prompts: raw transcripts for base models, chat turns for assistants.

Both styles answer the same four questions with token ids, so the judge and the reviser do not know
which kind of model they talk to. Slots are filled in one pass, so text that happens to contain
`{a}` stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

from publius.constitution.principles import ComparisonShot, Constitution, Layout, Principle, ReasoningShot
from publius.core.messages import Conversation, Message, ToolResultBlock, assistant, text_of, user
from publius.tokenizer.renderer import Renderer
from publius.tokenizer.tokenizer import Tokenizer

__all__ = [
    "Case",
    "ChatStyle",
    "RawStyle",
    "Style",
    "StyleName",
    "fill",
    "make_style",
    "transcript",
    "visible",
]

StyleName = Literal["raw", "chat"]


class Case(NamedTuple):
    """Two answers to one conversation, to be compared under one question."""

    conversation: Conversation
    a: str
    b: str
    question: str


class Style(Protocol):
    """Prompts for one model. Every method returns token ids, cut to `context` by dropping examples."""

    stops: tuple[str, ...]

    def critique(self, conversation: Conversation, response: str, principle: Principle) -> list[int]:
        """Up to the place where the critique is written."""
        ...

    def revision(
        self, conversation: Conversation, response: str, principle: Principle, critique: str | None
    ) -> list[int]:
        """Up to the place where the revision is written; no critique asks for a direct revision."""
        ...

    def comparison(self, case: Case) -> list[int]:
        """Up to the place where one of the two answer tokens follows."""
        ...

    def reasoning(self, case: Case) -> list[int]:
        """Up to the place where the chain of thought is written."""
        ...

    def conclusion(self, case: Case, thought: str) -> list[int]:
        """`reasoning`, the thought, and the cue after which the answer token follows."""
        ...


def fill(template: str, **slots: str) -> str:
    """Replace each `{name}` in one pass; text put into a slot is never itself filled."""
    return re.sub(r"\{(\w+)\}", lambda m: slots.get(m[1], m[0]), template)


def visible(message: Message) -> str:
    """The text of a message, tool results included, thinking and calls left out."""
    results = "".join(b.content for b in message.content if isinstance(b, ToolResultBlock))
    return results + text_of(message)


def transcript(layout: Layout, conversation: Conversation) -> str:
    """A conversation as `Human:`/`Assistant:` turns."""
    parts = [fill(layout.system, system=conversation.system)] if conversation.system else []
    for message in conversation.messages:
        text = visible(message)
        mine = message.role == "user"
        parts.append(fill(layout.human, q=text) if mine else fill(layout.assistant, a=text))
    return "".join(parts)


def make_style(
    name: StyleName, constitution: Constitution, tokenizer: Tokenizer, context: int, shots: int
) -> Style:
    """The named style. `context` is the longest prompt in tokens, `shots` the most examples shown."""
    return (RawStyle if name == "raw" else ChatStyle)(constitution, tokenizer, context, shots)


class RawStyle:
    """Plain text continuation, as in Bai et al. (2022), appendices E.1 to E.3. Prompts begin with <|bos|>."""

    def __init__(
        self, constitution: Constitution, tokenizer: Tokenizer, context: int, shots: int = 8
    ) -> None:
        self.constitution, self.layout = constitution, constitution.layout
        self.stops = self.layout.stops
        self._tokenizer, self._context, self._shots = tokenizer, context, shots

    def transcript(self, conversation: Conversation, response: str | None = None) -> str:
        """`Human:`/`Assistant:` turns; `response` is appended as the last assistant turn."""
        said = transcript(self.layout, conversation)
        return said if response is None else said + fill(self.layout.assistant, a=response)

    def critique(self, conversation: Conversation, response: str, principle: Principle) -> list[int]:
        return self._fit(self._critique_shots(direct=False), self._asked(conversation, response, principle))

    def revision(
        self, conversation: Conversation, response: str, principle: Principle, critique: str | None
    ) -> list[int]:
        start = self.transcript(conversation, response)
        if critique is not None:
            start = f"{self._asked(conversation, response, principle)} {critique.strip()}"
        text = start + fill(self.layout.revision, revision_request=principle.revision_request)
        return self._fit(self._critique_shots(direct=critique is None), text)

    def comparison(self, case: Case) -> list[int]:
        shots = [
            self._options(self.layout.comparison, _shot_case(shot, case))
            + self._answer(shot)
            + self.layout.separator
            for shot in self.constitution.comparisons[: self._shots]
        ]
        return self._fit(shots, self._options(self.layout.comparison, case))

    def reasoning(self, case: Case) -> list[int]:
        return self._fit(self._reasoning_shots(case), self._options(self.layout.reasoning, case))

    def conclusion(self, case: Case, thought: str) -> list[int]:
        text = f"{self._options(self.layout.reasoning, case)} {thought.strip()}{self.layout.conclusion}"
        return self._fit(self._reasoning_shots(case), text)

    def _asked(self, conversation: Conversation, response: str, principle: Principle) -> str:
        request = fill(self.layout.critique, critique_request=principle.critique_request)
        return self.transcript(conversation, response) + request

    def _critique_shots(self, *, direct: bool) -> list[str]:
        shots: list[str] = []
        for shot in self.constitution.critiques[: self._shots]:
            critique = fill(self.layout.critique, critique_request=shot.critique_request)
            revision = fill(self.layout.revision, revision_request=shot.revision_request)
            start = self.transcript(_conversation(shot.conversation), shot.response)
            if not direct:
                start += f"{critique} {shot.critique.strip()}"
            shots.append(f"{start}{revision} {shot.revision.strip()}")
        return shots

    def _reasoning_shots(self, case: Case) -> list[str]:
        shots: list[str] = []
        for shot in self.constitution.reasonings[: self._shots]:
            start = self._options(self.layout.reasoning, _shot_case(shot, case))
            end = self.layout.conclusion + self._answer(shot) + self.layout.separator
            shots.append(f"{start} {_thought(shot, case)}{end}")
        return shots

    def _options(self, template: str, case: Case) -> str:
        said = self.transcript(case.conversation).strip()
        return fill(template, conversation=said, question=case.question, a=case.a.strip(), b=case.b.strip())

    def _answer(self, shot: ComparisonShot) -> str:
        return self.constitution.answers["AB".index(shot.answer)]

    def _fit(self, shots: Sequence[str], text: str) -> list[int]:
        """Drop the first examples until the prompt fits. A prompt too long by itself is returned whole:
        the caller sees its length and counts it."""
        start = 0
        while True:
            ids = [self._tokenizer.bos_id, *self._tokenizer.encode("".join(shots[start:]) + text)]
            if len(ids) <= self._context or start == len(shots):
                return ids
            start += 1


class ChatStyle:
    """The same questions as user turns, the examples as earlier turns, for a chat model."""

    stops: tuple[str, ...] = ()

    def __init__(
        self, constitution: Constitution, tokenizer: Tokenizer, context: int, shots: int = 8
    ) -> None:
        self.constitution = constitution
        self._raw = RawStyle(constitution, tokenizer, context, shots)
        self._renderer = Renderer(tokenizer)
        self._context, self._shots = context, shots

    def critique(self, conversation: Conversation, response: str, principle: Principle) -> list[int]:
        return self._fit(
            self._critique_shots(direct=False), [self._ask_critique(conversation, response, principle)]
        )

    def revision(
        self, conversation: Conversation, response: str, principle: Principle, critique: str | None
    ) -> list[int]:
        if critique is None:
            ask = f"{self._raw.transcript(conversation, response).strip()}\n\n{principle.revision_request}"
            return self._fit(self._critique_shots(direct=True), [ask])
        asked = self._ask_critique(conversation, response, principle)
        return self._fit(
            self._critique_shots(direct=False), [asked, critique.strip(), principle.revision_request]
        )

    def comparison(self, case: Case) -> list[int]:
        cue = self._cue(self.constitution.layout.comparison)
        shots = [
            [self._options(_shot_case(shot, case)), cue + self._answer(shot)]
            for shot in self.constitution.comparisons[: self._shots]
        ]
        return self._fit(shots, [self._options(case), cue])

    def reasoning(self, case: Case) -> list[int]:
        cue = self._cue(self.constitution.layout.reasoning)
        return self._fit(self._reasoning_shots(case), [self._options(case), cue])

    def conclusion(self, case: Case, thought: str) -> list[int]:
        cue = self._cue(self.constitution.layout.reasoning)
        end = f"{cue} {thought.strip()}{self.constitution.layout.conclusion}"
        return self._fit(self._reasoning_shots(case), [self._options(case), end])

    def _ask_critique(self, conversation: Conversation, response: str, principle: Principle) -> str:
        return f"{self._raw.transcript(conversation, response).strip()}\n\n{principle.critique_request}"

    def _critique_shots(self, *, direct: bool) -> list[list[str]]:
        shots: list[list[str]] = []
        for shot in self.constitution.critiques[: self._shots]:
            said = self._raw.transcript(_conversation(shot.conversation), shot.response).strip()
            if direct:
                shots.append([f"{said}\n\n{shot.revision_request}", shot.revision])
            else:
                asked = f"{said}\n\n{shot.critique_request}"
                shots.append([asked, shot.critique, shot.revision_request, shot.revision])
        return shots

    def _reasoning_shots(self, case: Case) -> list[list[str]]:
        layout = self.constitution.layout
        return [
            [
                self._options(_shot_case(shot, case)),
                f"{self._cue(layout.reasoning)} {_thought(shot, case)}"
                f"{layout.conclusion}{self._answer(shot)}",
            ]
            for shot in self.constitution.reasonings[: self._shots]
        ]

    def _options(self, case: Case) -> str:
        layout = self.constitution.layout.comparison
        body = layout.rsplit("\n", 1)[0]
        said = self._raw.transcript(case.conversation).strip()
        return fill(body, conversation=said, question=case.question, a=case.a.strip(), b=case.b.strip())

    @staticmethod
    def _cue(template: str) -> str:
        return template.rsplit("\n", 1)[-1]

    def _answer(self, shot: ComparisonShot) -> str:
        return self.constitution.answers["AB".index(shot.answer)]

    def _fit(self, shots: Sequence[list[str]], last: list[str]) -> list[int]:
        """As RawStyle: the first examples give way."""
        start = 0
        while True:
            turns = [text for shot in shots[start:] for text in shot] + last
            ids = self._renderer.prompt(_conversation(turns))
            if len(ids) <= self._context or start == len(shots):
                return ids
            start += 1


def _conversation(texts: Sequence[str]) -> Conversation:
    return Conversation(messages=tuple((user, assistant)[i % 2](text) for i, text in enumerate(texts)))


def _shot_case(shot: ComparisonShot, case: Case) -> Case:
    return Case(_conversation(shot.conversation), shot.a, shot.b, shot.question or case.question)


def _thought(shot: ReasoningShot, case: Case) -> str:
    return fill(shot.reasoning, principle=shot.question or case.question).strip()
