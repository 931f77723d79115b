"""The pages a browser gets: chat, compare, red team."""

from __future__ import annotations

from fastapi import APIRouter

from publius.serve.server import Server
from publius.serve.web.compare import compare
from publius.serve.web.pages import pages
from publius.serve.web.redteam import redteam
from publius.serve.web.tools import tools

__all__ = ["router"]


def router(server: Server) -> APIRouter:
    """Pages at `/`, `/compare` and `/redteam`, their files and their endpoints.

    Raises:
        UserError: for a file of prompts to compare that cannot be read.
    """
    routes = APIRouter()
    for part in (pages(), tools(), compare(server), redteam()):
        routes.include_router(part)
    return routes
