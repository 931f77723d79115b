"""The description of the API, at `/openapi.json`: bodies that endpoints read themselves, made whole.

Endpoints give the JSON schema of their body with its definitions inside (`taking`); a reference must point to
one place of the whole document, so definitions are moved there.
"""

from __future__ import annotations

import re
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

__all__ = ["describe", "taking"]

_WITHIN = "#/$defs/"


def taking(body: type[BaseModel], summary: str = "") -> dict[str, Any]:
    """`openapi_extra` of an endpoint that reads a JSON body itself."""
    content = {"application/json": {"schema": body.model_json_schema()}}
    extra: dict[str, Any] = {"requestBody": {"required": True, "content": content}}
    return {**extra, "summary": summary} if summary else extra


def describe(app: FastAPI) -> dict[str, Any]:
    """The document of `app`, made once."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes)
        shared: dict[str, Any] = document.setdefault("components", {}).setdefault("schemas", {})
        for path, operations in document.get("paths", {}).items():
            for operation in operations.values():
                _name_parameters(path, operation)
                for content in operation.get("requestBody", {}).get("content", {}).values():
                    content["schema"] = _hoisted(content["schema"], shared)
        app.openapi_schema = document
    return app.openapi_schema


def _name_parameters(path: str, operation: dict[str, Any]) -> None:
    """Endpoints read the parameters of their path themselves, too."""
    given = operation.setdefault("parameters", [])
    named = {one["name"] for one in given if one["in"] == "path"}
    for name in re.findall(r"{(\w+)}", path):
        if name not in named:
            given.append({"name": name, "in": "path", "required": True, "schema": {"type": "string"}})


def _hoisted(schema: dict[str, Any], shared: dict[str, Any]) -> dict[str, Any]:
    """`schema` without definitions of its own; different ones of a name are told apart by their owner's."""
    own = schema.pop("$defs", {})
    moved = {name: _pointing(found, {}) for name, found in own.items()}
    clashing = {name for name, found in moved.items() if shared.get(name, found) != found}
    names = {name: f"{schema.get('title', 'Body')}{name}" for name in clashing}
    for name, found in own.items():
        shared[names.get(str(name), str(name))] = _pointing(found, names)
    return _pointing(schema, names)


def _pointing(node: Any, names: dict[str, str]) -> Any:
    if isinstance(node, list):
        return [_pointing(one, names) for one in node]
    if not isinstance(node, dict):
        return node
    found = {key: _pointing(value, names) for key, value in node.items()}
    reference = found.get("$ref")
    if isinstance(reference, str) and reference.startswith(_WITHIN):
        name = reference.removeprefix(_WITHIN)
        found["$ref"] = f"#/components/schemas/{names.get(name, name)}"
    return found
