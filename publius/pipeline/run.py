"""Run: what a stage function holds while it works: output folder, log, metrics, resume state.

Everything lives in `<stage>-<id>.partial/` until the stage returns:

    files/          the payload (`run.output`)
    metrics.jsonl   the lines of `run.log`
    resume/<k>/     the last saved state: `files/` as the stage wrote them, and our own counters
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from publius.core.console import Ticker, progress
from publius.core.errors import UserError
from publius.core.stats import Estimate
from publius.pipeline.stop import leave, patience, stop_asked
from publius.pipeline.store import fsync, fsync_tree, read_json, write_json

__all__ = ["Run", "testing_run"]


class Run:
    """One execution of one stage.

    Args:
        folder: the `.partial` folder. `files/` in it starts empty; a resume state in it is kept,
            and what a stage wants to find again after a kill must be in that state.
        stage: the stage's name in the recipe, for display.
    """

    join: Callable[..., Any] | None = None
    """Where several processes do a stage together: how a training joins the others."""

    def __init__(self, folder: Path, stage: str = "stage") -> None:
        self.folder = Path(folder)
        self.stage = stage
        self.output = self.folder / "files"
        self.metrics: dict[str, Any] = {}
        self.tokens = 0
        self.flops = 0.0
        self._earlier = 0.0
        self._clock = time.monotonic()
        self._log = self.folder / "metrics.jsonl"
        self._saving: Future[None] | None = None
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = ("lock", "resume", self._log.name) if self.has_state else ("lock",)
        for left in self.folder.iterdir():  # by a kill, at any moment
            if left.name not in kept:
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        self.output.mkdir()

    @property
    def elapsed(self) -> float:
        """Seconds of work so far, those before a resume included."""
        return self._earlier + time.monotonic() - self._clock

    def log(self, **numbers: Any) -> None:
        """Append one line of numbers, with `wall` seconds, to `metrics.jsonl`."""
        line = {name: _number(value) for name, value in numbers.items()} | {"wall": round(self.elapsed, 3)}
        with self._log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")

    def metric(self, name: str, value: Any) -> None:
        """Record a result: a number, an `Estimate`, or a list of either (one a round)."""
        if isinstance(value, (list, tuple)) and not isinstance(value, Estimate):
            self.metrics[name] = [_metric(item) for item in value]
        else:
            self.metrics[name] = _metric(value)

    def count(self, tokens: int = 0, flops: float = 0.0) -> None:
        """Add to the stage's totals."""
        self.tokens += int(tokens)
        self.flops += float(flops)

    def progress(self, label: str, total: float) -> AbstractContextManager[Ticker]:
        """A progress display with rate and time left."""
        return progress(label, total)

    def save(self, write: Callable[[Path], object]) -> None:
        """Keep a resume state: `write(folder)` fills an empty folder, which then replaces the last one.

        A kill at any moment leaves either the last state or this one, whole. When `write` returns a function,
        that is called in a thread to wait for the rest of the writing, and the state counts from then on;
        what goes wrong there is raised by the next `save` or `settle`.
        """
        self.settle()
        states = self._states()
        fresh = self.folder / "resume.tmp"
        shutil.rmtree(fresh, ignore_errors=True)
        try:
            (fresh / "files").mkdir(parents=True)
            rest = self._fill(write, fresh / "files")
            size = self._log.stat().st_size if self._log.exists() else 0
            counters = {"elapsed": self.elapsed, "tokens": self.tokens, "flops": self.flops}
            counters |= {"metrics": dict(self.metrics), "log_bytes": size}
            if rest is None:
                self._keep(fresh, counters, states)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        if rest is not None:
            thread = ThreadPoolExecutor(1, thread_name_prefix="publius-state")
            self._saving = thread.submit(self._keep_later, rest, fresh, counters, states)
            thread.shutdown(wait=False)

    def settle(self) -> None:
        """Wait for a state that is still being written."""
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

    def _fill(self, write: Callable[[Path], object], folder: Path) -> Callable[[], object] | None:
        rest = write(folder)
        return rest if callable(rest) else None

    def _keep_later(
        self, rest: Callable[[], object], fresh: Path, counters: dict[str, Any], states: list[Path]
    ) -> None:
        try:
            rest()
            self._keep(fresh, counters, states)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise

    def _keep(self, fresh: Path, counters: dict[str, Any], states: list[Path]) -> None:
        write_json(fresh / "run.json", counters | {"sha256": _digests(fresh / "files")})
        fsync_tree(fresh)
        kept = self.folder / "resume" / f"{int(states[-1].name) + 1 if states else 1:08d}"
        kept.parent.mkdir(exist_ok=True)
        fresh.rename(kept)
        fsync(kept.parent)
        for old in states:
            shutil.rmtree(old)

    def agree(self, wish: bool) -> bool:
        """One answer for all processes that do this stage together: whether any of them wishes."""
        return wish

    def lead(self) -> None:
        """The rest of the stage is for one process: where several do it, the others end here."""

    def stoppable(self) -> AbstractContextManager[None]:
        """Around a loop that calls `stop_here`: SIGTERM and Ctrl-C wait inside for its next call."""
        return patience()

    def stop_here(self, write: Callable[[Path], object]) -> None:
        """Between two steps: if the process was asked to stop, `save` a state and end the process's work.

        Raises:
            Stopped: after SIGTERM.
            KeyboardInterrupt: after Ctrl-C.
        """
        if self.agree(stop_asked()):
            self.save(write)
            self.settle()
            leave()

    def restore(self) -> Path | None:
        """The folder `save` last filled, log and counters put back to that moment; None at a fresh start.

        Raises:
            UserError: when a file of it is damaged.
        """
        states = self._states()
        if not states:
            return None
        counters = read_json(states[-1] / "run.json")
        found = _digests(states[-1] / "files")
        for name, digest in counters.get("sha256", {}).items():
            if found.get(name) != digest:
                raise UserError(
                    "a saved state is damaged: its checksum differs",
                    where=str(states[-1] / "files" / name),
                    fix=f"delete {self.folder} and run again: the stage starts over",
                )
        self.metrics, self.tokens, self.flops = counters["metrics"], counters["tokens"], counters["flops"]
        self._earlier, self._clock = counters["elapsed"], time.monotonic()
        if self._log.exists():
            os.truncate(self._log, min(counters["log_bytes"], self._log.stat().st_size))
        return states[-1] / "files"

    @property
    def has_state(self) -> bool:
        """Whether there is a state to resume from."""
        return bool(self._states())

    def _states(self) -> list[Path]:
        return sorted((self.folder / "resume").glob("[0-9]*"))


def _digests(folder: Path) -> dict[str, str]:
    """Relative path -> SHA-256 of every file below `folder`."""
    found: dict[str, str] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb") as file:
            found[str(path.relative_to(folder))] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _number(value: Any) -> Any:
    """A JSON-able number: tensors and numpy scalars become floats, NaN and infinities become null."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    number = float(value)
    return number if math.isfinite(number) else None


def _metric(value: Any) -> dict[str, Any]:
    if isinstance(value, Estimate):
        return {name: _number(part) for name, part in value.as_dict().items()}
    if isinstance(value, str):  # found by whoever shows it otherwise, hours later
        raise TypeError(f"a metric is a number, not {value!r}")
    return {"value": _number(float(value) if isinstance(value, bool) else value)}


def testing_run(folder: Path) -> Run:
    """A Run outside any recipe, for tests of stages.

    A second call on the same folder continues a stage that saved a resume state; otherwise it takes
    the next free sub-folder, so that the output of the first stays for the second to read.
    """
    for count in itertools.count(1):
        place = Path(folder) / f"stage-{count}.partial"
        if (place / "resume").exists() or not place.exists():
            return Run(place, f"stage-{count}")
    raise AssertionError("unreachable")


testing_run.__test__ = False  # pyright: ignore[reportFunctionMemberAccess]  # not a test, whatever its name says
