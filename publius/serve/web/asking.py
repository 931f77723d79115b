"""What the endpoints of the pages share: who asks, what their bodies hold, a reply from a model."""

from __future__ import annotations

import json
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from publius.core.messages import Conversation, Message, assistant
from publius.inference.engine import Sampling
from publius.serve.errors import ApiError
from publius.serve.exchange import Ask
from publius.serve.guard import Caller
from publius.serve.http import read_json, request_id
from publius.serve.replies import whole
from publius.serve.server import Reply, Server
from publius.serve.store.words import one_line

__all__ = [
    "SETTINGS",
    "Fields",
    "admit",
    "answer",
    "as_message",
    "body_of",
    "has_own_key",
    "name_of",
    "reply_to",
    "the_server",
]

_F = TypeVar("_F", bound="Fields")
_BODY = 1 << 20
SETTINGS = {
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
}
"""Headers of every JSON answer to a page."""


class Fields(BaseModel):
    """A body; what it does not know is let through unread."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


def the_server(request: Request) -> Server:
    """The server that was asked."""
    return request.app.state.server


async def admit(request: Request, scope: str) -> Caller:
    """Who asks.

    Raises:
        ApiError: a key that is missing, unknown, spent, or not for `scope`.
    """
    guard = the_server(request).guard
    return await guard.admit(request, scope, keys=guard.bearer_or_header(request))


async def body_of(request: Request, kind: type[_F]) -> _F:
    """The request's body.

    Raises:
        ApiError: naming the first field that is wrong.
    """
    found = await read_json(request, _BODY)
    try:
        return kind.model_validate_json(json.dumps(found))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ApiError("invalid_request_error", f"{place}: {first['msg']}") from None


def has_own_key(caller: Caller) -> bool:
    """Whether the key is theirs alone: made for them, not the environment's, and not none at all."""
    return caller.key_id not in ("", "environment")


def name_of(caller: Caller, given: str) -> str:
    """Under which name what people say is kept: that of their own key, or else the one they give.

    Raises:
        UserError: for a name that is no short line.
    """
    return caller.name if has_own_key(caller) else one_line(given or "anonymous", "the name")


def answer(body: object, status: int = 200) -> Response:
    """JSON to a page."""
    text = json.dumps(body, ensure_ascii=False, allow_nan=False)
    return Response(text.encode(), status, SETTINGS, "application/json")


async def reply_to(
    request: Request,
    caller: Caller,
    model: str,
    conversation: Conversation,
    max_tokens: int,
    *,
    stream: int = 0,
) -> Reply:
    """A whole reply at temperature 1, through the choke-point as any other, while the client waits for it.

    Raises:
        ApiError: as `Server.exchange`.
    """
    ask = Ask(model, conversation, max_tokens, Sampling(temperature=1.0), stream=stream)
    return await whole(request, the_server(request), ask, caller, request_id(request))


def as_message(reply: Reply) -> Message:
    """A reply as the assistant's message; what a monitor declined says so."""
    if reply.ended.refusal is not None and not reply.blocks:
        return assistant(reply.ended.refusal.explanation)
    return assistant([block.model_dump() for block in reply.blocks] or "")
