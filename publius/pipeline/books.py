"""What `runs/<name>/` holds in JSON, read back: the recipe as it was wired, and the executions so far."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from publius.core.errors import UserError
from publius.pipeline.store import read_json

__all__ = ["Execution", "Wired", "Wiring", "read_executions", "read_wiring"]

_M = TypeVar("_M", bound=BaseModel)


class _Book(BaseModel):
    model_config = ConfigDict(frozen=True)


class Wired(_Book):
    """A stage of a run, and the artifact that it is to be."""

    name: str
    artifact: str


class _Published(_Book):
    stages: tuple[str, ...]
    metric: str
    many: bool


class Wiring(_Book):
    """`recipe.json`."""

    recipe: str
    settings: dict[str, str]
    stages: tuple[Wired, ...]
    published: dict[str, _Published]


class _Made(_Book):
    outcome: str
    artifact: str


class Execution(_Book):
    """One execution of a run, in `run.json`."""

    finished: bool
    wall_seconds: float = Field(allow_inf_nan=False)
    stages: dict[str, _Made]


class _Journal(_Book):
    executions: tuple[Execution, ...]


def read_wiring(path: Path) -> Wiring:
    """A run's `recipe.json`.

    Raises:
        UserError: when it is damaged.
    """
    return _read(path, Wiring)[0]


def read_executions(path: Path) -> tuple[tuple[Execution, ...], list[Any]]:
    """Those in a run's `run.json`, in order, and as they stand there; none where there is no such file.

    Raises:
        UserError: when it is damaged.
    """
    if not path.exists():
        return (), []
    journal, value = _read(path, _Journal)
    return journal.executions, value["executions"]


def _read(path: Path, kind: type[_M]) -> tuple[_M, Any]:
    value = read_json(path)
    try:
        return kind.model_validate(value), value
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "its top"
        told = f"{path.name} is damaged at {place}: {first['msg']}"
        raise UserError(told, where=str(path), fix="delete it, and run the recipe again") from None
