"""The words all dialects share: what is asked of a model, and the events a reply arrives as.

A dialect (Messages, Bedrock, OpenAI) turns its request body into an `Ask`, hands it to `Server.exchange`, and
turns the events that come back into its own frames. The grammar of the events is the Messages API's:

    Began (BlockBegan Piece* BlockEnded)* Ended

with blocks strictly one after another, numbered from 0, and an Idle or a Pause anywhere after Began.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from publius.core.messages import Conversation, TextBlock, ThinkingBlock, ToolUseBlock
from publius.inference.engine import Sampling
from publius.inference.grammar import Grammar
from publius.inference.request import Alternatives
from publius.inference.tool_choice import ToolChoice

__all__ = [
    "Ask",
    "Began",
    "BlockBegan",
    "BlockEnded",
    "Drawn",
    "Ended",
    "Event",
    "Idle",
    "Pause",
    "Piece",
    "Refusal",
    "ReplyBlock",
    "StopReason",
    "Usage",
]

StopReason = Literal[
    "end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal", "model_context_window_exceeded"
]
ReplyBlock = TextBlock | ThinkingBlock | ToolUseBlock


@dataclass(frozen=True)
class Ask:
    """One reply asked for.

    Args:
        model: the id as the client wrote it (a served id or an alias).
        conversation: what the reply follows; a last message of the assistant's is begun, and is continued.
            Images and what else the model cannot read have been refused or written out as text.
        max_tokens: most new tokens. More than the context has room for is cut to what it has; 0 reads the
            prompt only (which warms the prefix cache) and ends with "max_tokens".
        sampling: temperature, filters, penalties, biases, seed, alternatives, stop texts. Its own
            `max_tokens`, `grammar` and `thinking_budget` are not looked at.
        tool_choice: of the conversation's tools.
        one_call: end after the first tool call.
        thinking: True opens thinking, False forbids it, None leaves it to the model.
        thinking_budget: most tokens of it.
        grammar: what the text of the reply must match (structured output).
        breakpoints: prefixes of `conversation` whose reading the client marked to be cached; they only say
            what usage is reported as cached, reuse itself needs no mark.
        prompt: token ids to continue as they are, in place of `conversation` (OpenAI completions); the reply
            is then one text block that holds all that was drawn.
        priority: larger runs first; batches run at -1.
        stream: number of the random stream beside `sampling.seed` (the choice's index when n > 1).
        tell_drawn: events tell which tokens were drawn, with their log-probabilities.
    """

    model: str
    conversation: Conversation
    max_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    tool_choice: ToolChoice = "auto"
    one_call: bool = False
    thinking: bool | None = False
    thinking_budget: int | None = None
    grammar: Grammar | None = None
    breakpoints: tuple[Conversation, ...] = ()
    prompt: tuple[int, ...] | None = None
    priority: int = 0
    stream: int = 0
    tell_drawn: bool = False


class Usage(NamedTuple):
    """Tokens of an exchange. `input + cache_write + cache_read` is the whole prompt, as counted before."""

    input: int
    """Neither read from nor written to what the client marked for the cache."""
    cache_write: int = 0
    cache_read: int = 0
    output: int = 0
    thinking: int = 0
    """Of the output, thinking."""
    reused: int = 0
    """Of the prompt, tokens the engine took from its prefix cache, marked or not."""

    @property
    def prompt(self) -> int:
        """The whole prompt."""
        return self.input + self.cache_write + self.cache_read


class Drawn(NamedTuple):
    """One token of the reply."""

    id: int
    logprob: float
    alternatives: Alternatives = ()


class Refusal(NamedTuple):
    """Why a monitor ended the reply: `stop_details` of the Messages API."""

    category: str | None
    explanation: str


class Began(NamedTuple):
    """The prompt has been taken in; `usage.output` is 0."""

    usage: Usage


@dataclass(frozen=True, slots=True)
class BlockBegan:
    """A block opens, without its content (a tool call with its id and name)."""

    index: int
    block: ReplyBlock


@dataclass(frozen=True, slots=True)
class Piece:
    """More of the open block: text, thinking, or the JSON of a tool call's input.

    Texts are whole characters; with what a monitor or a stop text may still take back they are held back.
    """

    index: int
    text: str
    drawn: tuple[Drawn, ...] = ()
    """Where it was asked for, the tokens whose text ends in this piece, in order, and special ones about it;
    none of a tool call's."""


@dataclass(frozen=True, slots=True)
class BlockEnded:
    """The open block is whole: thinking is signed, a tool call's input is an object."""

    index: int
    block: ReplyBlock


class Ended(NamedTuple):
    """The reply is over."""

    stop_reason: StopReason
    usage: Usage
    stop_sequence: str | None = None
    refusal: Refusal | None = None
    drawn: tuple[Drawn, ...] = ()
    """Special tokens that no piece carried: the end token, mostly. What a stop text took back is not told."""
    details: dict[str, Any] = {}  # noqa: RUF012 - a NamedTuple's default, never changed
    """For logs: what monitors flagged."""


class Idle(NamedTuple):
    """Nothing has come for a while, and the reply goes on: streams send a ping."""


class Pause(NamedTuple):
    """Nothing more is ready: what streams have gathered leaves now, in one write."""


Event = Began | BlockBegan | Piece | BlockEnded | Ended | Idle | Pause
