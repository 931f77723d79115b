"""YAML that people write for monitors, read with one clear error."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from publius.core.errors import UserError

__all__ = ["read_yaml"]

_M = TypeVar("_M", bound=BaseModel)


def read_yaml(kind: type[_M], path: Path, what: str) -> _M:
    """The file as `kind`.

    Args:
        what: what it is called in an error.

    Raises:
        UserError: for a file that is missing, not YAML or JSON, or not of the kind, naming the field.
    """
    try:
        return kind.model_validate(yaml.safe_load(path.read_text("utf-8")))
    except OSError as error:
        told = f"cannot read {what}: {error.strerror}"
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        told = f"{what} is not YAML: {str(error).splitlines()[0]}"
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        told = f"{what} is wrong at {place}: {first['msg']}"
    raise UserError(told, where=str(path), fix="see docs/safety.md for the fields")
