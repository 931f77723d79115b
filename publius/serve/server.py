"""The choke-point: every endpoint's exchange passes here, whatever dialect asked for it.

    who may ask -> which model -> what the prompt is -> monitors -> engine -> blocks -> monitors -> events

Nothing reaches a model, and nothing a model wrote leaves, by another way; what it thinks of a given text is
told by `scoring`, under the same monitors.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator
from typing import NamedTuple

from publius.core.messages import ThinkingBlock
from publius.inference.engine import Request, Sampling
from publius.inference.guide import thinking_open
from publius.safety.audit import AuditLog
from publius.serve.blocks import BlockReader, Part, Says
from publius.serve.config import ServeConfig
from publius.serve.errors import ApiError
from publius.serve.exchange import Ask, Began, BlockEnded, Drawn, Ended, Event, Idle, Pause, Piece, ReplyBlock
from publius.serve.guard import Caller, Guard
from publius.serve.holdback import HoldBack
from publius.serve.hub import Hub
from publius.serve.metrics import Metrics
from publius.serve.prompt import as_read, checked, marked, prompt_ids, sampling_of, takes_long
from publius.serve.signatures import unseal
from publius.serve.store import Store
from publius.serve.turn import Turn
from publius.serve.worker import Generation

__all__ = ["Reply", "Server"]

_log = logging.getLogger("publius.serve")


class Reply(NamedTuple):
    """A whole reply."""

    blocks: tuple[ReplyBlock, ...]
    ended: Ended
    drawn: tuple[Drawn, ...]
    """All tokens of the reply, in order, where the asker wants them told."""


class Server:
    """What endpoints share, at `request.app.state.server`.

    Args:
        config, hub, store, guard: its parts.
        audit: where every exchange is recorded; None records none.
    """

    def __init__(
        self, config: ServeConfig, hub: Hub, store: Store, guard: Guard, audit: AuditLog | None = None
    ) -> None:
        self.config, self.hub, self.store, self.guard = config, hub, store, guard
        self.audit, self._unrecorded = audit, False
        self.metrics = Metrics(hub)
        self.secret = store.secret()
        self.draining = False
        self._live: set[Generation] = set()

    def restore(self, block: ThinkingBlock) -> ThinkingBlock | None:
        """A thinking block a client sends back, with its thinking where that was left out; None for one that
        no model served here wrote."""
        for model in self.hub.models():
            thought = unseal(self.secret, model.id, block.signature)
            if thought is not None and block.thinking in ("", thought):
                return block.model_copy(update={"thinking": thought})
        return None

    def count(self, ask: Ask) -> int:
        """Tokens of the prompt, as `Usage.prompt` will say.

        Raises:
            ApiError: unknown model; UserError: a conversation that cannot be rendered.
        """
        return len(prompt_ids(self.hub.get(ask.model), ask))

    async def exchange(self, ask: Ask, caller: Caller, request_id: str) -> AsyncGenerator[Event, None]:
        """Answer; events as `exchange` (the file) tells. Closing the generator cancels what still runs.

        Raises:
            ApiError: unknown model, a prompt too long, too many waiting, out of time, stopping.
            UserError: what the engine refuses (a grammar that cannot be kept).
        """
        began = time.monotonic()
        model = self.hub.get(ask.model)
        long = takes_long(ask.conversation)
        ids = await asyncio.to_thread(prompt_ids, model, ask) if long else prompt_ids(model, ask)
        checked(model, ids)
        self.refuse_if_draining()
        if self._unrecorded:
            raise ApiError("api_error", "the audit log cannot be written, so nothing is answered")
        cached = await asyncio.to_thread(marked, model, ask, ids) if long else marked(model, ask, ids)
        turn = Turn(model, ask, caller, request_id, began, len(ids), cached, self.secret)
        layers = model.monitors
        watching = layers.watch(as_read(model, ask), prompt=ids) if layers.monitors else None
        verdict = watching.prompt() if watching is not None else None
        if verdict is not None and verdict.action == "block":
            yield Began(turn.usage())
            yield turn.ended("refusal", verdict)
            await self._settle(turn)
            return
        if ask.max_tokens == 0:
            request = Request(ids, Sampling(), targets={}, priority=ask.priority)
        else:
            request = Request(ids, sampling_of(model, ask, ids), stream=ask.stream, priority=ask.priority)
            request.probe = layers.probe
        request.deadline = began + self.config.timeout
        generation = model.worker.submit(request, gathers=layers.gathers)
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
        self, turn: Turn, generation: Generation, hold: HoldBack
    ) -> AsyncGenerator[Event, None]:
        request, model, raw = generation.request, turn.model, turn.ask.prompt is not None
        thinks = not raw and thinking_open(request.prompt, model.tokenizer)
        opening = "thinking" if thinks else "text"
        reader = BlockReader(
            model.tokenizer, request.sampling.stop, opening=opening, raw=raw,
            goes_on=model.renderer.goes_on(request.prompt),
        )  # fmt: skip
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
                    yield Pause()
                continue
            if not turn.read:
                self.metrics.first(model.id, time.monotonic() - turn.began)
            parts = turn.take(reader, tokens)
            if over:
                parts += reader.finish(request.stop_sequence)
            kept = None if request.trunk is None else request.trunk.values_TD
            leaving = hold.take(
                _joined(parts), request.readings[: turn.read], done=over, drawn=request.tokens, trunk_TD=kept
            )
            slow = hold.slow(turn.read, done=over)
            for part in await asyncio.to_thread(list, leaving) if slow else leaving:
                yield turn.event(part)
            if hold.blocked:
                for event in turn.break_off():
                    yield event
                yield turn.ended("refusal", hold.verdict)
                return
            if not over:
                yield Pause()
        if request.stop_reason == "deadline":
            raise ApiError("timeout_error", f"the reply took longer than {self.config.timeout:g} s")
        yield turn.ended(turn.why(reader), hold.verdict)

    async def _settle(self, turn: Turn) -> None:
        """The books: metrics, log, limits, budget. Of what never ran there are none."""
        if turn.request is not None and turn.request.reused is None:
            return
        usage, reason = turn.usage(), turn.reason or "cancelled"
        seconds = time.monotonic() - turn.began
        self.metrics.exchange(turn.model.id, reason, usage, seconds)
        spoke = turn.verdict is not None and turn.verdict.action != "allow"
        if turn.verdict is not None and spoke:
            self.metrics.monitor(turn.verdict)
        _log.info(
            "exchange",
            extra={
                "request_id": turn.request_id, "model": turn.model.id, "key": turn.caller.key_id,
                "stop_reason": reason, "seconds": round(seconds, 4), **usage._asdict(),
                **({"monitor": turn.verdict._asdict()} if turn.verdict is not None and spoke else {}),
                **(_content(turn) if self.config.log_content else {}),
            },
        )  # fmt: skip
        if self.audit is not None:
            await asyncio.shield(asyncio.to_thread(self._record, self.audit, turn, seconds))
        if turn.ask.stream:  # of several replies to one prompt the first pays for it, as the client is told
            usage = usage._replace(input=0, cache_write=0, cache_read=0)
        await self.guard.spent(turn.caller, usage)  # waits for nothing, so that nothing can cut it off

    def _record(self, audit: AuditLog, turn: Turn, seconds: float) -> None:
        """What cannot be recorded is the last that was answered."""
        said, spoke = _content(turn), [] if turn.verdict is None else [turn.verdict]
        versions = {"model": turn.model.fingerprint, "monitors": turn.model.admitted.monitors or "none"}
        try:
            audit.append(
                turn.request_id, spoke, asked=json.dumps(said["asked"]), replied=str(said["replied"]),
                versions=versions, milliseconds=1000 * seconds,
            )  # fmt: skip
        except OSError:
            self._unrecorded = True
            _log.exception("the audit log cannot be written: nothing more is answered")

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

    def refuse_if_draining(self) -> None:
        """Raises:
        ApiError: overloaded, when the server is stopping.
        """
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


def _joined(parts: list[Part]) -> list[Part]:
    """Texts that came together as one: a reader that fell behind is told once."""
    joined: list[Part] = []
    for part in parts:
        if isinstance(part, Says) and joined and isinstance(last := joined[-1], Says):
            joined[-1] = Says(last.text + part.text)
        else:
            joined.append(part)
    return joined


def _content(turn: Turn) -> dict[str, object]:
    """What was asked and replied, for a log that may hold it."""
    asked = as_read(turn.model, turn.ask).model_dump(mode="json", exclude={"meta"})
    ids = turn.request.tokens if turn.request is not None else []
    return {"asked": asked, "replied": turn.model.tokenizer.decode(list(ids))}
