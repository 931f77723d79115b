"""The sandbox from outside: hand a program in, watch it, say how it ended.

The program runs in a bare interpreter of its own that has locked itself in (`inside`): Landlock lets it read
the standard library and write into one fresh folder, a seccomp filter (`walls`) leaves it no network, no
other process and no signals, and its limits hold for memory, time, output and files. All of that works
without root, in containers too, on Linux 5.13 and later. Where any of it cannot be had, nothing runs.
"""

from __future__ import annotations

import json
import math
import os
import platform
import secrets
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field

from publius.core.config import Config
from publius.core.errors import UserError
from publius.core.sandbox.usage import disk_used
from publius.core.sandbox.walls import MACHINES, seccomp_filter

__all__ = ["Job", "Limits", "Outcome", "check_sandbox", "run_all", "run_python"]

Ending = Literal["finished", "exited", "raised", "crashed", "timeout", "output", "disk"]
_START = 30.0
"""Seconds for the interpreter to start and lock itself in, on a machine busy with training."""
_LOOK = 0.02
"""Seconds between two looks at what it holds of the disk: so long it may hold more."""
_OPEN = 32
"""Files it may have open at once, each as large as all may be: what it can hold between two looks."""
_REPORT = 4096
"""Bytes of its report, which the program can write to as well. A true one has 33; a refusal names a path."""
_ENVIRONMENT = {
    "LC_ALL": "C.UTF-8", "PYTHONUTF8": "1",
    "PYTHONHASHSEED": "0",  # sets iterate alike each time, so a program that leans on it is graded alike
}  # fmt: skip


class Limits(Config):
    """What a program may use.

    Attributes:
        seconds: of wall time, from when it is locked in; processor time gets a second more.
        memory_mb: address space, its interpreter included (about 60 MB).
        output_kb: of standard output and error each.
        disk_kb: of files in its folder, and of those deleted there and still open or mapped, in all.
    """

    seconds: float = Field(default=5.0, gt=0, le=3600)
    memory_mb: int = Field(default=512, ge=128)
    output_kb: int = Field(default=64, ge=1)
    disk_kb: int = Field(default=1024, ge=0)


class Job(NamedTuple):
    """A program, and what it reads on its standard input."""

    program: str
    stdin: str = ""


class Outcome(NamedTuple):
    """How a program ended.

    Attributes:
        ending: finished (it ran through its last line), exited (`sys.exit` with 0), raised (an exception, or
            another exit status), crashed (killed by a signal, or left without a word), timeout, output, disk
            (over that limit).
        output: standard output.
        error: standard error; the traceback of an exception at its end.
        seconds: wall time, interpreter included.
    """

    ending: Ending
    output: str
    error: str
    seconds: float

    @property
    def finished(self) -> bool:
        """It ran through its last line."""
        return self.ending == "finished"


def run_python(program: str, *, stdin: str = "", limits: Limits | None = None) -> Outcome:
    """Run one program to its end, or to the end of its limits.

    A program works inside its own interpreter, so one that is written to can forge its own ending there: what
    must not be forged is told by its output, which is compared out here.

    Raises:
        UserError: where the walls cannot be had (not Linux, an old kernel, Landlock or seccomp switched off).
    """
    with tempfile.TemporaryDirectory(prefix="publius-sandbox-") as folder:
        place = Path(folder)
        # surrogates cannot be written: such a text is no program, and its SyntaxError says so
        (place / "main.py").write_bytes(program.encode("utf-8", "backslashreplace"))
        (place / "stdin").write_bytes(stdin.encode("utf-8", "backslashreplace"))
        return _Watch(place, limits or Limits()).watch()


def run_all(jobs: Sequence[Job], *, limits: Limits | None = None, workers: int = 2) -> list[Outcome]:
    """Run programs, `workers` at a time; outcomes in the order of the programs. Raises as `run_python`."""
    with ThreadPoolExecutor(max(1, workers), thread_name_prefix="publius-sandbox") as threads:
        return list(
            threads.map(lambda job: run_python(job.program, stdin=job.stdin, limits=limits), list(jobs))
        )


def check_sandbox() -> None:
    """Run an empty program, to find out now, and not after an hour of training, that the walls can be had.

    Raises:
        UserError: as `run_python`.
    """
    run_python("")


def _refuse(why: str) -> UserError:
    return UserError(
        f"no sandbox here, so the program was not run: {why}",
        where="sandbox",
        fix="use Linux 5.13 or later on x86_64 or aarch64 with Landlock and seccomp, and a container "
        "that permits both (Docker's own profile does)",
    )


class _Watch:
    """One program while it runs."""

    landlock: int | None = None
    """The newest version of Landlock to use, for tests of old kernels; None uses all there is."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self._folder, self._limits = folder, limits
        self._mark = secrets.token_hex(8).encode()
        self._heard = {"output": bytearray(), "error": bytearray(), "report": bytearray()}
        self._began = time.monotonic()
        self._locked_at: float | None = None
        self._looked_at = 0.0
        self._largest = max(limits.disk_kb, 1) << 10
        # what it was given lies in its folder too, and is its own to write to
        self._room = (limits.disk_kb << 10) + sum(given.stat().st_size for given in folder.iterdir())

    def watch(self) -> Outcome:
        report, theirs = os.pipe()
        try:
            process = self._start(theirs)
        except OSError as error:
            os.close(report)
            raise _refuse(f"cannot start {sys.executable}: {error}") from error
        finally:
            os.close(theirs)
        try:
            stopped = self._listen(process, report)
            if stopped is None:  # its ends are closed: it is leaving, or has only hidden itself
                with suppress(subprocess.TimeoutExpired):
                    process.wait(1.0)
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
            os.close(report)
        return self._outcome(process.returncode, stopped)

    def _start(self, report: int) -> subprocess.Popen[bytes]:
        machine = MACHINES.get(platform.machine())
        if sys.platform != "linux" or machine is None:
            raise _refuse(f"this is {platform.system()} on {platform.machine()}")
        limits = self._limits
        cpu = math.ceil(limits.seconds) + 1
        order = {
            "report": report,
            "parent": os.getpid(),
            "filter": seccomp_filter(machine).hex(),
            "landlock": self.landlock,
            "limits": {
                "RLIMIT_AS": limits.memory_mb << 20,
                "RLIMIT_CPU": cpu,
                "RLIMIT_FSIZE": self._largest,
                "RLIMIT_NOFILE": _OPEN,
            },
        }
        library = {k: v for k, v in os.environ.items() if k == "LD_LIBRARY_PATH"}  # where libpython may lie
        process = subprocess.Popen(
            [sys.executable, "-s", "-S", "-P", "-B", str(Path(__file__).with_name("inside.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(report,),
            cwd=self._folder,
            env={**_ENVIRONMENT, **library},
            start_new_session=True,
        )
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # it died at once; how is told by its exit status
            # well below what a pipe holds, so this never waits
            os.write(process.stdin.fileno(), json.dumps(order).encode() + b"\n" + self._mark)
        return process

    def _listen(self, process: subprocess.Popen[bytes], report: int) -> Ending | None:
        """Read until it closes its ends; the limit it went over, if one."""
        assert process.stdout is not None and process.stderr is not None
        with selectors.DefaultSelector() as ears:
            for name, pipe in (("output", process.stdout), ("error", process.stderr), ("report", report)):
                ears.register(pipe, selectors.EVENT_READ, name)
            while ears.get_map():
                for key, _ in ears.select(_LOOK):
                    data = os.read(key.fd, 65536)
                    if not data:
                        ears.unregister(key.fileobj)
                    self._heard[key.data] += data
                if (over := self._over(process.pid)) is not None:
                    return over
        return "disk" if self._full(process.pid) else None

    def _over(self, process: int) -> Ending | None:
        now, limits = time.monotonic(), self._limits
        if self._locked_at is None:
            if self._heard["report"].startswith(b"locked\n"):
                self._locked_at = now
            elif now - self._began > _START:
                return "timeout"
        elif now - self._locked_at > limits.seconds:
            return "timeout"
        heard = {name: len(data) for name, data in self._heard.items()}
        if max(heard["output"], heard["error"]) > limits.output_kb << 10 or heard["report"] > _REPORT:
            return "output"
        if now - self._looked_at < _LOOK:
            return None
        self._looked_at = now
        return "disk" if self._full(process) else None

    def _full(self, process: int) -> bool:
        return disk_used(self._folder, process, self._largest) > self._room

    def _outcome(self, status: int, stopped: Ending | None) -> Outcome:
        report = bytes(self._heard["report"])
        if not report.startswith(b"locked\n"):
            told = report.decode("utf-8", "replace").removeprefix("refused").strip()
            said = self._heard["error"].decode("utf-8", "replace").strip().splitlines()
            raise _refuse(told or (said[-1] if said else f"the interpreter ended with status {status}"))
        ending = stopped or self._ending(report.removeprefix(b"locked\n"), status)
        cap = self._limits.output_kb << 10
        output, error = (self._heard[n][:cap].decode("utf-8", "replace") for n in ("output", "error"))
        if ending == "crashed" and status < 0:
            error += f"killed by {signal.Signals(-status).name}\n"
        return Outcome(ending, output, error, time.monotonic() - self._began)

    def _ending(self, told: bytes, status: int) -> Ending:
        for ending in ("finished", "exited", "raised"):
            if secrets.compare_digest(told, ending.encode() + b"\n" + self._mark):
                return ending
        if status == -signal.SIGKILL or status == -signal.SIGXCPU:
            return "timeout"  # processor time; nothing else kills it before we do
        return "crashed"
