"""Artifacts: what stages make, and the record that says how.

On disk an artifact is `<home>/artifacts/<stage>-<id>/`: the payload under `files/`, the training
curve in `metrics.jsonl`, and `record.json`. The folder exists only when the stage has finished.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from publius.core.errors import UserError

__all__ = ["Artifact", "Record", "damaged", "read_log", "read_record"]

_M = TypeVar("_M", bound=BaseModel)


class Record(BaseModel):
    """How an artifact came to be. Written once, last, as `record.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    version: int
    id: str
    """The whole sha256 of the identity, hex; the folder carries its first 12 digits."""
    config: dict[str, Any]
    """The canonical config: identity fields only."""
    inputs: dict[str, str | list[str]] = {}
    """Input name to the id (or ids) of the artifacts given."""
    fingerprint: Any = None
    """What the stage saw outside the pipeline (the hash of a user's files), when it says so."""
    versions: dict[str, str] = {}
    commit: str | None = None
    metrics: dict[str, Any] = {}
    """Name to `{"value", "n", "low", "high"}` (the last three only for estimates), or a list of such."""
    wall_seconds: float = 0.0
    """Seconds of work kept in this artifact, over all the executions that were resumed."""
    tokens: int = 0
    flops: float = 0.0
    energy_kwh: float = 0.0
    """An estimate: wall time at the assumed power of the hardware (`publius.pipeline.hardware`)."""
    hardware: str = ""
    started: str = ""
    finished: str = ""


def read_record(folder: Path) -> Record:
    """The record of the artifact in `folder`.

    Raises:
        UserError: when the record is missing or damaged.
    """
    path = folder / "record.json"
    try:
        return Record.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise UserError(
            "an artifact has no record", where=str(path), fix="delete the folder and run again"
        ) from None
    except (ValidationError, UnicodeDecodeError) as error:
        raise UserError(
            f"a record is damaged: {str(error).splitlines()[0]}",
            where=str(path),
            fix="delete the folder and run again",
        ) from None


def damaged(path: Path, error: ValidationError) -> UserError:
    """What to raise for a payload file that is not what its name says."""
    reason = error.errors()[0]["msg"]
    return UserError(
        f"{path.name} is damaged: {reason}", where=str(path), fix="delete the artifact and run it again"
    )


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of the artifact's `metrics.jsonl`, in order; none when its stage logged nothing."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line]


class Artifact:
    """A finished stage's payload. Subclasses add readers; the constructor takes only the folder.

    Args:
        path: the payload folder, `<home>/artifacts/<stage>-<id>/files`.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    @property
    def record(self) -> Record | None:
        """How this artifact was made; None for a payload made outside the pipeline."""
        folder = self.path.parent
        return read_record(folder) if (folder / "record.json").exists() else None

    def file(self, name: str) -> Path:
        """The payload file `name`.

        Raises:
            UserError: when the payload has no such file.
        """
        path = self.path / name
        if not path.exists():
            raise UserError(
                f"{type(self).__name__} has no file {name!r}",
                where=str(self.path),
                fix="the artifact is damaged: delete its folder and run again",
            )
        return path

    def parse(self, name: str, kind: type[_M]) -> _M:
        """The payload file `name`, one JSON document.

        Raises:
            UserError: when it is missing or is not a `kind`.
        """
        path = self.file(name)
        try:
            return kind.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise damaged(path, error) from None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"
