"""The compare page's endpoints: pairs of blind answers out, what people say of them into the store.

Which answer stands on the left is drawn by the store for each rater, so a client neither knows nor decides
it, and no name of a model leaves here.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import deque
from typing import Any

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from publius.core.errors import UserError
from publius.core.messages import Conversation, Message, user
from publius.data.files import Line, read_lines
from publius.data.pair_shapes import prompt_of
from publius.serve.errors import ApiError
from publius.serve.guard import Caller
from publius.serve.openapi import taking
from publius.serve.server import Server
from publius.serve.store import Store
from publius.serve.store.comparisons import Better, Comparison, Pair, Said, Shown
from publius.serve.web.asking import (
    SETTINGS,
    Fields,
    admit,
    answer,
    as_message,
    body_of,
    has_own_key,
    name_of,
    reply_to,
    the_server,
)

__all__ = ["Queue", "compare"]

_TRIES = 3
"""How often two answers that came out alike are drawn again."""
_FRUITLESS = 8
"""Prompts of the queue given up in one request because their answers stay alike."""
_FROM = "queue"
"""Name in a prompt's `meta` of what it is known by in the queue."""


class Queue:
    """Prompts of a file that no pair has been made of, in order.

    Args:
        path: JSONL; "" for none.

    Raises:
        UserError: naming a line that holds no prompt.
    """

    def __init__(self, path: str, store: Store) -> None:
        lines = read_lines(path) if path else ()
        prompts = [_known(prompt_of(_row(path, line), f"{path}:{line.number}")) for line in lines]
        self.total = len(prompts)
        done = {pair.prompt.meta.get(_FROM) for pair, _ in store.comparisons.all()} if prompts else set()
        self._waiting = deque(prompt for prompt in prompts if prompt.meta[_FROM] not in done)

    @property
    def left(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def take(self) -> Conversation | None:
        """The next one; None when there is none."""
        return self._waiting.popleft() if self._waiting else None

    def put_back(self, prompt: Conversation) -> None:
        """For when no pair came of it."""
        self._waiting.appendleft(prompt)


def _known(prompt: Conversation) -> Conversation:
    """The prompt with its digest: a queue that is moved or gets further lines is the same queue."""
    digest = hashlib.sha256(prompt.model_dump_json().encode()).hexdigest()[:16]
    return prompt.model_copy(update={"meta": {**prompt.meta, _FROM: digest}})


def _row(path: str, line: Line) -> dict[str, Any]:
    try:
        row = json.loads(line.text)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise UserError(
            "a line is no JSON object", where=f"{path}:{line.number}", fix='write {"prompt": "..."}'
        )
    return row


class _Asked(Fields):
    rater: str = ""
    models: list[str] = Field(default=[], max_length=2)
    max_tokens: int = Field(default=512, ge=1, le=8192)


class _Written(_Asked):
    text: str = Field(min_length=1, max_length=20_000)
    system: str = Field(default="", max_length=20_000)


class _SaidBody(_Asked):
    pair: str
    better: Better
    harm_left: int | None = None
    harm_right: int | None = None
    tags: tuple[str, ...] = ()
    seconds: float | None = None


def compare(server: Server) -> APIRouter:
    """Routes under `/web/compare/`.

    Raises:
        UserError: for a file of prompts that cannot be read.
    """
    page = _Compare(Queue(server.config.compare_prompts, server.store))
    routes = APIRouter(prefix="/web/compare", tags=["Web"])
    for name, endpoint, body in (
        ("next", page.next, _Asked), ("write", page.write, _Written), ("say", page.say, _SaidBody),
        ("undo", page.undo, _Asked),
    ):  # fmt: skip
        routes.add_api_route(f"/{name}", endpoint, methods=["POST"], openapi_extra=taking(body))
    routes.add_api_route("/export", page.export, methods=["GET"])
    return routes


class _Compare:
    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    async def next(self, request: Request) -> Response:
        """A pair to look at: one in the store that this rater has not seen, or a new one of the queue."""
        caller, body = await admit(request, "label"), await body_of(request, _Asked)
        rater = name_of(caller, body.rater)
        shown = await asyncio.to_thread(the_server(request).store.comparisons.next, rater)
        if shown is None:
            shown = await self._queued(request, caller, rater, body)
        return await self._answer(request, caller, rater, shown)

    async def write(self, request: Request) -> Response:
        """A pair of answers to a prompt of the rater's own."""
        caller, body = await admit(request, "label"), await body_of(request, _Written)
        rater = name_of(caller, body.rater)
        prompt = Conversation(system=body.system or None, messages=(user(body.text),))
        pair = await self._pair(request, caller, prompt, body)
        if pair is None:
            raise ApiError(
                "invalid_request_error",
                "text: the answers came out alike each time; ask something else, or compare two models",
            )
        shown = await asyncio.to_thread(the_server(request).store.comparisons.show, pair.id, rater)
        return await self._answer(request, caller, rater, shown)

    async def say(self, request: Request) -> Response:
        """Keep what the rater says of a pair."""
        caller, body = await admit(request, "label"), await body_of(request, _SaidBody)
        rater = name_of(caller, body.rater)
        said = Comparison(
            body.pair, rater, body.better, body.harm_left, body.harm_right, body.tags, body.seconds
        )
        await asyncio.to_thread(the_server(request).store.comparisons.add, said)
        return await self._answer(request, caller, rater, None)

    async def undo(self, request: Request) -> Response:
        """Take the rater's latest back, and show that pair again with what they had said."""
        caller, body = await admit(request, "label"), await body_of(request, _Asked)
        rater, comparisons = name_of(caller, body.rater), the_server(request).store.comparisons
        said = await asyncio.to_thread(comparisons.undo, rater)
        shown = await asyncio.to_thread(comparisons.show, said.pair, rater) if said else None
        return await self._answer(request, caller, rater, shown, said)

    async def export(self, request: Request) -> Response:
        """Every compared pair as a preference record, one a line, for `ingest_preferences`."""
        await admit(request, "admin")
        store = the_server(request).store
        lines = await asyncio.to_thread(
            lambda: [json.dumps(record) + "\n" for record in store.comparisons.export()]
        )
        headers = {**SETTINGS, "content-disposition": 'attachment; filename="preferences.jsonl"'}
        return Response("".join(lines), headers=headers, media_type="application/x-ndjson")

    async def _queued(self, request: Request, caller: Caller, rater: str, asked: _Asked) -> Shown | None:
        for _ in range(_FRUITLESS):
            prompt = self._queue.take()
            if prompt is None:
                return None
            pair = None
            try:
                pair = await self._pair(request, caller, prompt, asked)
            except BaseException:
                self._queue.put_back(prompt)
                raise
            if pair is not None:
                return await asyncio.to_thread(the_server(request).store.comparisons.show, pair.id, rater)
        return None

    async def _pair(
        self, request: Request, caller: Caller, prompt: Conversation, asked: _Asked
    ) -> Pair | None:
        """Two different answers, by two models or by one twice; None when they stay alike."""
        server = the_server(request)
        models = asked.models or [server.hub.models()[0].id]
        names = (models[0], models[-1])
        for attempt in range(_TRIES):
            one, other = await asyncio.gather(
                *(
                    reply_to(request, caller, name, prompt, asked.max_tokens, stream=2 * attempt + side)
                    for side, name in enumerate(names)
                )
            )
            messages = as_message(one), as_message(other)
            if messages[0] != messages[1]:
                ids = (server.hub.get(names[0]).id, server.hub.get(names[1]).id)
                return await asyncio.to_thread(
                    server.store.comparisons.add_pair, prompt, *messages, models=ids
                )
        return None

    async def _answer(
        self, request: Request, caller: Caller, rater: str, shown: Shown | None, said: Said | None = None
    ) -> Response:
        comparisons = the_server(request).store.comparisons
        progress, agreement = await asyncio.to_thread(
            lambda: (comparisons.progress(), comparisons.agreement())
        )
        mine = progress.by_rater.get(rater, 0)
        body = {
            "rater": rater,
            "own_key": has_own_key(caller),
            "pair": None if shown is None else _as_shown(shown),
            "said": None if said is None else _as_said(said),
            "progress": {
                "mine": mine, "compared": progress.compared, "pairs": progress.pairs,
                "left": max(progress.pairs - mine, 0) + self._queue.left, "queue": self._queue.total,
                "raters": len(progress.by_rater),
            },
            "agreement": agreement._asdict(),
        }  # fmt: skip
        return answer(body)


def _as_shown(shown: Shown) -> dict[str, Any]:
    return {
        "id": shown.pair,
        "system": shown.prompt.system,
        "messages": [_blocks(message) for message in shown.prompt.messages],
        "left": _blocks(shown.left)["content"],
        "right": _blocks(shown.right)["content"],
    }


def _blocks(message: Message) -> dict[str, Any]:
    content = [block.model_dump(exclude={"signature"}) for block in message.content]
    return {"role": message.role, "content": content}


def _as_said(said: Said) -> dict[str, Any]:
    """In the rater's own terms again: left and right."""
    sides = {"one": "left", "other": "right", "tie": "tie"}
    harm = said.harm_one, said.harm_other
    if said.swapped:
        sides |= {"one": "right", "other": "left"}
        harm = harm[::-1]
    return {"better": sides[said.better], "harm_left": harm[0], "harm_right": harm[1], "tags": said.tags}
