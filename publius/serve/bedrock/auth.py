"""Who asks: an AWS access key by its signature, or a key of this server's as bearer token."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from starlette.requests import Request

from publius.serve.bedrock.errors import CredentialError
from publius.serve.bedrock.sigv4 import ALGORITHM, Received, Verifier
from publius.serve.errors import ApiError
from publius.serve.guard import Caller
from publius.serve.http import read_body
from publius.serve.server import Server

__all__ = ["admitted"]

_SCOPE = "messages"


async def admitted(server: Server, request: Request) -> tuple[Caller, bytes]:
    """The caller, and the body, which a signature covers.

    A signature that proves nothing (its secret is not held) counts as no key at all, which is enough on a
    server without keys of either kind.

    Raises:
        ApiError: no credentials, wrong ones, a key over its limits, a body too large.
    """
    config = server.config
    keys = server.guard.bearer_or_header(request)
    signed = request.headers.get("authorization", "").startswith(ALGORITHM)
    if keys or not signed:
        caller = await _by_key(server, request, keys)
        return caller, await read_body(request, config.body_bytes)
    verifier = Verifier(config.aws_keys, "presence" if config.aws_unverified else "verified")
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw]
    try:
        claim = verifier.claim(headers)
    except CredentialError as error:
        if error.exception != "UnrecognizedClientException":
            raise
        caller = await _by_key(server, request, [], error)
        return caller, await read_body(request, config.body_bytes)
    body = await read_body(request, config.body_bytes)
    scope = request.scope
    verifier.verify(claim, Received(request.method, scope["raw_path"], scope["query_string"], headers, body))
    if not verifier.holds(claim):
        return Caller("", claim.key_id, frozenset({_SCOPE})), body
    return await _proved(server, claim.key_id), body


async def _proved(server: Server, key_id: str) -> Caller:
    """Who signed. An access-key id that is the id of a key of this server's has that key's scopes, limits and
    budget; another may ask for messages as much as it likes."""
    keys = await asyncio.to_thread(server.store.keys.all)
    if any(key.id == key_id for key in keys):
        return await server.guard.admit_known(key_id, _SCOPE)
    return Caller(f"aws:{key_id}", key_id, frozenset({_SCOPE}))


async def _by_key(
    server: Server, request: Request, keys: Sequence[str], otherwise: CredentialError | None = None
) -> Caller:
    """By the guard; where there is no key to judge, its refusal is told in AWS's words. Access keys close a
    server that is open without them."""
    refusal = otherwise or CredentialError(
        "MissingAuthenticationTokenException", "Missing Authentication Token"
    )
    if not keys and server.config.aws_keys:
        raise refusal
    try:
        return await server.guard.admit(request, _SCOPE, keys=keys)
    except ApiError as error:
        if keys or error.type != "authentication_error":
            raise
        raise refusal from None
