"""A job: one stage with its inputs, and how it crosses to another process.

It crosses as JSON (module and function names, a config as JSON, artifact paths), never as pickle.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from publius.core.config import Config, canonical
from publius.core.errors import UserError
from publius.pipeline.artifact import Artifact
from publius.pipeline.stage import Stage

__all__ = ["Job", "describe_job", "load_file", "load_reference", "read_job", "reference"]


class Job(NamedTuple):
    """All that is needed to make one artifact."""

    name: str
    """The node's name, for messages."""
    stage: Stage[..., Any]
    config: Config
    inputs: Mapping[str, Artifact | list[Artifact]]
    final: Path
    """The artifact's folder once finished."""
    base: Mapping[str, Any]
    """The record's fields known beforehand: id, canonical config, inputs, fingerprint."""

    @property
    def partial(self) -> Path:
        """The artifact's folder until then."""
        return self.final.with_name(f"{self.final.name}.partial")

    def artifact(self) -> Artifact:
        """The finished artifact."""
        return self.stage.signature.output(self.final / "files")


def describe_job(job: Job, answer: Path) -> dict[str, Any]:
    """`job` as JSON, with the path its outcome is to be written to."""
    return {
        "name": job.name,
        "path": sys.path,
        "stage": reference(job.stage.function),
        "config": {"type": reference(type(job.config)), "value": job.config.model_dump(mode="json")},
        "inputs": {key: _describe(value) for key, value in job.inputs.items()},
        "final": str(job.final.resolve()),
        "base": dict(job.base),
        "answer": str(answer),
    }


def _describe(value: Artifact | list[Artifact]) -> Any:
    if isinstance(value, list):
        return [_describe(item) for item in value]
    return {"type": reference(type(value)), "path": str(value.path.resolve())}


def read_job(given: Mapping[str, Any]) -> Job:
    """The job that `describe_job` wrote."""
    config = load_reference(given["config"]["type"]).model_validate(given["config"]["value"])
    if canonical(config) != given["base"]["config"]:
        raise TypeError(
            f"{type(config).__name__} does not survive JSON: its identity moved on the way to a worker"
        )
    return Job(
        name=given["name"],
        stage=load_reference(given["stage"]),
        config=config,
        inputs={key: _read(value) for key, value in given["inputs"].items()},
        final=Path(given["final"]),
        base=given["base"],
    )


def _read(value: Any) -> Any:
    if isinstance(value, list):
        return [_read(item) for item in value]
    return load_reference(value["type"])(Path(value["path"]))


def reference(thing: Any) -> dict[str, str | None]:
    """A function or class by module, name and file, for another process to load.

    Raises:
        UserError: for one defined inside a function, which no other process can find.
    """
    module, name = thing.__module__, thing.__qualname__
    if "<" in name:
        raise UserError(
            f"{name} is defined inside a function, so a worker cannot find it",
            where=module,
            fix="define it at the top of a module, or run with --jobs 1",
        )
    return {"module": module, "name": name, "file": getattr(sys.modules[module], "__file__", None)}


def load_reference(given: Mapping[str, str | None]) -> Any:
    """The thing that `reference` described."""
    name, file = given["module"], given["file"]
    assert name is not None
    try:
        if name == "__main__":
            raise ModuleNotFoundError(name=name)
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if file is None or not error.name or not f"{name}.".startswith(f"{error.name}."):
            raise
        module = load_file(Path(file))
    thing: Any = module
    for part in (given["name"] or "").split("."):
        thing = getattr(thing, part)
    return thing


def load_file(path: Path) -> ModuleType:
    """Import a user's Python file once, under a name of its own that depends only on its path.

    Raises:
        UserError: when there is none, or it is not valid Python or raises (naming the line).
    """
    path = path.resolve()
    name = f"publius_file_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UserError(
            "there is no such Python file", where=str(path), fix="give a path like my_recipe.py:my_recipe"
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, SyntaxError):
            place = f"{error.filename or path}:{error.lineno or 1}"
            raise UserError(f"not valid Python: {error.msg}", where=place, fix="mend that line") from error
        if isinstance(error, Exception | SystemExit) and not isinstance(error, UserError):
            raise _fails(path, error) from error
        raise
    return module


def _fails(path: Path, error: BaseException) -> UserError:
    """What to say of a file that raises while it is imported: the error, its line, and where that led."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f"{path}:{frame.lineno}" for frame in frames if frame.filename == str(path)]
    beyond = "" if frames[-1].filename == str(path) else f", in {frames[-1].filename}:{frames[-1].lineno}"
    told = traceback.format_exception_only(error)[0].strip().splitlines()[0]
    where = f"{own[-1] if own else path}{beyond}"
    return UserError(f"the file cannot be imported: {told}", where=where, fix="mend that line")
