"""`/tokenize`, `/detokenize` and `/tokenizer_info`: a served model's tokenizer, for programs that have none.

lm-eval looks for these (as vLLM has them) and then needs no tokenizer of its own. It asks without a key, so
they are open.
"""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import Request
from pydantic import BaseModel, ConfigDict
from starlette.responses import JSONResponse, Response

from publius.serve.errors import ApiError
from publius.serve.http import compact, read_json
from publius.serve.hub import ServedModel
from publius.serve.openai.body import invalid, parsed
from publius.serve.openai.conversation import conversation, tool_specs
from publius.serve.server import Server
from publius.tokenizer.special import BOS, END, PAD

__all__ = ["DetokenizeBody", "TokenizeBody", "detokenize", "tokenize", "tokenizer_info"]

MOST_BYTES = 1 << 20
"""Of a request: no key is asked for, so no more is taken in than a text of 200,000 tokens."""


class TokenizeBody(BaseModel):
    """`POST /tokenize`: a text, or a chat as the model would be shown it."""

    model_config = ConfigDict(extra="ignore")

    model: str | None = None
    prompt: str | None = None
    messages: list[Any] | None = None
    tools: list[Any] | None = None
    add_special_tokens: bool = True
    return_token_strs: bool | None = None


class DetokenizeBody(BaseModel):
    """`POST /detokenize`."""

    model_config = ConfigDict(extra="ignore")

    model: str | None = None
    tokens: list[Any]


async def tokenize(server: Server, request: Request) -> Response:
    """The ids of a text or a chat.

    A text that is a special token's name and nothing else is that token (so does lm-eval learn their ids);
    within a text such a name is only letters.
    """
    body = parsed(TokenizeBody, await read_json(request, MOST_BYTES))
    served = _served(server, body.model)
    if (body.prompt is None) == (body.messages is None):
        raise invalid("prompt", "give either prompt or messages")
    # All of it in a thread: a million tokens, which anybody may ask for, would keep everyone else waiting.
    answer = await asyncio.to_thread(_tokenized, body, served)
    return Response(answer, media_type="application/json")


def _tokenized(body: TokenizeBody, served: ServedModel) -> bytes:
    ids = _ids(body, served)
    answer: dict[str, Any] = {"count": len(ids), "max_model_len": served.context, "tokens": ids}
    if body.return_token_strs:
        texts = {token: served.tokenizer.decode([token]) for token in set(ids)}
        answer["token_strs"] = [texts[token] for token in ids]
    return compact(answer)


def _ids(body: TokenizeBody, served: ServedModel) -> list[int]:
    tokenizer = served.tokenizer
    if body.prompt is None:
        talk = conversation(body.messages or [], tool_specs(body.tools))
        return served.renderer.prompt(talk)
    if body.prompt in tokenizer.special:
        return [tokenizer.special[body.prompt]]
    head = [tokenizer.bos_id] if body.add_special_tokens else []
    return [*head, *tokenizer.encode(body.prompt)]


async def detokenize(server: Server, request: Request) -> Response:
    """The text of ids; special ones by their names."""
    body = parsed(DetokenizeBody, await read_json(request, MOST_BYTES))
    tokenizer = _served(server, body.model).tokenizer
    for place, token in enumerate(body.tokens):
        if type(token) is not int or not 0 <= token < tokenizer.vocab_size:
            raise invalid(
                f"tokens[{place}]", f"{str(token)[:40]!r} is no token id below {tokenizer.vocab_size}"
            )
    return JSONResponse({"prompt": await asyncio.to_thread(tokenizer.decode, body.tokens)})


async def tokenizer_info(server: Server, request: Request) -> Response:
    """What the tokenizer's own files say of it: special tokens, chat template."""
    served = _served(server, request.query_params.get("model"))
    return JSONResponse(
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": BOS,
            "eos_token": END,
            "pad_token": PAD,
            "add_bos_token": True,
            "vocab_size": served.tokenizer.vocab_size,
            "model_max_length": served.context,
            "chat_template": served.renderer.chat_template(),
        }
    )


def _served(server: Server, model: str | None) -> ServedModel:
    """The model that is named, or the first."""
    if model is not None:
        return server.hub.get(model)
    served = server.hub.models()
    if not served:
        raise ApiError("not_found_error", "no model is served")
    return served[0]
