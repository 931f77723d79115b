"""Workers as their parent sees them: processes with a stage to do, and spare ones that wait for one."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from publius.core.console import console
from publius.core.device import keep_to
from publius.core.errors import UserError
from publius.pipeline.execute import Outcome
from publius.pipeline.identity import Identity
from publius.pipeline.job import Job, describe_job
from publius.pipeline.stop import Stopped
from publius.pipeline.store import read_json, write_json

__all__ = ["Spares", "StageCrash", "Worker"]

_HUGE_PAGES = "glibc.malloc.hugetlb=1"
"""Ask for large pages: glibc reads it when a process starts, so only workers get it. Training on CPU takes
3-5% less time with them; other C libraries do not know the variable."""
_GRACE_SECONDS = 60.0
"""What a worker has to end its step and save, once it is told to stop."""


class StageCrash(RuntimeError):
    """A worker ended by a bug, not by the user's doing; carries its traceback."""


class Spares:
    """Processes that have imported what stages need, which takes two seconds, and wait for a job.

    On leaving the context those that got none end.

    Args:
        threads: of each.
        modules: of the stages; those of this package are imported beforehand.
    """

    def __init__(self, threads: int, modules: Iterable[str]) -> None:
        ours = __name__.partition(".")[0]
        self._threads = threads
        self._modules = sorted(module for module in modules if module.partition(".")[0] == ours)
        self._waiting: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Spares:
        return self

    def __exit__(self, *error: object) -> None:
        for process in self._waiting:
            process.kill()
        for process in self._waiting:
            process.wait()
            _close(process)
        self._waiting.clear()

    def keep(self, count: int) -> None:
        """Start as many as are missing."""
        while len(self._waiting) < count:
            self._waiting.append(self._launch())

    def take(self) -> subprocess.Popen[bytes]:
        """The one that has waited longest, or a new one."""
        while self._waiting:
            process = self._waiting.pop(0)
            if process.poll() is None:
                return process
            _close(process)
        return self._launch()

    def _launch(self) -> subprocess.Popen[bytes]:
        path = os.pathsep.join(p for p in sys.path if p)
        module = ["-P", "-m", "publius.pipeline.worker"]  # -P: not what the working directory holds
        return subprocess.Popen(
            [sys.executable, *module, *self._modules],
            stdin=subprocess.PIPE,  # takes the job; its closing tells the worker that we are gone
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"GLIBC_TUNABLES": _HUGE_PAGES}
            | os.environ
            | {"OMP_NUM_THREADS": str(self._threads), "PYTHONPATH": path},
        )


class Worker:
    """One stage in a process of its own; its lines are passed on with the stage's name before them."""

    def __init__(
        self,
        spares: Spares,
        identity: Identity,
        job: Job,
        folder: Path,
        cores: Sequence[int],
    ) -> None:
        self.identity, self.job, self.cores, self.clock = identity, job, cores, time.monotonic()
        self._answer = folder / f"{job.name}.answer.json"
        job_file = folder / f"{job.name}.job.json"
        write_json(job_file, describe_job(job, self._answer))
        self.process = spares.take()
        keep_to(self.process.pid, cores)
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has just died: `outcome` says so
            self.process.stdin.write(os.fsencode(job_file) + b"\n")
            self.process.stdin.flush()
        self._echo = threading.Thread(target=self._pass_on, daemon=True)
        self._echo.start()

    def _pass_on(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            text = line.decode(errors="replace").rstrip()
            console.print(f"  {self.job.name} | {text}", markup=False, soft_wrap=True)

    def outcome(self) -> Outcome:
        """What came of it, once the process has ended.

        Raises:
            UserError: the stage's own, or that the process was killed.
            StageCrash: for a bug.
            Stopped: when it was told to stop (KeyboardInterrupt: by Ctrl-C).
        """
        self._end()
        code = self.process.returncode
        answer = read_json(self._answer) if self._answer.exists() else {}
        if "outcome" in answer:
            return answer["outcome"]
        if "what" in answer:
            raise UserError(answer["what"], where=answer["where"], fix=answer["fix"])
        if "crash" in answer:
            raise StageCrash(f"stage {self.job.name} failed in its worker\n{answer['crash']}")
        if "stopped" in answer:
            raise Stopped
        if "interrupted" in answer:
            raise KeyboardInterrupt
        raise UserError(
            f"stage {self.job.name}: its worker process ended with code {code}",
            where=self.job.final.name,
            fix="it was killed, or ran out of memory: run again (it resumes), perhaps with --jobs 1",
        )

    def stop(self) -> None:
        """Wait until the process, which was told to end, has saved and tidied up."""
        try:
            self.process.wait(timeout=_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._end()

    def _end(self) -> None:
        self._echo.join(timeout=5)
        _close(self.process)


def _close(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):  # a job that was never read
                pipe.close()
