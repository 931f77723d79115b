"""What becomes of a critique and a revision: kept, or thrown away for a reason that is counted."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from pydantic import Field

from publius.constitution.filters import copied, drifted, refuses
from publius.constitution.principles import Constitution
from publius.constitution.raw_text import visible
from publius.core.config import Config
from publius.core.messages import Conversation

__all__ = ["FilterConfig", "Verdict", "Verdicts", "Written"]

Verdict = Literal[
    "kept",
    "unchanged",
    "no_critique",
    "refused_critique",
    "empty",
    "truncated",
    "role_leak",
    "too_long",
    "copy",
    "drift",
    "context",
]
"""What became of a revision. `no_critique`: its critique was empty or cut off. `refused_critique`: the critic
declined to criticise. `copy`: near to an example, the question or the critique. `drift`: another language.
`context`: it did not fit."""


class FilterConfig(Config):
    """Filters beyond the plain ones; each is off until it is set. Rules and limits: `filters.py`.

    Attributes:
        refused: drop an answer whose critic declines to criticise (the constitution's `refusals`).
        copied: drop a revision when this share of its words stands, in runs of five, in a worked example,
            in what the person wrote, or in the critique; 0.8 is a good value.
        drift: drop a revision when more than this share of its letters is foreign to the conversation's
            scripts, or its language evidently another; 0.3 is a good value.
    """

    refused: bool = False
    copied: float | None = Field(default=None, gt=0, le=1)
    drift: float | None = Field(default=None, ge=0, lt=1)


class Written(NamedTuple):
    """What the critic wrote: it ended by itself (`whole`), or its prompt did not even fit."""

    text: str
    whole: bool
    fits: bool

    @property
    def usable(self) -> bool:
        return self.whole and bool(self.text)


class Verdicts:
    """The rules, in order; the first that applies is the reason."""

    def __init__(
        self, constitution: Constitution, filters: FilterConfig, *, shots: int, max_characters: int
    ) -> None:
        self._filters, self._max_characters = filters, max_characters
        self._cues = _cues(constitution.layout.model_dump())
        self._refusals = constitution.refusals
        self._examples = [
            text for s in constitution.critiques[:shots] for text in (s.response, s.critique, s.revision)
        ]

    def of_critique(self, critique: Written) -> Verdict | None:
        """Why no revision can be asked for; None when one can."""
        if not critique.fits:
            return "context"
        if not critique.usable:
            return "no_critique"
        return (
            "refused_critique" if self._filters.refused and refuses(critique.text, self._refusals) else None
        )

    def of_revision(
        self, conversation: Conversation, before: str, critique: Written | None, revision: Written
    ) -> Verdict:
        """Whether `revision`, of the answer `before` to `conversation`, is training data."""
        text = revision.text
        if not revision.fits:
            return "context"
        if not text:
            return "empty"
        if not revision.whole:
            return "truncated"
        if any(cue in text for cue in self._cues):
            return "role_leak"
        if len(text) > self._max_characters:
            return "too_long"
        if " ".join(text.split()) == " ".join(before.split()):
            return "unchanged"
        return self._filtered(conversation, before, critique, text) or "kept"

    def _filtered(
        self, conversation: Conversation, before: str, critique: Written | None, text: str
    ) -> Verdict | None:
        filters = self._filters
        if filters.copied is not None:
            asked = [visible(m) for m in conversation.messages if m.role == "user"]
            others = [*self._examples, *asked, *([critique.text] if critique else [])]
            if copied(text, others) >= filters.copied:
                return "copy"
        if filters.drift is not None:
            context = [*(visible(m) for m in conversation.messages), before]
            if drifted(text, context, filters.drift):
                return "drift"
        return None


def _cues(layout: dict[str, Any]) -> set[str]:
    """Words that only the layout may write: `Human:`, `Assistant:`, `CritiqueRequest:`, `Critique:`, ..."""
    lines = [
        line for name in ("human", "assistant", "critique", "revision") for line in layout[name].split("\n")
    ]
    return {line.split(":", 1)[0] + ":" for line in lines if ":" in line and not line.startswith("{")}
