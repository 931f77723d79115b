"""Environments: what the policy talks to. Single-use: one object is one episode.

A single-turn prompt ends after one reply. With tools the environment runs the calls and answers, and
the policy goes on until it replies without a call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from publius.core.messages import Conversation, Message, ToolResultBlock, ToolUseBlock, user

__all__ = ["ChatEnvironment", "Environment", "ToolEnvironment", "Tools"]

Tools = Mapping[str, Callable[[dict[str, Any]], str]]


class Environment(Protocol):
    """One episode."""

    def start(self) -> Conversation:
        """The prompt. Called once."""
        ...

    def step(self, reply: Message) -> tuple[Message, ...] | None:
        """What follows the reply: messages to answer, or None when the episode is over."""
        ...


class ChatEnvironment:
    """A prompt and one reply.

    Raises:
        RuntimeError: when started twice: an episode's state must not leak into the next.
    """

    def __init__(self, prompt: Conversation) -> None:
        self._prompt, self._started = prompt, False

    def start(self) -> Conversation:
        if self._started:
            raise RuntimeError("an environment is single-use: make a new one for each episode")
        self._started = True
        return self._prompt

    def step(self, reply: Message) -> tuple[Message, ...] | None:
        return None


class ToolEnvironment(ChatEnvironment):
    """A prompt whose tool calls are run, for at most `max_turns` replies.

    A tool that is unknown or raises answers with an error result, as the server would.
    """

    def __init__(self, prompt: Conversation, tools: Tools, max_turns: int = 4) -> None:
        super().__init__(prompt)
        self._tools, self._left = tools, max_turns

    def step(self, reply: Message) -> tuple[Message, ...] | None:
        calls = [block for block in reply.content if isinstance(block, ToolUseBlock)]
        self._left -= 1
        if not calls or self._left <= 0:
            return None
        return (user([self._run(call) for call in calls]),)

    def _run(self, call: ToolUseBlock) -> ToolResultBlock:
        tool = self._tools.get(call.name)
        if tool is None:
            return ToolResultBlock(tool_use_id=call.id, content=f"unknown tool {call.name}", is_error=True)
        try:
            return ToolResultBlock(tool_use_id=call.id, content=tool(call.input))
        except Exception as error:  # the model wrote the input: whatever it breaks is the model's to see
            return ToolResultBlock(
                tool_use_id=call.id, content=f"{type(error).__name__}: {error}", is_error=True
            )
