"""Tokens into the blocks of a reply, as they come: text, thinking, tool calls with the JSON of their input.

A call's input is told piece by piece, as soon as its name is known, which is right only because calls are
kept to their grammar while they are drawn (`tool_choice.choosing`): none can turn out to be malformed. Text
is told in whole characters, and what may become a stop text is held back until it is known not to.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from pydantic_core import from_json

from publius.tokenizer.special import THINK, THINK_END, TOOL_USE, TOOL_USE_END
from publius.tokenizer.tokenizer import Tokenizer

__all__ = ["BlockReader", "Kind", "Opens", "Part", "Says", "Shuts"]

Kind = Literal["text", "thinking", "tool_use"]
_HEAD = re.compile(r'\{"name":("(?:[^"\\]|\\.)*"),"input":')
"""How the renderer writes a call; what follows is its input and one closing brace."""


class Opens(NamedTuple):
    """A block begins; a tool call's name is known by then."""

    kind: Kind
    name: str = ""


class Says(NamedTuple):
    """More of the open block."""

    text: str


class Shuts(NamedTuple):
    """The open block is over.

    Args:
        text: all of it.
        input: of a tool call; of one that was cut off, as far as it came.
    """

    kind: Kind
    text: str
    input: dict[str, Any] = {}  # noqa: RUF012 - a NamedTuple's default, never changed


Part = Opens | Says | Shuts


class BlockReader:
    """Reads one reply.

    Args:
        tokenizer: of the model.
        stops: texts that end the reply.
        opening: what the first token belongs to: a prompt may have left thinking open.
        raw: no token means anything; all of it is one text, without special tokens.
        goes_on: the prompt ended in text, which the reply goes on from (`Renderer.goes_on`).
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stops: Sequence[str] = (),
        *,
        opening: Literal["text", "thinking"] = "text",
        raw: bool = False,
        goes_on: bool = False,
    ) -> None:
        special = tokenizer.special
        self._spaced = tokenizer.spaced and not raw
        self._begins = self._spaced and not goes_on
        """Whether the next character begins a text, with a space that is none of it."""
        self._bytes, self._special = tokenizer.id_bytes, tokenizer.special_ids
        self._stops, self._raw = tuple(stops), raw
        self._opens: dict[int, Kind] = {special[THINK]: "thinking", special[TOOL_USE]: "tool_use"}
        self._closes: dict[int, Kind] = {special[THINK_END]: "thinking", special[TOOL_USE_END]: "tool_use"}
        self.mode: Kind = opening
        """The kind of block the next token belongs to."""
        self._open = False
        self._said: list[str] = []
        self._held = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._told = 0
        """Characters, of all blocks."""
        self.calls = 0
        """Tool calls that were written to their end."""
        self.thought = 0
        """Tokens of thinking, those that end it among them."""

    @property
    def end(self) -> int:
        """Where the text of the tokens taken so far ends, in characters over all that has been told and will
        be; outside of a tool call, of whose text not all is told. Half a character counts as the whole."""
        return self._told + len(self._held) + bool(self._decoder.getstate()[0])

    def take(self, tokens: Sequence[int]) -> list[Part]:
        """What became certain with these tokens; the same however a reply is cut, with texts joined."""
        parts: list[Part] = []
        said: list[bytes] = []
        for token in tokens:
            if token not in self._special:
                said.append(self._bytes(token))
                self.thought += self.mode == "thinking"
                continue
            parts += self._hear(said)
            said.clear()
            self.thought += self.mode == "thinking"
            parts += self._turn(token)
        return parts + self._hear(said)

    def _hear(self, said: list[bytes]) -> list[Part]:
        text = self._decoder.decode(b"".join(said)) if said else ""
        if not text:
            return []
        if self._begins:
            text, self._begins = text.removeprefix(" "), False
        self._held += text
        return self._tell(self._undecided() if self._stops or self.mode == "tool_use" else 0)

    def _turn(self, token: int) -> list[Part]:
        """A special token."""
        if self._raw:
            return []
        opens, closes = self._opens.get(token), self._closes.get(token)
        if opens and self.mode == "text":
            parts = self._shut()
            self.mode, self._begins = opens, self._spaced
            return parts
        if closes and closes == self.mode:
            self._begins = self._spaced
            if closes == "tool_use":
                self.calls += 1
                parts = self._shut(whole=True)
            else:
                parts = self._shut()
            self.mode = "text"
            return parts
        return []  # out of place, as the renderer's parser has it

    def finish(self, stop_sequence: str | None) -> list[Part]:
        """The rest: what was held back, up to the stop text that was met."""
        self._held += self._decoder.decode(b"", final=True)
        if stop_sequence is not None:
            self._held = self._held.partition(stop_sequence)[0]
        return self._shut()

    def _undecided(self) -> int:
        """Characters at the end that may not be told yet."""
        if self.mode == "tool_use":  # no stop text is looked for there
            return 1  # the last brace closes the call, not its input
        keep = 0
        for stop in self._stops:
            at = self._held.find(stop)
            if at >= 0:  # the engine ends here, and `finish` cuts it off
                keep = max(keep, len(self._held) - at)
            for size in range(min(len(stop) - 1, len(self._held)), keep, -1):
                if stop.startswith(self._held[-size:]):
                    keep = size
                    break
        return keep

    def _tell(self, keep: int) -> list[Part]:
        parts: list[Part] = []
        if self.mode == "tool_use" and not self._open:
            head = _HEAD.match(self._held)
            if head is None:
                return parts
            parts.append(Opens("tool_use", json.loads(head[1])))
            self._open = True
            self._held = self._held[head.end() :]
        told = self._held[: len(self._held) - keep] if keep else self._held
        if told:
            self._held = self._held[len(told) :]
            if not self._open:
                self._open = True
                parts.append(Opens(self.mode))
            self._said.append(told)
            self._told += len(told)
            parts.append(Says(told))
        return parts

    def _shut(self, *, whole: bool = False) -> list[Part]:
        """The open block ends, with all that was held back; a whole call without its own closing brace."""
        if self.mode != "tool_use":
            self._held += self._decoder.decode(b"", final=True)
        elif not whole and self._held == "}" and _whole("".join(self._said)):
            self._held = ""  # cut off between the call's last brace and its end
        parts = self._tell(1 if whole else 0)
        self._held = ""
        if self._open:
            text = "".join(self._said)
            given = _input(text) if self.mode == "tool_use" else {}
            parts.append(Shuts(self.mode, text, given))
        self._open, self._said = False, []
        return parts


def _whole(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _input(text: str) -> dict[str, Any]:
    """A call's input; what was cut off loses the value it was cut in. One with a number that JSON has not
    (NaN, and 1e999, which Python reads) gives nothing, for no client could read it."""
    try:
        found = from_json(text, allow_inf_nan=False, allow_partial=True)
        json.dumps(found, allow_nan=False)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
