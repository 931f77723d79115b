"""The choke-point: every endpoint's exchange passes here, whatever dialect asked for it.

    who may ask -> which model -> what the prompt is -> monitors -> engine -> blocks -> monitors -> events

Nothing reaches a model, and nothing a model wrote leaves, by another way.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from publius.core.messages import Conversation, TextBlock, ThinkingBlock, ToolUseBlock, user
from publius.inference.assistant import reply_stops
from publius.inference.engine import Request, Sampling
from publius.inference.guide import thinking_open
from publius.inference.pages import PAGE
from publius.inference.tool_choice import choosing
from publius.safety.monitor import Monitors, Verdict
from publius.serve.blocks import BlockReader, Opens, Part, Says, Shuts
from publius.serve.config import ServeConfig
from publius.serve.errors import ApiError
from publius.serve.exchange import (
    Ask,
    Began,
    BlockBegan,
    BlockEnded,
    Drawn,
    Ended,
    Event,
    Idle,
    Piece,
    Refusal,
    ReplyBlock,
    StopReason,
    Usage,
)
from publius.serve.guard import Caller, Guard
from publius.serve.holdback import HoldBack
from publius.serve.http import new_id
from publius.serve.hub import Hub, ServedModel
from publius.serve.metrics import Metrics
from publius.serve.signatures import seal, unseal
from publius.serve.store import Store
from publius.serve.worker import Generation
from publius.tokenizer.special import THINK, TOOL_USE_END

__all__ = ["Reply", "Server"]

_log = logging.getLogger("publius.serve")


class Reply(NamedTuple):
    """A whole reply."""

    blocks: tuple[ReplyBlock, ...]
    ended: Ended
    drawn: tuple[Drawn, ...]
    """All tokens of the reply, in order."""


class _Prompt(NamedTuple):
    ids: list[int]
    room: int
    """Tokens the context has left."""


class Server:
    """What endpoints share, at `request.app.state.server`.

    Args:
        config, hub, store, guard, monitors: its parts.
    """

    def __init__(
        self, config: ServeConfig, hub: Hub, store: Store, guard: Guard, monitors: Monitors | None = None
    ) -> None:
        self.config, self.hub, self.store, self.guard = config, hub, store, guard
        self.monitors = monitors or Monitors()
        self.metrics = Metrics(hub)
        self.secret = store.secret()
        self.draining = False
        self._live: set[Generation] = set()

    # ---- thinking is signed, so that it can be sent back and told from a forgery ----

    def restore(self, block: ThinkingBlock) -> ThinkingBlock | None:
        """A thinking block a client sends back, with its thinking where that was left out; None for one that
        no model served here wrote."""
        for model in self.hub.models():
            thought = unseal(self.secret, model.id, block.signature)
            if thought is not None and block.thinking in ("", thought):
                return block.model_copy(update={"thinking": thought})
        return None

    # ---- prompts ----

    def count(self, ask: Ask) -> int:
        """Tokens of the prompt, as `Usage.prompt` will say.

        Raises:
            ApiError: unknown model; UserError: a conversation that cannot be rendered.
        """
        return len(self._ids(self.hub.get(ask.model), ask))

    @staticmethod
    def _ids(model: ServedModel, ask: Ask) -> list[int]:
        if ask.prompt is not None:
            return list(ask.prompt)
        # Thinking is forbidden by its token's bias alone: a closed block before the reply is a sight that
        # not every model was trained for.
        return model.renderer.prompt(ask.conversation, thinking=ask.thinking or None)

    def _prompt(self, model: ServedModel, ask: Ask) -> _Prompt:
        ids = self._ids(model, ask)
        most = model.context
        if not ids:
            raise ApiError("invalid_request_error", "prompt: it has no tokens")
        if any(not 0 <= one < model.engine.model.config.vocab_size for one in ids):
            raise ApiError("invalid_request_error", "prompt: a token id is outside of the vocabulary")
        if len(ids) >= most:
            raise ApiError(
                "invalid_request_error", f"prompt is too long: {len(ids)} tokens > {most - 1} maximum"
            )
        return _Prompt(ids, most - len(ids))

    def _marked(self, model: ServedModel, ask: Ask, ids: Sequence[int]) -> int:
        """Tokens up to the last place the client marked for the cache, in whole pages of it."""
        if not ask.breakpoints:
            return 0
        prefix = model.renderer.render(ask.breakpoints[-1]).tokens
        same = 0
        for ours, theirs in zip(ids, prefix, strict=False):
            if ours != theirs:
                break
            same += 1
        return same // PAGE * PAGE

    def _sampling(self, model: ServedModel, ask: Ask, prompt: _Prompt) -> Sampling:
        special, conversation = model.tokenizer.special, ask.conversation
        sampling = replace(
            ask.sampling,
            max_tokens=max(1, min(ask.max_tokens, prompt.room)),
            thinking_budget=ask.thinking_budget,
            grammar=ask.grammar,
        )
        if ask.prompt is not None:
            return sampling
        stops = {*sampling.stop_ids, *reply_stops(model.renderer)}
        if ask.one_call:
            stops.add(special[TOOL_USE_END])
        bias = dict(sampling.logit_bias)
        if ask.thinking is False or ask.grammar is not None:
            bias[special[THINK]] = -math.inf
        sampling = replace(sampling, stop_ids=tuple(sorted(stops)), logit_bias=bias)
        choice = "none" if not conversation.tools or ask.grammar is not None else ask.tool_choice
        return choosing(sampling, conversation.tools, choice, prompt.ids, model.tokenizer)

    # ---- an exchange ----

    async def exchange(self, ask: Ask, caller: Caller, request_id: str) -> AsyncGenerator[Event, None]:
        """Answer; events as `exchange` (the file) tells. Closing the generator cancels what still runs.

        Raises:
            ApiError: unknown model, a prompt too long, too many waiting, out of time, stopping.
            UserError: what the engine refuses (a grammar that cannot be kept).
        """
        began = time.monotonic()
        model = self.hub.get(ask.model)
        prompt = self._prompt(model, ask)
        self._open()
        turn = _Turn(
            model, ask, request_id, caller, began, self._marked(model, ask, prompt.ids), len(prompt.ids)
        )
        watching = self.monitors.watch(_asked(model, ask)) if self.monitors.monitors else None
        verdict = watching.prompt() if watching is not None else None
        if verdict is not None and verdict.action == "block":
            yield Began(turn.usage())
            yield self._ended(turn, "refusal", verdict=verdict)
            await self._settle(turn)
            return
        if ask.max_tokens == 0:
            request = Request(prompt.ids, Sampling(), targets={}, priority=ask.priority)
        else:
            sampling = self._sampling(model, ask, prompt)
            request = Request(prompt.ids, sampling, stream=ask.stream, priority=ask.priority)
        request.deadline = began + self.config.timeout
        request.probe = self.monitors.probe
        generation = model.worker.submit(request)
        turn.request = request
        self._live.add(generation)
        self.metrics.live.inc()
        try:
            async for event in self._events(turn, generation, HoldBack(watching)):
                yield event
        finally:
            model.worker.release(generation)
            self._live.discard(generation)
            self.metrics.live.dec()
            await self._settle(turn)

    async def _events(
        self, turn: _Turn, generation: Generation, hold: HoldBack
    ) -> AsyncGenerator[Event, None]:
        request, ask, model = generation.request, turn.ask, turn.model
        raw = ask.prompt is not None
        thinks = not raw and thinking_open(request.prompt, model.tokenizer)
        opening = "thinking" if thinks else "text"
        reader = BlockReader(model.tokenizer, request.sampling.stop, opening=opening, raw=raw)
        told = False
        async for _ in generation.progress():
            over = request.stop_reason is not None
            tokens = request.tokens[turn.read :]
            if not told and (request.reused is not None or over):
                told = True
                yield Began(turn.usage(output=False))
            if not tokens and not over:
                if told:
                    yield Idle()
                continue
            if not turn.read:
                self.metrics.first(turn.model.id, time.monotonic() - turn.began)
            parts: list[Part] = []
            for token in tokens:
                parts += self._take(turn, reader, token)
            if over:
                parts += reader.finish(request.stop_sequence)
            for part in hold.take(parts, request.readings[: turn.read], done=over):
                yield self._event(turn, part)
            if hold.blocked:
                break
        if request.stop_reason == "deadline" and not hold.blocked:
            raise ApiError("timeout_error", f"the reply took longer than {self.config.timeout:g} s")
        if hold.blocked:
            for event in self._close_block(turn):
                yield event
            yield self._ended(turn, "refusal", verdict=hold.verdict)
            return
        yield self._ended(turn, self._why(turn, request, reader), verdict=hold.verdict)

    @staticmethod
    def _take(turn: _Turn, reader: BlockReader, token: int) -> list[Part]:
        request, at = turn.request, turn.read
        assert request is not None
        alternatives = request.alternatives[at] if at < len(request.alternatives) else ()
        turn.drawn.append(Drawn(token, request.logprobs[at], alternatives))
        turn.read += 1
        turn.thought += reader.mode == "thinking"
        return reader.take(token)

    def _event(self, turn: _Turn, part: Part) -> Event:
        match part:
            case Opens(kind="text"):
                turn.open = TextBlock(text="")
            case Opens(kind="thinking"):
                turn.open = ThinkingBlock(thinking="")
            case Opens(name=name):
                turn.open = ToolUseBlock(id=new_id("toolu"), name=name, input={})
            case Says(text=text):
                turn.said.append(text)
                drawn, turn.drawn = tuple(turn.drawn), []
                return Piece(turn.blocks, text, drawn)
            case Shuts():
                return self._shut(turn, part.input)
        assert turn.open is not None
        return BlockBegan(turn.blocks, turn.open)

    def _shut(self, turn: _Turn, given: dict[str, object]) -> BlockEnded:
        text, block = "".join(turn.said), turn.open
        assert block is not None
        if isinstance(block, TextBlock):
            block = TextBlock(text=text)
        elif isinstance(block, ThinkingBlock):
            block = ThinkingBlock(thinking=text, signature=seal(self.secret, turn.model.id, text))
        else:
            block = ToolUseBlock(id=block.id, name=block.name, input=given)
            turn.calls += 1
        event = BlockEnded(turn.blocks, block)
        turn.blocks, turn.open, turn.said = turn.blocks + 1, None, []
        return event

    def _close_block(self, turn: _Turn) -> list[Event]:
        """What a monitor ended in the middle of."""
        return [self._shut(turn, {})] if turn.open is not None else []

    def _why(self, turn: _Turn, request: Request, reader: BlockReader) -> StopReason:
        match request.stop_reason:
            case "stop_sequence":
                return "stop_sequence"
            case "max_tokens":
                cut = turn.ask.max_tokens > len(request.tokens)
                return "model_context_window_exceeded" if cut else "max_tokens"
            case "cancelled":
                raise ApiError("api_error", "the reply was cancelled")
            case _:
                if turn.ask.max_tokens == 0:
                    return "max_tokens"
                return "tool_use" if reader.calls else "end_turn"

    def _ended(self, turn: _Turn, reason: StopReason, *, verdict: Verdict) -> Ended:
        turn.reason, turn.verdict = reason, verdict
        sequence = turn.request.stop_sequence if turn.request and reason == "stop_sequence" else None
        refused = reason == "refusal"
        return Ended(
            reason,
            turn.usage(),
            sequence,
            Refusal(verdict.category, verdict.explanation) if refused else None,
            () if refused else tuple(turn.drawn),
        )

    async def _settle(self, turn: _Turn) -> None:
        """The books: limits, budget, metrics, log."""
        usage = turn.usage()
        self.metrics.exchange(turn.model.id, turn.reason or "cancelled", usage, time.monotonic() - turn.began)
        if turn.verdict is not None and turn.verdict.action != "allow":
            self.metrics.monitor(turn.verdict)
        _log.info(
            "exchange",
            extra={
                "request_id": turn.request_id, "model": turn.model.id, "key": turn.caller.key_id,
                "stop_reason": turn.reason or "cancelled", "seconds": round(time.monotonic() - turn.began, 4),
                **usage._asdict(),
                **({} if turn.verdict is None else {"monitor": turn.verdict._asdict()}),
            },
        )  # fmt: skip
        await asyncio.shield(self.guard.spent(turn.caller, usage))

    async def collect(self, ask: Ask, caller: Caller, request_id: str) -> Reply:
        """The whole reply; raises as `exchange`."""
        blocks: list[ReplyBlock] = []
        drawn: list[Drawn] = []
        ended: Ended | None = None
        async for event in self.exchange(ask, caller, request_id):
            match event:
                case BlockEnded(block=block):
                    blocks.append(block)
                case Piece(drawn=some):
                    drawn += some
                case Ended():
                    ended = event
                    drawn += event.drawn
                case _:
                    pass
        assert ended is not None
        return Reply(tuple(blocks), ended, tuple(drawn))

    # ---- coming to an end ----

    def _open(self) -> None:
        if self.draining:
            raise ApiError(
                "overloaded_error",
                "the server is stopping",
                headers={"retry-after": "5", "x-should-retry": "true"},
            )

    @property
    def live(self) -> int:
        """Replies under way."""
        return len(self._live)

    def expire(self) -> None:
        """End every reply under way with an error: the time to end in is over."""
        for generation in tuple(self._live):
            generation.fail(ApiError("overloaded_error", "the server is stopping"))


@dataclass(eq=False)
class _Turn:
    """One exchange on its way."""

    model: ServedModel
    ask: Ask
    request_id: str
    caller: Caller
    began: float
    marked: int
    prompt: int
    request: Request | None = None
    read: int = 0
    """Tokens taken from the engine."""
    blocks: int = 0
    calls: int = 0
    thought: int = 0
    open: ReplyBlock | None = None
    said: list[str] = field(default_factory=list[str])
    drawn: list[Drawn] = field(default_factory=list[Drawn])
    reason: StopReason | None = None
    verdict: Verdict | None = None

    def usage(self, *, output: bool = True) -> Usage:
        """So far."""
        reused = (self.request.reused or 0) if self.request is not None else 0
        read = min(reused, self.marked)
        written = self.marked - read
        return Usage(
            input=self.prompt - self.marked,
            cache_write=written,
            cache_read=read,
            output=self.read if output else 0,
            thinking=self.thought if output else 0,
            reused=reused,
        )


def _asked(model: ServedModel, ask: Ask) -> Conversation:
    """What monitors read of a prompt; token ids as the text they are."""
    if ask.prompt is None:
        return ask.conversation
    return Conversation(messages=(user(model.tokenizer.decode(list(ask.prompt))),))
