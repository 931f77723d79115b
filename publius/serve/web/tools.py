"""Tools a page can offer the model: a calculator it runs itself, and the almanac of a Pocket world."""

from __future__ import annotations

import asyncio
from functools import lru_cache
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from publius.core.messages import ToolSpec
from publius.data.pocket.tools import TOOLS
from publius.data.pocket.world import World
from publius.serve.errors import ApiError
from publius.serve.openapi import taking
from publius.serve.web.asking import Fields, admit, answer, body_of, the_server

__all__ = ["tools"]

_CALCULATOR = ToolSpec(
    name="calculator",
    description="Works out sums: + - * / % ^, brackets, sqrt and the like. Exact on whole numbers.",
    input_schema={
        "type": "object",
        "properties": {"expression": {"type": "string", "description": "for example (12 + 7) * 3"}},
        "required": ["expression"],
    },
)


class _Call(Fields):
    model: str
    input: dict[str, Any]


def tools() -> APIRouter:
    """`GET /web/tools` (what is offered for `?model=`), `POST /tools/almanac` (`{model, input}`)."""
    routes = APIRouter(tags=["Web"])
    routes.add_api_route("/web/tools", _offered, methods=["GET"])
    routes.add_api_route("/tools/almanac", _almanac, methods=["POST"], openapi_extra=taking(_Call))
    return routes


@lru_cache(maxsize=8)
def _world(path: Path) -> World:
    return World(path)


async def _offered(request: Request) -> Response:
    """Tools a page can offer, and whether the page itself runs them or asks the server."""
    await admit(request, "messages")
    hub = the_server(request).hub
    name = request.query_params.get("model")
    served = hub.get(name) if name else hub.models()[0]
    # a Pocket model knows its tools by the words it was trained with
    specs = TOOLS if served.world is not None else (_CALCULATOR,)
    return answer(
        {
            "tools": [
                {**spec.model_dump(), "runs": "page" if spec.name == "calculator" else "server"}
                for spec in specs
            ]
        }
    )


async def _almanac(request: Request) -> Response:
    """A birthday; a name nobody bears is a failed call, which the model gets to read."""
    await admit(request, "messages")
    call = await body_of(request, _Call)
    path = the_server(request).hub.get(call.model).world
    if path is None:
        raise ApiError("not_found_error", f"{call.model} has no almanac")
    asked = await asyncio.to_thread(lambda: _world(path).tools()["almanac"])
    try:
        return answer({"content": asked(call.input), "is_error": False})
    except KeyError:
        return answer({"content": "the almanac does not know that name", "is_error": True})
