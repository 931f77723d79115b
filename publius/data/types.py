"""What a line of data becomes: a document, a conversation (core), or a preference between two replies."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from publius.core.messages import Conversation, Message

__all__ = ["Document", "Preference"]


class Document(NamedTuple):
    """One text. `id` is unique inside its `source`; splits are made by text, never by position."""

    text: str
    id: str
    source: str


class Preference(BaseModel):
    """Two replies to one prompt, and how likely the first is the better.

    `probability` is the target P(chosen is better): 1.0 is a hard label, an AI label lies in between
    and may be below 0.5. `prompt.meta` carries what graders need.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: Conversation
    chosen: Message
    rejected: Message
    probability: float = Field(default=1.0, ge=0.0, le=1.0)
    source: str = ""
