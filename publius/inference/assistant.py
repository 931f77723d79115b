"""The assistant: an engine and a renderer, messages in, messages out.

`reply` and `replies` give whole messages, `stream` gives them in pieces, `run_tools` keeps the
conversation going while the assistant calls tools. All of them parse with the Renderer, so a streamed
reply and a whole one are the same message.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from publius.core.messages import (
    Block,
    Conversation,
    Message,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from publius.inference.engine import Engine
from publius.inference.guide import thinking_open
from publius.inference.request import Completion, Request
from publius.inference.sampling import Sampling
from publius.inference.tool_choice import ToolChoice, choosing
from publius.tokenizer.renderer import Renderer
from publius.tokenizer.special import ASSISTANT, SYSTEM, THINK, THINK_END, TOOL_USE, TOOL_USE_END, TOOLS, USER

__all__ = ["Assistant", "Event", "Reply", "Tools", "extend", "reply_stops", "run_tools", "run_tools_batch"]

Tools = Mapping[str, Callable[[dict[str, Any]], str]]
"""Tool name -> what it does: takes the call's input, returns the result as text."""


@dataclass(frozen=True)
class Reply:
    """One assistant turn.

    Args:
        message: what was written after the prompt (a prefill is not repeated), stop sequence cut off.
        stop_reason: as in the Messages API.
        tokens: number of new tokens.
        stop_sequence: the text that stopped it.
        problems: what was malformed (`Renderer.parse`); empty for a whole, well-formed reply.
    """

    message: Message
    stop_reason: Literal["end_turn", "tool_use", "max_tokens", "stop_sequence"]
    tokens: int
    stop_sequence: str | None = None
    problems: tuple[str, ...] = ()


Kind = Literal["thinking", "text", "tool_use"]


class Event(NamedTuple):
    """A piece of a streamed reply: new thinking, new text, or one whole tool call as JSON."""

    kind: Kind
    text: str


class Assistant:
    """Replies to conversations.

    Args:
        engine: runs the model.
        renderer: of the same tokenizer.
        sampling: how replies are drawn; the renderer's stop ids, and the tokens that open a turn, are
            added to its own.
    """

    def __init__(self, engine: Engine, renderer: Renderer, sampling: Sampling | None = None) -> None:
        self.engine, self.renderer = engine, renderer
        self.sampling = sampling or Sampling()

    def reply(
        self,
        conversation: Conversation,
        *,
        thinking: bool | None = None,
        prefill: str = "",
        sampling: Sampling | None = None,
        tool_choice: ToolChoice | None = None,
        thinking_budget: int | None = None,
    ) -> Reply:
        """The next assistant message; arguments as `replies`."""
        return self.replies(
            [conversation], thinking=thinking, prefill=prefill, sampling=sampling, tool_choice=tool_choice,
            thinking_budget=thinking_budget,
        )[0]  # fmt: skip

    def replies(
        self,
        conversations: Sequence[Conversation],
        *,
        thinking: bool | None = None,
        prefill: str = "",
        sampling: Sampling | None = None,
        tool_choice: ToolChoice | None = None,
        thinking_budget: int | None = None,
    ) -> list[Reply]:
        """The next assistant message of every conversation, in one call of the engine.

        Args:
            conversations: each ends in a user message, or in an assistant message to be continued.
            thinking: True opens thinking, False forbids it, None lets the model decide.
            prefill: text every reply begins with (not repeated in the message).
            sampling: in place of the assistant's own.
            tool_choice: "auto", "any", "none" or a NamedTool keeps calls to the conversation's tools and
                their schemas; None leaves them as the model writes them.
            thinking_budget: most tokens of thinking; None is the sampling's own.

        Raises:
            UserError: a conversation the renderer or the engine refuses (images, too long), a tool that is
                not there or whose schema cannot be kept to.
        """
        prompts = [self.renderer.prompt(c, thinking=thinking, prefill=prefill) for c in conversations]
        chosen = self._sampling(sampling, thinking_budget)
        samplings = [
            chosen
            if tool_choice is None
            else choosing(chosen, c.tools, tool_choice, prompt, self.renderer.tokenizer)
            for c, prompt in zip(conversations, prompts, strict=True)
        ]
        requests = [
            Request(prompt, one, stream=i)
            for i, (prompt, one) in enumerate(zip(prompts, samplings, strict=True))
        ]
        self.engine.complete(requests)
        return [self._read(p, r.completion()) for p, r in zip(prompts, requests, strict=True)]

    def stream(
        self,
        conversation: Conversation,
        *,
        thinking: bool | None = None,
        prefill: str = "",
        sampling: Sampling | None = None,
        tool_choice: ToolChoice | None = None,
        thinking_budget: int | None = None,
    ) -> Generator[Event, None, Reply]:
        """One reply as it is written. Arguments as `replies`; the generator's value is the whole Reply.

        Text comes in whole characters, and text that may turn out to be a stop sequence is held back
        until it is known not to be.
        """
        prompt = self.renderer.prompt(conversation, thinking=thinking, prefill=prefill)
        chosen = self._sampling(sampling, thinking_budget)
        if tool_choice is not None:
            chosen = choosing(chosen, conversation.tools, tool_choice, prompt, self.renderer.tokenizer)
        return self._stream(prompt, chosen, self.engine.stream(prompt, chosen))

    def _stream(
        self, prompt: list[int], sampling: Sampling, tokens: Generator[int, None, Completion]
    ) -> Generator[Event, None, Reply]:
        goes_on = self.renderer.goes_on(prompt)
        pieces = _Pieces(self.renderer, sampling.stop, self._opening(prompt), goes_on)
        while True:
            try:
                token = next(tokens)
            except StopIteration as stop:
                completion: Completion = stop.value
                break
            yield from pieces.take(token)
        yield from pieces.finish(completion.stop_sequence)
        return self._read(prompt, completion)

    def _sampling(self, sampling: Sampling | None, thinking_budget: int | None) -> Sampling:
        chosen = sampling or self.sampling
        stops = tuple(sorted({*chosen.stop_ids, *reply_stops(self.renderer)}))
        budget = chosen.thinking_budget if thinking_budget is None else thinking_budget
        return replace(chosen, stop_ids=stops, thinking_budget=budget)

    def _opening(self, prompt: Sequence[int]) -> Literal["thinking", "text"]:
        """What the reply's first token belongs to: the prompt may have left a thinking block open."""
        return "thinking" if thinking_open(prompt, self.renderer.tokenizer) else "text"

    def _read(self, prompt: Sequence[int], completion: Completion) -> Reply:
        opened, goes_on = self._opening(prompt) == "thinking", self.renderer.goes_on(prompt)
        parsed = self.renderer.parse(completion.tokens, thinking_open=opened, goes_on=goes_on)
        blocks, reason, problems = parsed.blocks, parsed.stop_reason, parsed.problems
        if completion.stop_reason == "stop_sequence" and completion.stop_sequence is not None:
            blocks, reason = _cut(blocks, completion.stop_sequence), "stop_sequence"
        message = Message(role="assistant", content=blocks)
        return Reply(message, reason, len(completion.tokens), completion.stop_sequence, problems)


def reply_stops(renderer: Renderer) -> frozenset[int]:
    """Ids a reply is over at: the renderer's stops, and those that open another turn."""
    special = renderer.tokenizer.special
    return renderer.stop_ids | {special[name] for name in (SYSTEM, TOOLS, USER, ASSISTANT)}


def _cut(blocks: tuple[Block, ...], stop: str) -> tuple[Block, ...]:
    """Without the stop sequence and what follows it; it can only be in the last block."""
    if not blocks:
        return blocks
    last = blocks[-1]
    if isinstance(last, TextBlock):
        kept = last.text.partition(stop)[0]
        return (*blocks[:-1], TextBlock(text=kept)) if kept else blocks[:-1]
    if isinstance(last, ThinkingBlock):
        return (*blocks[:-1], ThinkingBlock(thinking=last.thinking.partition(stop)[0]))
    return blocks


class _Pieces:
    """Turns tokens into events: knows which block is open, holds back half characters and half stops."""

    def __init__(
        self,
        renderer: Renderer,
        stops: tuple[str, ...],
        opening: Literal["thinking", "text"],
        goes_on: bool,
    ) -> None:
        tokenizer = renderer.tokenizer
        self._begins = tokenizer.spaced and not goes_on
        """Whether the next character begins a text, with a space that is none of it."""
        self._renderer, self._stops = renderer, stops
        self._bytes, self._special_ids = tokenizer.id_bytes, tokenizer.special_ids
        self._opens: dict[int, Kind] = {
            tokenizer.special[THINK]: "thinking",
            tokenizer.special[TOOL_USE]: "tool_use",
        }
        self._closes: dict[int, Kind] = {
            tokenizer.special[THINK_END]: "thinking",
            tokenizer.special[TOOL_USE_END]: "tool_use",
        }
        self._mode: Kind = opening
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self._call: list[int] = []  # ids of the tool call being written, its opening included

    def take(self, token: int) -> list[Event]:
        """Events that became certain with this token."""
        if self._mode == "tool_use":
            self._call.append(token)
        if token not in self._special_ids:
            text = self._decoder.decode(self._bytes(token))
            if self._begins and text:
                text, self._begins = text.removeprefix(" "), False
            self._held += text
            return self._release(keep=self._undecided())
        opens, closes = self._opens.get(token), self._closes.get(token)
        events: list[Event] = []
        self._begins = self._renderer.tokenizer.spaced
        if opens and self._mode == "text":
            events = self._close()
            self._mode = opens
            self._call = [token]
        elif closes and closes == self._mode:
            if closes == "tool_use" and self._renderer.parse(self._call).problems:
                self._mode = "text"  # a malformed call is text, as in the whole reply
            events = self._close()
            self._mode = "text"
        return events  # out of place, it is dropped: the parser names it among the reply's problems

    def finish(self, stop_sequence: str | None) -> list[Event]:
        """The last events: what was held back, up to the stop sequence that was met."""
        self._held += self._decoder.decode(b"", final=True)
        if stop_sequence is not None:
            self._held = self._held.partition(stop_sequence)[0]
        if self._mode == "tool_use":
            self._mode = "text"  # half a call is text, as in the whole reply
        return self._close()

    def _close(self) -> list[Event]:
        self._held += self._decoder.decode(b"", final=True)
        return self._release(keep=0)

    def _undecided(self) -> int:
        """Characters at the end that may not be shown yet: all of a tool call, or a stop's beginning."""
        if self._mode == "tool_use":
            return len(self._held)
        keep = 0
        for stop in self._stops:
            if stop in self._held:  # the engine ends here, and `finish` cuts it off
                keep = max(keep, len(self._held) - self._held.index(stop))
            for size in range(min(len(stop) - 1, len(self._held)), keep, -1):
                if stop.startswith(self._held[-size:]):
                    keep = size
                    break
        return keep

    def _release(self, keep: int) -> list[Event]:
        shown = self._held[: len(self._held) - keep]
        self._held = self._held[len(self._held) - keep :]
        return [Event(self._mode, shown)] if shown else []


def extend(conversation: Conversation, message: Message) -> Conversation:
    """The conversation with the reply added; a reply to a prefill is joined to it."""
    messages = conversation.messages
    if not messages or messages[-1].role != "assistant":
        return conversation.then(message)
    begun = messages[-1].content
    if begun and message.content:
        left, right = begun[-1], message.content[0]
        if isinstance(left, TextBlock) and isinstance(right, TextBlock):
            begun = (*begun[:-1], TextBlock(text=left.text + right.text))
            message = Message(role="assistant", content=message.content[1:])
    joined = Message(role="assistant", content=(*begun, *message.content))
    return conversation.model_copy(update={"messages": (*messages[:-1], joined)})


def run_tools(
    assistant: Assistant,
    conversation: Conversation,
    tools: Tools,
    max_turns: int = 4,
    *,
    thinking: bool | None = None,
    sampling: Sampling | None = None,
) -> Conversation:
    """`run_tools_batch` of one conversation."""
    return run_tools_batch(assistant, [conversation], tools, max_turns, thinking=thinking, sampling=sampling)[
        0
    ]


def run_tools_batch(
    assistant: Assistant,
    conversations: Sequence[Conversation],
    tools: Tools,
    max_turns: int = 4,
    *,
    thinking: bool | None = None,
    sampling: Sampling | None = None,
) -> list[Conversation]:
    """Let the assistant reply, run the tools it calls, and reply again, until it stops calling.

    Every round is one call of the engine for all conversations still going. A tool that is unknown or
    raises gives a result marked `is_error`, so the assistant can see what went wrong.

    Args:
        tools: what each tool does; their descriptions ride in `conversation.tools`.
        max_turns: most assistant turns; the last may end in a call that nothing answers.
        thinking, sampling: as `Assistant.replies`.

    Returns:
        The conversations, each ending in an assistant message.
    """
    results = list(conversations)
    going = list(range(len(results)))
    for turn in range(max_turns):
        replies = assistant.replies([results[i] for i in going], thinking=thinking, sampling=sampling)
        calling: list[int] = []
        for i, reply in zip(going, replies, strict=True):
            results[i] = extend(results[i], reply.message)
            if reply.stop_reason == "tool_use" and turn + 1 < max_turns:
                results[i] = results[i].then(answer_calls(reply.message, tools))
                calling.append(i)
        going = calling
        if not going:
            break
    return results


def answer_calls(message: Message, tools: Tools) -> Message:
    """The user message with one tool result for each tool call in `message`, in order."""
    calls = [block for block in message.content if isinstance(block, ToolUseBlock)]
    return Message(role="user", content=tuple(_run(call, tools) for call in calls))


def _run(call: ToolUseBlock, tools: Tools) -> ToolResultBlock:
    if call.name not in tools:
        known = ", ".join(sorted(tools)) or "none"
        text = f"unknown tool {call.name!r}; tools: {known}"
        return ToolResultBlock(tool_use_id=call.id, content=text, is_error=True)
    try:
        return ToolResultBlock(tool_use_id=call.id, content=tools[call.name](call.input))
    except Exception as error:  # a tool is someone else's code, and its failure is the model's to read
        text = f"{type(error).__name__}: {error}"
        return ToolResultBlock(tool_use_id=call.id, content=text, is_error=True)
