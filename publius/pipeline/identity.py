"""Identity: what an artifact is called, and why it moved.

The id is the sha256 of the stage function's name, its version, the canonical config, the ids of
the inputs, and the stage's fingerprint of outside files if it has one. Nothing else: not the name
of the node, not the machine, not how fast it ran.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from publius.core.config import canonical
from publius.core.errors import UserError
from publius.pipeline.artifact import Record
from publius.pipeline.recipe import Node, Recipe

__all__ = ["Identity", "changes", "identify"]


class Identity(NamedTuple):
    """One node with its id, and the parts that the id was made from."""

    node: Node
    id: str
    config: dict[str, Any]
    inputs: dict[str, str | list[str]]
    fingerprint: Any

    @property
    def folder(self) -> str:
        """`<stage>-<id12>`, the artifact's folder name."""
        return f"{self.node.stage.name}-{self.id[:12]}"


def identify(recipe: Recipe, until: str | None = None) -> list[Identity]:
    """The identity of every node (up to and with `until`), in order, before any compute."""
    nodes = recipe.ancestors(until) if until else list(recipe.nodes.values())
    if not nodes:
        raise UserError(
            "the recipe has no stages", where=f"recipe {recipe.name}", fix="add some with recipe.stage(...)"
        )
    known: dict[str, Identity] = {}
    made: dict[str, Node] = {}
    for node in nodes:
        known[node.name] = _identify(node, known)
        first = made.setdefault(known[node.name].id, node)
        if first.stage.function is not node.stage.function:
            raise UserError(
                f"two stage functions are called {node.stage.name!r}: one would be given what the other made",
                where=f"recipe {recipe.name}, stages {first.name} and {node.name}",
                fix="rename one of them, or give it another version",
            )
    return list(known.values())


def _identify(node: Node, known: Mapping[str, Identity]) -> Identity:
    stage = node.stage
    try:
        config = canonical(node.config)
        fingerprint = (
            None if stage.fingerprint is None else canonical(stage.fingerprint(node.config), "fingerprint")
        )
    except TypeError as error:
        raise UserError(
            str(error), where=f"stage {node.name}", fix="use text, numbers, lists and dicts only"
        ) from None
    inputs: dict[str, str | list[str]] = {
        key: [known[n.name].id for n in given] if isinstance(given, list) else known[given.name].id
        for key, given in sorted(node.inputs.items())
    }
    parts: dict[str, Any] = {
        "stage": stage.name,
        "version": stage.version,
        "config": config,
        "inputs": inputs,
    }
    if fingerprint is not None:
        parts["fingerprint"] = fingerprint
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return Identity(node, hashlib.sha256(text.encode()).hexdigest(), config, inputs, fingerprint)


def changes(now: Identity, before: Record) -> list[str]:
    """What moved the identity since `before`: `field: old -> new`, `input name`, `version: 1 -> 2`."""
    stage = now.node.stage
    if before.stage != stage.name:
        return [f"function: {before.stage} -> {stage.name}"]
    found = [] if before.version == stage.version else [f"version: {before.version} -> {stage.version}"]
    old, new = _flat(before.config), _flat(now.config)
    for key in sorted(old.keys() | new.keys()):
        if key not in old:
            found.append(f"{key}: new field, {_short(new[key])}")
        elif key not in new:
            found.append(f"{key}: field removed, was {_short(old[key])}")
        elif old[key] != new[key]:
            found.append(f"{key}: {_short(old[key])} -> {_short(new[key])}")
    names = sorted(before.inputs.keys() | now.inputs.keys())
    found.extend(f"input {key}" for key in names if before.inputs.get(key) != now.inputs.get(key))
    return [*found, "files outside"] if before.fingerprint != now.fingerprint else found


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, dict) and item:
            flat.update(_flat(item, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = item
    return flat


def _short(value: Any, limit: int = 40) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else text[: limit - 3] + "..."
