"""Chat in the terminal: streaming, thinking dimmed, tool calls shown; or one message, for scripts.

The reply's text goes to stdout. Thinking, tool calls and notes go beside it on a terminal, and to stderr
when stdout is not one, so that `publius chat --message ... | other` passes on the reply alone.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, TextIO

from rich.console import Console

from publius.core.console import console as stderr_console
from publius.core.errors import UserError
from publius.core.messages import Conversation, Message, ToolResultBlock, ToolSpec, user
from publius.inference.assistant import Assistant, Event, Reply, Tools, answer_calls, extend
from publius.inference.engine import Engine
from publius.inference.remote.assistant import RemoteAssistant
from publius.inference.sampling import Sampling
from publius.model.checkpoint import Checkpoint
from publius.tokenizer.renderer import Renderer

__all__ = ["Chat", "chat", "converse", "load_assistant"]

_HELP = "/reset  /system TEXT  /thinking on|off  /quit"
_CONTROL = {code: None for code in (*range(32), 127, *range(128, 160)) if chr(code) not in "\n\t"}
"""Never printed: a reply must not move the cursor or repaint the terminal."""


def load_assistant(
    checkpoint_dir: Path,
    *,
    sampling: Sampling | None = None,
    device: str = "cpu",
    max_batch: int = 64,
    dtype: Literal["auto"] | None = None,
) -> Assistant:
    """The assistant of a checkpoint folder (ours, or a Hugging Face folder with a tokenizer).

    `dtype="auto"` computes in whatever is fastest for batches of `max_batch`; None in the weights' own.

    Raises:
        UserError: when the folder is not a whole checkpoint.
    """
    checkpoint = Checkpoint(Path(checkpoint_dir))
    tokenizer = checkpoint.tokenizer()
    engine = Engine(checkpoint.load(device=device), tokenizer, dtype=dtype, max_batch=max_batch)
    return Assistant(engine, Renderer(tokenizer), sampling)


class Chat:
    """One conversation at the terminal.

    Args:
        assistant: who replies, here or behind an address.
        system: the system text.
        thinking: True lets the model think when it wants to, False forbids it.
        tools: what each tool does. With tools, calls are run and answered.
        tool_specs: their descriptions, given to the model.
        out: where text goes; stdout by default.
        max_turns: most assistant turns to one user message.
    """

    def __init__(
        self,
        assistant: Assistant | RemoteAssistant,
        *,
        system: str | None = None,
        thinking: bool = True,
        tools: Tools | None = None,
        tool_specs: Sequence[ToolSpec] = (),
        out: Console | None = None,
        max_turns: int = 4,
    ) -> None:
        self._assistant, self._tools, self._max_turns = assistant, dict(tools or {}), max_turns
        self._out = out or Console(highlight=False)
        self._notes = self._out if self._out.is_terminal else stderr_console
        self.thinking = thinking
        self.conversation = Conversation(system=system, tools=tuple(tool_specs), messages=())

    def handle(self, line: str) -> bool:
        """Do what one line says, command or message; False when it says quit. Errors are shown."""
        if not line.strip():
            return True
        if not line.startswith("/"):
            self._try(line)
            return True
        command, _, value = line.strip().partition(" ")
        value = value.strip()
        if command in ("/quit", "/exit"):
            return False
        if command == "/reset":
            self.conversation = self.conversation.model_copy(update={"messages": ()})
            self._note("new conversation")
        elif command == "/system":
            self.conversation = self.conversation.model_copy(update={"system": value or None, "messages": ()})
            self._note("system text set, new conversation" if value else "no system text, new conversation")
        elif command == "/thinking" and value in ("on", "off"):
            self.thinking = value == "on"
            self._note(f"thinking {value}")
        else:
            self._note(_HELP)
        return True

    def say(self, text: str) -> Conversation:
        """Send one message, show the reply as it comes, run the tools it calls.

        Raises:
            UserError: when the conversation no longer fits; it is left as it was before the message.
        """
        conversation = self.conversation.then(user(text))
        for turn in range(self._max_turns):
            reply = self._show(conversation)
            conversation = extend(conversation, reply.message)
            if reply.stop_reason != "tool_use" or not self._tools or turn + 1 == self._max_turns:
                break
            results = answer_calls(reply.message, self._tools)
            self._show_results(results)
            conversation = conversation.then(results)
        self.conversation = conversation
        return conversation

    def _try(self, line: str) -> None:
        try:
            self.say(line)
        except UserError as error:
            self._note(f"{error}\n  /reset starts a new conversation")
        except KeyboardInterrupt:
            self._note("\nstopped; that message and its reply are forgotten")

    def _show(self, conversation: Conversation) -> Reply:
        """Stream one reply to the screen."""
        events = self._stream(conversation)
        kind = ""
        while True:
            try:
                event = next(events)
            except StopIteration as stop:
                reply: Reply = stop.value
                break
            if kind and event.kind != kind:
                (self._out if kind == "text" else self._notes).print()
            kind = event.kind
            if kind == "text":
                self._write(self._out, event.text)
            else:
                self._write(self._notes, ("call: " if kind == "tool_use" else "") + event.text, style="dim")
        if kind:
            (self._out if kind == "text" else self._notes).print()
        if reply.stop_reason == "max_tokens":
            self._note("(cut at the token limit)")
        for problem in reply.problems:
            self._note(f"({problem})")
        return reply

    def _stream(self, conversation: Conversation) -> Generator[Event, None, Reply]:
        """As long as the context has room; an assistant elsewhere sees to that itself."""
        assistant, thinking = self._assistant, None if self.thinking else False
        if isinstance(assistant, RemoteAssistant):
            return assistant.stream(conversation, thinking=thinking)
        room = assistant.engine.context - len(assistant.renderer.prompt(conversation, thinking=thinking))
        sampling = assistant.sampling
        sampling = replace(sampling, max_tokens=max(1, min(sampling.max_tokens, room)))
        return assistant.stream(conversation, thinking=thinking, sampling=sampling)

    def _show_results(self, message: Message) -> None:
        for block in message.content:
            if isinstance(block, ToolResultBlock):
                word = "error" if block.is_error else "result"
                self._note(f"{word}: {block.content}")

    def _note(self, text: str) -> None:
        self._write(self._notes, text + "\n", style="dim")

    @staticmethod
    def _write(target: Console, text: str, style: str | None = None) -> None:
        clean = text.translate(_CONTROL)
        target.print(clean, end="", style=style, markup=False, highlight=False, emoji=False, soft_wrap=True)
        target.file.flush()


def chat(
    checkpoint_dir: Path,
    *,
    system: str | None = None,
    thinking: bool = True,
    tools: Tools | None = None,
    tool_specs: Sequence[ToolSpec] = (),
    message: str | None = None,
    sampling: Sampling | None = None,
    device: str = "cpu",
    stdin: TextIO | None = None,
    out: Console | None = None,
) -> Conversation:
    """Chat with a checkpoint until the input ends; with `message`, one exchange and no questions asked.

    Args:
        checkpoint_dir: the checkpoint's payload folder.
        system, thinking, tools, tool_specs, out: as `Chat`.
        message: send this and return.
        sampling: default 256 new tokens at temperature 0.7.
        stdin: where lines come from; the process's own by default. When it is not a terminal, each line
            is a message and nothing is asked.

    Returns:
        The conversation.

    Raises:
        UserError: when the checkpoint cannot be loaded; and with `message`, when the reply fails.
    """
    sampling = sampling or Sampling(max_tokens=256, temperature=0.7)
    assistant = load_assistant(checkpoint_dir, sampling=sampling, device=device, max_batch=1)
    session = Chat(assistant, system=system, thinking=thinking, tools=tools, tool_specs=tool_specs, out=out)
    return converse(session, message=message, stdin=stdin)


def converse(session: Chat, *, message: str | None = None, stdin: TextIO | None = None) -> Conversation:
    """Until the input ends; with `message`, one exchange. Arguments, result and errors as `chat`."""
    if message is not None:
        return session.say(message)
    for line in _lines(stdin or sys.stdin):
        if not session.handle(line):
            break
    return session.conversation


def _lines(source: TextIO) -> Iterator[str]:
    """Lines typed at a terminal (with a prompt, on stderr), or read from a pipe."""
    asks = source.isatty()
    if asks:
        stderr_console.print(_HELP, style="dim")
    while True:
        try:
            if asks:
                stderr_console.print("[bold]you>[/bold] ", end="")
            line = source.readline()
        except KeyboardInterrupt:
            break
        if not line:
            break
        yield line.rstrip("\n")
