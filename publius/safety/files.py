"""YAML that people write for monitors, read with one clear error."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from publius.core.errors import UserError
from publius.core.yaml_text import BadYaml, parse_yaml, read_text

__all__ = ["read_yaml"]

_M = TypeVar("_M", bound=BaseModel)


def read_yaml(kind: type[_M], path: Path, what: str) -> _M:
    """The file as `kind`.

    Args:
        what: what it is called in an error.

    Raises:
        UserError: for a file that is missing, too large, not YAML or JSON, or not of the kind, naming the
            field.
    """
    try:
        return kind.model_validate(parse_yaml(read_text(path)))
    except OSError as error:
        told = f"cannot read {what}: {error.strerror}"
    except BadYaml as error:
        told = f"{what} is not YAML: {error}"
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        told = f"{what} is wrong at {place}: {first['msg']}"
    raise UserError(told, where=str(path), fix="see docs/safety.md for the fields")
