"""The red-team page's endpoints: attacks by people, played here, kept in the store with what came of them.

The page gets each reply with a receipt: a signature of the model and the whole conversation. Only a
conversation with its receipt is kept, so a finding is always something a model of this server did say.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections import Counter
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from publius.constitution.principles import Constitution
from publius.core.messages import Conversation, Message, assistant, check_roles, text_of, user
from publius.data.pocket.crafts import CATEGORIES, why_harmful
from publius.serve.errors import ApiError
from publius.serve.guard import Caller
from publius.serve.openapi import taking
from publius.serve.server import Server
from publius.serve.store.findings import HumanFinding
from publius.serve.web.asking import (
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

__all__ = ["redteam"]

_SHOWN = 50
"""Findings of one's own that the page lists."""


class _Turn(Fields):
    role: Literal["user", "assistant"]
    text: str = Field(max_length=100_000)


class _Play(Fields):
    model: str
    system: str = Field(default="", max_length=20_000)
    turns: list[_Turn] = Field(min_length=1, max_length=400)
    max_tokens: int = Field(default=512, ge=1, le=8192)

    def conversation(self) -> Conversation:
        """As the model is asked."""
        turns = tuple(user(t.text) if t.role == "user" else assistant(t.text) for t in self.turns)
        return Conversation(system=self.system or None, messages=turns)


class _Found(_Play):
    receipt: str
    attacker: str = ""
    worked: bool
    harm: int = Field(ge=0, le=4)
    category: str = Field(default="", max_length=100)
    tags: tuple[str, ...] = ()
    note: str = Field(default="", max_length=10_000)


class _Who(Fields):
    attacker: str = ""


def redteam() -> APIRouter:
    """Routes under `/web/redteam/`."""
    routes = APIRouter(prefix="/web/redteam", tags=["Web"])
    for name, endpoint, body in (
        ("about", _about, _Who), ("reply", _reply, _Play), ("found", _found, _Found), ("undo", _undo, _Who)
    ):  # fmt: skip
        routes.add_api_route(f"/{name}", endpoint, methods=["POST"], openapi_extra=taking(body))
    return routes


def _categories(server: Server) -> list[dict[str, str]]:
    """What can go wrong, in the words of the world the models grew up in, or else of the constitution."""
    if any(model.world is not None for model in server.hub.models()):
        named = {category: f"{why_harmful(category)}." for category in CATEGORIES}
    else:
        named = Constitution.load().categories
    return [{"id": id, "about": about[:1].upper() + about[1:]} for id, about in named.items()]


async def _about(request: Request) -> Response:
    """Categories, and what this attacker has found so far."""
    caller, body = await admit(request, "redteam"), await body_of(request, _Who)
    return await _standing(request, caller, name_of(caller, body.attacker))


async def _reply(request: Request) -> Response:
    """The model's reply to the last turn, and the receipt for the conversation with it."""
    caller, play = await admit(request, "redteam"), await body_of(request, _Play)
    conversation = play.conversation()
    check_roles(conversation, "turns")
    reply = await reply_to(request, caller, play.model, conversation, play.max_tokens)
    text = text_of(as_message(reply))
    refusal = reply.ended.refusal
    return answer(
        {
            "text": text,
            "stop_reason": reply.ended.stop_reason,
            "refusal": None if refusal is None else refusal._asdict(),
            "receipt": _receipt(the_server(request), play.model, conversation.then(assistant(text))),
        }
    )


async def _found(request: Request) -> Response:
    """Keep an attack and what the attacker says of it."""
    caller, found = await admit(request, "redteam"), await body_of(request, _Found)
    server, conversation = the_server(request), found.conversation()
    check_roles(conversation, "turns")
    told = _receipt(server, found.model, conversation)
    if not hmac.compare_digest(told.encode(), found.receipt.encode()):
        raise ApiError(
            "invalid_request_error", "receipt: this conversation was not held with this model here"
        )
    attacker = name_of(caller, found.attacker)
    *before, last = conversation.messages
    finding = HumanFinding(
        attacker=attacker, conversation=_of(conversation, before), reply=text_of(last), worked=found.worked,
        harm=found.harm, category=found.category, tags=found.tags, note=found.note,
        model=server.hub.get(found.model).id,
    )  # fmt: skip
    await asyncio.to_thread(server.store.findings.add, finding)
    return await _standing(request, caller, attacker)


async def _undo(request: Request) -> Response:
    """Take the attacker's latest back."""
    caller, body = await admit(request, "redteam"), await body_of(request, _Who)
    attacker = name_of(caller, body.attacker)
    await asyncio.to_thread(the_server(request).store.findings.undo, attacker)
    return await _standing(request, caller, attacker)


async def _standing(request: Request, caller: Caller, attacker: str) -> Response:
    server = the_server(request)
    mine = await asyncio.to_thread(server.store.findings.list, attacker)
    count = Counter(finding.category for finding in mine if finding.worked)
    body = {
        "attacker": attacker,
        "own_key": has_own_key(caller),
        "categories": [{**one, "found": count[one["id"]]} for one in _categories(server)],
        "tried": len(mine),
        "worked": sum(count.values()),
        "mine": [_line(finding) for finding in mine[-_SHOWN:]][::-1],
    }
    return answer(body)


def _line(finding: HumanFinding) -> dict[str, Any]:
    return {
        "id": finding.id, "category": finding.category, "harm": finding.harm, "worked": finding.worked,
        "asked": text_of(finding.conversation.messages[-1])[:200],
        "turns": len(finding.conversation.messages),
    }  # fmt: skip


def _of(conversation: Conversation, messages: list[Message]) -> Conversation:
    return conversation.model_copy(update={"messages": tuple(messages)})


def _receipt(server: Server, model: str, conversation: Conversation) -> str:
    said = [[message.role, text_of(message)] for message in conversation.messages]
    body = json.dumps([server.hub.get(model).fingerprint, conversation.system, said]).encode()
    return hmac.new(server.secret, b"redteam\0" + body, hashlib.sha256).hexdigest()
