"""Frozen, strict configuration models, and the canonical form their identity is made from.

A config lives beside the code it configures. Unknown keys are errors. Fields that change how fast
or how loudly a stage runs, but not what it produces, are declared with `execution(...)` and stay
out of the stage's identity.
"""

from __future__ import annotations

import functools
import inspect
import math
import types
from enum import Enum
from pathlib import PurePath
from typing import Annotated, Any, Union, cast, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

__all__ = ["Config", "Seed", "canonical", "execution", "is_execution"]

Seed = Annotated[int, Field(ge=0, lt=1 << 31)]
"""Of a recipe: what every generator of random numbers takes, a few added to it as well."""


class Config(BaseModel):
    """Base of every config: immutable, no unknown keys, defaults validated."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


def execution(default: Any = ..., **kwargs: Any) -> Any:
    """A field that does not enter a stage's identity (workers, device, logging, save interval)."""
    return Field(default=default, json_schema_extra={"identity": False}, **kwargs)


def is_execution(field: FieldInfo) -> bool:
    """True when `field` was declared with `execution(...)`."""
    extra = field.json_schema_extra
    return isinstance(extra, dict) and extra.get("identity") is False


def canonical(value: Any, where: str = "config") -> Any:
    """The JSON-able form of a config value that identities are hashed from.

    Raises:
        TypeError: for a value with no stable form (functions, sets, NaN, arbitrary objects), naming
            the field, because a value that hashes by accident gives stale results silently.
    """
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        for name in _either(type(value)):
            raise TypeError(
                f"{where}.{name} may be one of several configs, and what is written does not say which: "
                "give it a discriminator"
            )
        return {
            name: canonical(getattr(value, name), f"{where}.{name}")
            for name, field in fields.items()
            if not is_execution(field)
        }
    if isinstance(value, Enum):
        return canonical(value.value, where)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{where} is {value!r}: a config value must be finite to have an identity")
        return value
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [canonical(item, f"{where}[{i}]") for i, item in enumerate(cast("list[Any]", value))]
    if isinstance(value, dict):
        items = cast("dict[Any, Any]", value)
        if not all(isinstance(key, str) for key in items):
            raise TypeError(f"{where} has a key that is not text: it cannot be part of an identity")
        return {key: canonical(items[key], f"{where}.{key}") for key in sorted(items)}
    raise TypeError(f"{where} is a {type(value).__name__}: it has no stable form, so no identity")


@functools.cache
def _either(config: type[BaseModel]) -> tuple[str, ...]:
    """Fields that hold one of several configs without a discriminator: two with equal fields would have one
    identity, and be read back as the first."""
    return tuple(
        name
        for name, field in config.model_fields.items()
        if not is_execution(field) and field.discriminator is None and _undecided(field.annotation)
    )


def _undecided(kind: Any) -> bool:
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        known = any(getattr(part, "discriminator", None) is not None for part in parts[1:])
        return not known and _undecided(parts[0])
    if origin in (Union, types.UnionType):
        configs = [part for part in parts if inspect.isclass(part) and issubclass(part, BaseModel)]
        if len(configs) > 1:
            return True
    return any(_undecided(part) for part in parts)
