"""The routes of OpenAI's API. `GET /v1/models` is shared by all dialects and not here."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from publius.serve.guard import Caller
from publius.serve.http import request_id
from publius.serve.openai.body import ChatBody, CompletionBody
from publius.serve.openai.chat import chat
from publius.serve.openai.completions import completions
from publius.serve.openai.tokenize import DetokenizeBody, TokenizeBody, detokenize, tokenize, tokenizer_info
from publius.serve.openapi import taking
from publius.serve.server import Server

__all__ = ["router"]


def router(server: Server) -> APIRouter:
    """Routes under /v1 for chat and completions, and the tokenizer's at the root."""
    routes = APIRouter(tags=["openai"])

    async def admitted(request: Request) -> Caller:
        return await server.guard.admit(request, "messages", keys=server.guard.bearer_or_header(request))

    def named(response: Response, request: Request, caller: Caller | None = None) -> Response:
        """With the headers OpenAI's clients read."""
        response.headers["x-request-id"] = request_id(request)
        if caller is not None:
            response.headers.update(server.guard.headers(caller))
        return response

    @routes.post("/v1/chat/completions", openapi_extra=taking(ChatBody, "A reply to a chat"))
    async def chat_completions(request: Request) -> Response:
        caller = await admitted(request)
        return named(await chat(server, request, caller), request, caller)

    @routes.post("/v1/completions", openapi_extra=taking(CompletionBody, "A text continued, or scored"))
    async def text_completions(request: Request) -> Response:
        caller = await admitted(request)
        return named(await completions(server, request, caller), request, caller)

    @routes.post("/tokenize", openapi_extra=taking(TokenizeBody, "The token ids of a text or a chat"))
    async def to_ids(request: Request) -> Response:
        return named(await tokenize(server, request), request)

    @routes.post("/detokenize", openapi_extra=taking(DetokenizeBody, "The text of token ids"))
    async def to_text(request: Request) -> Response:
        return named(await detokenize(server, request), request)

    @routes.get("/tokenizer_info", summary="Special tokens and the chat template")
    async def info(request: Request) -> Response:
        return named(await tokenizer_info(server, request), request)

    return routes
