from __future__ import annotations

from typing import NamedTuple

from publius.serve.errors import ApiError


class Caller(NamedTuple):
    key_id: str
    name: str
    scopes: frozenset


class Guard:
    def __init__(self, store, *, key=None, open=False):
        self.key = key
        self.open = open

    async def admit(self, request, scope, *, keys):
        if self.key and self.key not in keys:
            raise ApiError("authentication_error", "invalid x-api-key")
        return Caller("", "x", frozenset())

    def headers(self, caller):
        return {}

    async def spent(self, caller, usage):
        pass

    def bearer_or_header(self, request):
        out = [request.headers.get("x-api-key")] if request.headers.get("x-api-key") else []
        a = request.headers.get("authorization", "")
        if a.lower().startswith("bearer "):
            out.append(a[7:])
        return out
