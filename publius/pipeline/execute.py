"""Doing one stage, in this process or in a worker: claim, run, record, rename.

Both ways go through `run_stage`.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from publius.core.errors import UserError
from publius.pipeline.artifact import Record, read_record
from publius.pipeline.hardware import energy_kwh, this_hardware, versions
from publius.pipeline.job import Job
from publius.pipeline.run import Run
from publius.pipeline.store import claim, disk_errors, fsync_tree, remove_tree, write_json

__all__ = ["Outcome", "run_stage"]

Outcome = Literal["cached", "ran", "resumed"]


def run_stage(job: Job, make_run: Callable[[Path, str], Run] = Run) -> Outcome:
    """Make the artifact of `job` unless it exists, resuming an unfinished one.

    `make_run` makes the stage's run of its folder and name, once there is work to do.

    On failure nothing half-written stays: the `.partial` folder goes, unless it holds a resume
    state, which the next run takes up.

    Raises:
        UserError: naming the stage; any other exception carries a note that names it.
    """
    where = f"stage {job.name} ({job.final.name})"
    with disk_errors(where), _named(job.name, where):
        if job.final.exists():
            read_record(job.final)
            _shed(job.final)
            return "cached"
        with claim(job.partial):
            if job.final.exists():  # another runner finished it between the look and the claim
                remove_tree(job.partial)
                return "cached"
            try:
                return _make(job, make_run)
            finally:
                _tidy(job.partial)


@contextmanager
def _named(stage: str, where: str) -> Iterator[None]:
    """Errors that pass say which stage they come from."""
    try:
        yield
    except UserError as error:
        raise UserError(f"stage {stage}: {error.what}", where=error.where or where, fix=error.fix) from error
    except Exception as error:
        error.add_note(f"in {where}")
        raise


def _make(job: Job, make_run: Callable[[Path, str], Run]) -> Outcome:
    started = datetime.now(UTC).isoformat(timespec="seconds")
    run = make_run(job.partial, job.name)
    outcome: Outcome = "resumed" if run.has_state else "ran"
    try:
        result = job.stage(run, job.config, **job.inputs)
    except BaseException:
        with suppress(Exception):  # the first error is the one to tell
            run.settle()
        raise
    run.settle()
    kind = job.stage.signature.output
    if not isinstance(result, kind) or result.path != run.output:
        raise TypeError(f"stage {job.name} returned {result!r}, not {kind.__name__}(run.output)")
    seconds = run.elapsed
    record = Record(
        **job.base,
        stage=job.stage.name,
        version=job.stage.version,
        versions=versions(),
        commit=_commit(),
        metrics=run.metrics,
        wall_seconds=round(seconds, 3),
        tokens=run.tokens,
        flops=run.flops,
        energy_kwh=energy_kwh(seconds),
        hardware=this_hardware()[0],
        started=started,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    write_json(job.partial / "record.json", record.model_dump())
    fsync_tree(job.partial)
    # The resume state goes last: a kill before this line must find it again.
    job.partial.rename(job.final)
    _shed(job.final)
    return outcome


def _shed(final: Path) -> None:
    """Drop what only the work needed; a kill right after the rename may have left it in the artifact."""
    if (final / "lock").exists():  # a read-only file system refuses even to unlink what is not there
        (final / "lock").unlink(missing_ok=True)
    shutil.rmtree(final / "resume", ignore_errors=True)


def _tidy(partial: Path) -> None:
    """After a failure keep only a resume state; after success there is nothing to do."""
    if not partial.exists():
        return
    if any((partial / "resume").glob("[0-9]*")):
        shutil.rmtree(partial / "files", ignore_errors=True)
        (partial / "record.json").unlink(missing_ok=True)
    else:
        remove_tree(partial)


@functools.cache
def _commit() -> str | None:
    """The commit of the checkout this package runs from, with `-dirty` if changed; None outside git."""
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
        "--exclude=*",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
