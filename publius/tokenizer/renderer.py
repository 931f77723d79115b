"""Messages to ids with loss weights, and a model's ids back to messages.

    <|bos|> [<|system|>text<|end|>] [<|tools|>a JSON object a line<|end|>]
    <|user|>text or <|tool_result|>text<|/tool_result|><|end|>
    <|assistant|>[<|think|>text<|/think|>]text[<|tool_use|>{"name":..,"input":{..}}<|/tool_use|>]<|end|> ...

with system turns between the others where the conversation has them there.

Each stretch of text is encoded by itself and special tokens are set by id, so what a text becomes
depends on nothing around it, and nothing a user types can open or close a turn.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from typing import Any, Literal, NamedTuple

from publius.core.errors import UserError
from publius.core.messages import (
    Block,
    Conversation,
    ImageBlock,
    Message,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from publius.tokenizer.chat_template import CHAT_TEMPLATE
from publius.tokenizer.special import (
    ASSISTANT,
    BOS,
    END,
    SYSTEM,
    THINK,
    THINK_END,
    TOOL_RESULT,
    TOOL_RESULT_END,
    TOOL_USE,
    TOOL_USE_END,
    TOOLS,
    USER,
)
from publius.tokenizer.tokenizer import Tokenizer

__all__ = ["Parsed", "Rendered", "Renderer"]

_TURNS = (SYSTEM, TOOLS, USER, ASSISTANT)


class Rendered(NamedTuple):
    """Ids of a conversation, and for each the weight of its loss (1 on what the assistant says)."""

    tokens: list[int]
    weights: list[float]


class Parsed(NamedTuple):
    """What a model wrote. `problems` is empty exactly when the reply was well formed and whole."""

    blocks: tuple[Block, ...]
    stop_reason: Literal["end_turn", "tool_use", "max_tokens"]
    problems: tuple[str, ...]


class _Text(NamedTuple):
    """Ordinary text on its way to ids; anything else on that way is the name of a special token."""

    text: str


_Piece = _Text | str


class Renderer:
    """Renders for one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.stop_ids: frozenset[int] = frozenset({tokenizer.end_id})
        """Generation ends at any of these."""
        self._name_of = {token: name for name, token in tokenizer.special.items()}

    def render(self, conversation: Conversation) -> Rendered:
        """The whole conversation for training.

        Weights are 1 on every assistant turn, from after `<|assistant|>` to its `<|end|>` inclusive, and
        0 elsewhere; `conversation.meta["train_last_only"]` true keeps only the last assistant turn. Words of
        `meta["prefill"]` with which the last assistant turn begins were not chosen by it: 0. Nor was an empty
        thinking block at its head where `meta["thinking"]` is False: `prompt` writes it.

        Raises:
            UserError: for an image block, which this model cannot see.
        """
        tokens = self._ids(_head(conversation))
        weights = [0.0] * len(tokens)
        turns = [i for i, m in enumerate(conversation.messages) if m.role == "assistant"]
        trained = set(turns[-1:] if conversation.meta.get("train_last_only") else turns)
        for index, message in enumerate(conversation.messages):
            ids = self._ids([_opening(message), *_body(message.content), END])
            weight = 1.0 if index in trained else 0.0
            given = self._given(conversation, ids) if turns and index == turns[-1] else 1
            tokens += ids
            weights += [0.0] * given + [weight] * (len(ids) - given)
        return Rendered(tokens, weights)

    def _given(self, conversation: Conversation, turn: list[int]) -> int:
        """How many of the last turn's ids come before what the assistant chose: opening, closed thinking,
        prefill."""
        words = conversation.meta.get("prefill")
        begun, closed = turn[:1], self._ids([THINK, THINK_END])
        if conversation.meta.get("thinking") is False and turn[1:3] == closed:
            begun += closed
        begun += self.tokenizer.encode(words) if isinstance(words, str) else []
        same = (ours == theirs for ours, theirs in zip(begun, turn, strict=False))
        return sum(takewhile(bool, same))

    def prompt(
        self, conversation: Conversation, *, thinking: bool | None = None, prefill: str = ""
    ) -> list[int]:
        """Ids up to and including `<|assistant|>`, from which a reply is generated.

        Args:
            conversation: if its last message is the assistant's, that message is a prefill, left open.
            thinking: True opens `<|think|>` (parse the reply with `thinking_open=True`); False closes it
                at once, so the reply is plain; None lets the model decide.
            prefill: text the reply begins with.

        Raises:
            UserError: for an image block, and for thinking forced open together with a prefill.
        """
        messages = conversation.messages
        last = messages[-1] if messages and messages[-1].role == "assistant" else None
        content: list[Block] = [*last.content] if last else []
        if prefill:
            content.append(TextBlock(text=prefill))
        if thinking and content:
            raise UserError(
                "thinking cannot be forced after the reply was begun by a prefill",
                where="prompt",
                fix="drop the prefill, or leave thinking to the model",
            )
        forced = {None: [], True: [THINK], False: [THINK, THINK_END]}[thinking]
        if thinking is False and any(isinstance(block, ThinkingBlock) for block in content):
            forced = []
        pieces = [*_head(conversation)]
        for message in messages[:-1] if last else messages:
            pieces += [_opening(message), *_body(message.content), END]
        return self._ids([*pieces, ASSISTANT, *forced, *_body(content)])

    def goes_on(self, prompt: Sequence[int]) -> bool:
        """Whether a reply to `prompt` goes on from text, that of a prefill."""
        return bool(prompt) and prompt[-1] not in self.tokenizer.special_ids

    def parse(self, tokens: Sequence[int], *, thinking_open: bool = False, goes_on: bool = False) -> Parsed:
        """The reply in `tokens`, which follow `<|assistant|>` and may or may not hold its `<|end|>`.

        Undoes `render` for one assistant message (neighbouring text blocks joined, empty ones gone,
        signatures dropped, tool ids made new). Never raises: what is malformed is kept as text where
        it is text, and named in `problems`. Thinking that was cut off stays thinking.

        Args:
            thinking_open: the prompt ended in `<|think|>`.
            goes_on: it ended in text, which the reply goes on from (`Renderer.goes_on`).
        """
        reader = _Reader(self, thinking_open, goes_on)
        for index, token in enumerate(tokens):
            if reader.take(int(token)):
                if index + 1 < len(tokens):
                    reader.problems.append("tokens after the end of the turn were dropped")
                break
        return reader.finish()

    def chat_template(self) -> str:
        """The Jinja template that gives the same ids through `transformers`' `apply_chat_template`."""
        return CHAT_TEMPLATE

    def special_name(self, token: int) -> str | None:
        """The name of a special id, None for an ordinary one."""
        return self._name_of.get(token)

    def _ids(self, pieces: Iterable[_Piece]) -> list[int]:
        ids: list[int] = []
        for piece in _joined(pieces):
            if isinstance(piece, _Text):
                ids += self.tokenizer.encode(piece.text)
            else:
                ids.append(self.tokenizer.special[piece])
        return ids


def _joined(pieces: Iterable[_Piece]) -> Iterator[_Piece]:
    """Neighbouring texts as one, as a string template would have them."""
    pending = ""
    for piece in pieces:
        if isinstance(piece, _Text):
            pending += piece.text
            continue
        if pending:
            yield _Text(pending)
            pending = ""
        yield piece
    if pending:
        yield _Text(pending)


def _head(conversation: Conversation) -> list[_Piece]:
    pieces: list[_Piece] = [BOS]
    if conversation.system:
        pieces += [SYSTEM, _Text(conversation.system), END]
    if conversation.tools:
        lines = "\n".join(_compact(tool.model_dump(mode="json")) for tool in conversation.tools)
        pieces += [TOOLS, _Text(lines), END]
    return pieces


def _opening(message: Message) -> str:
    return {"user": USER, "assistant": ASSISTANT, "system": SYSTEM}[message.role]


def _body(content: Iterable[Block]) -> Iterator[_Piece]:
    for block in content:
        match block:
            case TextBlock():
                yield _Text(block.text)
            case ThinkingBlock():
                yield from (THINK, _Text(block.thinking), THINK_END)
            case ToolUseBlock():
                call = _compact({"name": block.name, "input": block.input})
                yield from (TOOL_USE, _Text(call), TOOL_USE_END)
            case ToolResultBlock():
                yield from (TOOL_RESULT, _Text(block.content), TOOL_RESULT_END)
            case ImageBlock():
                raise UserError(
                    "this model reads text only, and a message holds an image",
                    where="messages",
                    fix="take the image block out",
                )


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


class _Reader:
    """The state of one parse: the blocks so far, and the open stretch (text, thinking or tool call)."""

    def __init__(self, renderer: Renderer, thinking_open: bool, goes_on: bool) -> None:
        self._renderer, self._goes_on = renderer, goes_on
        self._mode: Literal["text", "thinking", "tool"] = "thinking" if thinking_open else "text"
        self._open: list[int] = []
        self._blocks: list[Block] = []
        self._ended = False
        self.problems: list[str] = []

    def take(self, token: int) -> bool:
        """Read one id; True when the turn is over."""
        name = self._renderer.special_name(token)
        if name is None:
            if 0 <= token < self._renderer.tokenizer.vocab_size:
                self._open.append(token)
            else:
                self.problems.append(f"id {token} is outside the vocabulary")
            return False
        if name == END:
            self._ended = True
            return True
        if name in _TURNS:
            self.problems.append(f"the reply opened another turn with {name}")
            self._ended = True
            return True
        opened = {THINK: "thinking", TOOL_USE: "tool"}.get(name)
        closes = {THINK_END: "thinking", TOOL_USE_END: "tool"}.get(name)
        if opened and self._mode == "text":
            self._close()
            self._mode = "thinking" if opened == "thinking" else "tool"
        elif closes and self._mode == closes:
            self._close()
        else:
            self.problems.append(f"{name} out of place")
        return False

    def finish(self) -> Parsed:
        if self._mode == "thinking":
            self.problems.append("thinking was not closed")
        if self._mode == "tool":
            self.problems.append("a tool call was not closed")
            self._mode = "text"  # half a call is no call
        self._close()
        called = any(isinstance(block, ToolUseBlock) for block in self._blocks)
        reason = "max_tokens" if not self._ended else "tool_use" if called else "end_turn"
        return Parsed(tuple(self._blocks), reason, tuple(self.problems))

    def _close(self) -> None:
        tokenizer = self._renderer.tokenizer
        text = tokenizer.decode_on(self._open) if self._goes_on else tokenizer.decode(self._open)
        self._open, self._goes_on = [], False
        mode, self._mode = self._mode, "text"
        if mode == "thinking":
            self._blocks.append(ThinkingBlock(thinking=text))
        elif mode == "tool":
            self._tool(text)
        else:
            self._text(text)

    def _text(self, text: str) -> None:
        if not text:
            return
        last = self._blocks[-1] if self._blocks else None
        if isinstance(last, TextBlock):
            self._blocks[-1] = TextBlock(text=last.text + text)
        else:
            self._blocks.append(TextBlock(text=text))

    def _tool(self, text: str) -> None:
        calls = sum(isinstance(block, ToolUseBlock) for block in self._blocks)
        made = hashlib.blake2b(f"{calls}\0{text}".encode(), digest_size=12).hexdigest()
        try:
            call = json.loads(text)
            if set(call) != {"name", "input"}:
                raise ValueError("a tool call is an object with name and input")
            # half a surrogate pair would break every later writer; NaN, which Python reads, is no JSON
            json.dumps(call, ensure_ascii=False, allow_nan=False).encode("utf-8")
            block = ToolUseBlock(id=f"toolu_{made}", name=call["name"], input=call["input"])
        except (ValueError, TypeError, RecursionError) as error:
            reason = str(error).splitlines()[0]
            self.problems.append(f"a tool call is not a valid call: {reason}")
            self._text(text)
            return
        self._blocks.append(block)
