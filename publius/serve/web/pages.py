"""The pages and their files, from the package's data, under a policy: they ask nobody but this server."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

from fastapi import APIRouter, Request, Response

__all__ = ["POLICY", "pages"]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The Content-Security-Policy of every page and file."""
_HERE = Path(__file__).parent
_PAGES = {"/": "chat", "/compare": "compare", "/redteam": "redteam"}
_TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}


class _File(NamedTuple):
    body: bytes
    type: str
    tag: str


def _file(body: bytes, type: str) -> _File:
    return _File(body, type, f'"{hashlib.sha256(body).hexdigest()[:32]}"')


def _page(name: str) -> _File:
    header = (_HERE / "header.html").read_text("utf-8").strip()
    menu = (_HERE / "menu.html").read_text("utf-8").strip() if name == "chat" else ""
    here = header.replace("<!--menu-->", menu).replace(f'data-page="{name}"', 'aria-current="page"')
    html = (_HERE / f"{name}.html").read_text("utf-8").replace("<!--header-->", here)
    return _file(html.encode(), "text/html; charset=utf-8")


def _answer(request: Request, file: _File) -> Response:
    headers = {
        "content-security-policy": POLICY,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cache-control": "no-cache",
        "etag": file.tag,
    }
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if file.tag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(file.body, media_type=file.type, headers=headers)


def pages() -> APIRouter:
    """`/`, `/compare`, `/redteam` and `/web/{file}`, read once. They hold no secret and ask for no key: what
    they fetch from the API does."""
    routes = APIRouter(include_in_schema=False)
    files = {
        f"/web/{p.name}": _file(p.read_bytes(), _TYPES[p.suffix])
        for p in _HERE.iterdir()
        if p.suffix in _TYPES
    }
    files |= {path: _page(name) for path, name in _PAGES.items()}

    def serve(file: _File):
        async def answer(request: Request) -> Response:
            return _answer(request, file)

        return answer

    for path, file in files.items():
        routes.add_api_route(path, serve(file), methods=["GET", "HEAD"])
    return routes
