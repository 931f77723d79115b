"""From a constitution to prompts: raw transcripts for base models, chat turns for assistants.

Both styles answer the same four questions with token ids, so the judge and the reviser do not know
which kind of model they talk to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from publius.constitution.principles import ComparisonShot, Constitution, Principle
from publius.constitution.raw_text import Asked, Case, RawText, shot_case, talk, thought_of, visible
from publius.core.messages import Conversation
from publius.tokenizer.renderer import Renderer
from publius.tokenizer.tokenizer import Tokenizer

__all__ = ["ChatStyle", "RawStyle", "Style", "StyleName", "make_style"]

StyleName = Literal["raw", "chat"]


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


def make_style(
    name: StyleName, constitution: Constitution, tokenizer: Tokenizer, context: int, shots: int
) -> Style:
    """The named style. `context` is the longest prompt in tokens, `shots` the most examples shown."""
    return (RawStyle if name == "raw" else ChatStyle)(constitution, tokenizer, context, shots)


class RawStyle:
    """Plain text continuation: `RawText` in tokens. Prompts begin with <|bos|>."""

    def __init__(
        self, constitution: Constitution, tokenizer: Tokenizer, context: int, shots: int = 8
    ) -> None:
        self.text = RawText(constitution, shots)
        self.stops = constitution.layout.stops
        self._tokenizer, self._context = tokenizer, context

    def critique(self, conversation: Conversation, response: str, principle: Principle) -> list[int]:
        return self._fit(self.text.critique(conversation, response, principle))

    def revision(
        self, conversation: Conversation, response: str, principle: Principle, critique: str | None
    ) -> list[int]:
        return self._fit(self.text.revision(conversation, response, principle, critique))

    def comparison(self, case: Case) -> list[int]:
        return self._fit(self.text.comparison(case))

    def reasoning(self, case: Case) -> list[int]:
        return self._fit(self.text.reasoning(case))

    def conclusion(self, case: Case, thought: str) -> list[int]:
        return self._fit(self.text.conclusion(case, thought))

    def _fit(self, asked: Asked) -> list[int]:
        """Drop the first examples until the prompt fits. A prompt too long by itself is returned whole:
        the caller sees its length and counts it."""
        start = 0
        while True:
            ids = [self._tokenizer.bos_id, *self._tokenizer.encode(asked.whole(start))]
            if len(ids) <= self._context or start == len(asked.examples):
                return ids
            start += 1


class ChatStyle:
    """The same questions as user turns, the examples as earlier turns, for a chat model."""

    stops: tuple[str, ...] = ()

    def __init__(
        self, constitution: Constitution, tokenizer: Tokenizer, context: int, shots: int = 8
    ) -> None:
        self.constitution = constitution
        self._raw = RawText(constitution, shots)
        self._renderer = Renderer(tokenizer)
        self._context, self._shots = context, shots

    def critique(self, conversation: Conversation, response: str, principle: Principle) -> list[int]:
        asked = self._said(conversation, response, principle.critique_request)
        return self._fit(self._critique_shots(direct=False), asked, self._system(conversation))

    def revision(
        self, conversation: Conversation, response: str, principle: Principle, critique: str | None
    ) -> list[int]:
        if critique is None:
            turns = self._said(conversation, response, principle.revision_request)
        else:
            asked = self._said(conversation, response, principle.critique_request)
            turns = [*asked, critique.strip(), principle.revision_request]
        shots = self._critique_shots(direct=critique is None)
        return self._fit(shots, turns, self._system(conversation))

    def comparison(self, case: Case) -> list[int]:
        body, cue = self._raw.parts(self.constitution.layout.comparison)
        shots = [
            [self._raw.compared(shot_case(shot, case), body), cue + self._answer(shot)]
            for shot in self.constitution.comparisons[: self._shots]
        ]
        return self._fit(shots, [self._raw.compared(case, body), cue])

    def reasoning(self, case: Case) -> list[int]:
        body, cue = self._raw.parts(self.constitution.layout.reasoning)
        return self._fit(self._reasoning_shots(case), [self._raw.reasoned(case, body), cue])

    def conclusion(self, case: Case, thought: str) -> list[int]:
        body, cue = self._raw.parts(self.constitution.layout.reasoning)
        end = f"{cue} {thought.strip()}{self._conclusion()}"
        return self._fit(self._reasoning_shots(case), [self._raw.reasoned(case, body), end])

    def _said(self, conversation: Conversation, response: str, request: str) -> list[str]:
        """What is criticised and the request, as turns of human, assistant, ..., human."""
        if self.constitution.layout.chat == "turns":
            return [*(visible(message) for message in conversation.messages), response, request]
        return [f"{self._raw.transcript(conversation, response).strip()}\n\n{request}"]

    def _system(self, conversation: Conversation) -> str | None:
        return conversation.system if self.constitution.layout.chat == "turns" else None

    def _critique_shots(self, *, direct: bool) -> list[list[str]]:
        shots: list[list[str]] = []
        for shot in self.constitution.critiques[: self._shots]:
            request = shot.revision_request if direct else shot.critique_request
            asked = self._said(talk(shot.conversation), shot.response, request)
            mended = [shot.revision] if direct else [shot.critique, shot.revision_request, shot.revision]
            shots.append([*asked, *mended])
        return shots

    def _reasoning_shots(self, case: Case) -> list[list[str]]:
        body, cue = self._raw.parts(self.constitution.layout.reasoning)
        return [
            [
                self._raw.reasoned(shot_case(shot, case), body),
                f"{cue} {thought_of(shot, case)}{self._conclusion()}{self._answer(shot)}",
            ]
            for shot in self.constitution.reasonings[: self._shots]
        ]

    def _conclusion(self) -> str:
        """The cue for the answer, without the label of another speaker."""
        return "\n\n" + self.constitution.layout.conclusion.rsplit("\n", 1)[-1]

    def _answer(self, shot: ComparisonShot) -> str:
        return self.constitution.answers["AB".index(shot.answer)]

    def _fit(self, shots: Sequence[list[str]], last: list[str], system: str | None = None) -> list[int]:
        """As RawStyle: the first examples give way."""
        start = 0
        while True:
            turns = [text for shot in shots[start:] for text in shot] + last
            ids = self._renderer.prompt(talk(turns).model_copy(update={"system": system}))
            if len(ids) <= self._context or start == len(shots):
                return ids
            start += 1
