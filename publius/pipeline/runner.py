"""Running a recipe: stages in order, or independent ones side by side in worker processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from publius.core.console import console
from publius.core.device import keep_memory, keep_to, usable_cores
from publius.core.errors import UserError
from publius.pipeline.artifact import Artifact, read_record
from publius.pipeline.execute import Outcome, run_stage
from publius.pipeline.identity import Identity, identify
from publius.pipeline.job import Job, describe_job
from publius.pipeline.names import check_run_name
from publius.pipeline.recipe import Recipe
from publius.pipeline.stop import Stopped, interrupts
from publius.pipeline.store import Store, disk_errors, left_by_the_dead, read_json, write_json

__all__ = ["StageCrash", "run_recipe"]

_STOPPED = "stopped; the same command goes on from here"
_HUGE_PAGES = "glibc.malloc.hugetlb=1"
"""Ask for large pages: glibc reads it when a process starts, so only workers get it. Training on CPU takes
3-5% less time with them; other C libraries do not know the variable."""
_GRACE_SECONDS = 60.0
"""What a worker has to end its step and save, once it is told to stop."""


class StageCrash(RuntimeError):
    """A worker ended by a bug, not by the user's doing; carries its traceback."""


def run_recipe(
    recipe: Recipe,
    name: str,
    home: Path,
    *,
    until: str | None = None,
    jobs: int | None = None,
    together: Callable[[Job], Outcome] | None = None,
) -> dict[str, Artifact]:
    """Make every artifact of `recipe` that does not exist yet, as run `name` under `home`.

    Args:
        until: run this stage and what it needs only.
        jobs: independent stages at once (default: the recipe's own). With more than one, stages that
            run side by side do so in worker processes that share the cores; a lone one runs here.
        together: does a stage that is `parallel` with the other processes of a job; stages then run one
            after the other.

    Returns:
        The artifact of each stage.

    Raises:
        UserError: naming the stage, for all that a user can mend.
        StageCrash: when a worker process ended by a bug.
        Stopped: after SIGTERM, when all that was at work has saved its state and tidied up.
    """
    check_run_name(name)
    if together is not None and jobs not in (None, 1):
        raise UserError(
            f"jobs is {jobs}, in a job of several processes",
            where="--jobs",
            fix="leave it out",
        )
    jobs = 1 if together is not None else recipe.jobs if jobs is None else jobs
    if jobs < 1:
        raise UserError(f"jobs is {jobs}", where="--jobs", fix="give 1 or more")
    identities = identify(recipe, until)
    keep_memory()
    store = Store(home)
    with interrupts(signal.SIGTERM, signal.SIGINT), disk_errors(f"run {name}, in {store.home}"):
        store.artifacts.mkdir(parents=True, exist_ok=True)
        store.run(name).mkdir(parents=True, exist_ok=True)
        _write_recipe(store, name, recipe, until)
        execution = _Execution(recipe, name, store, identities, jobs, together)
        with _journal(store, name, execution):
            execution.run()
    return execution.artifacts


def _write_recipe(store: Store, name: str, recipe: Recipe, until: str | None) -> None:
    identities = identify(recipe)
    write_json(
        store.run(name) / "recipe.json",
        {
            "recipe": recipe.name,
            "source": recipe.source,
            "settings": recipe.settings,
            "until": until,
            "stages": [
                {"name": i.node.name, "stage": i.node.stage.name, "artifact": i.folder, "id": i.id}
                for i in identities
            ],
            "published": {key: value._asdict() for key, value in recipe.published.items()},
        },
    )
    # An alias of a stage that the recipe no longer has would keep its artifact from `publius clean`.
    for path in store.run(name).iterdir():
        if left_by_the_dead(path) or (path.is_symlink() and path.name not in recipe.nodes):
            path.unlink(missing_ok=True)


@contextmanager
def _journal(store: Store, name: str, execution: _Execution) -> Iterator[None]:
    """Add this execution to `runs/<name>/run.json`, finished or not."""
    path = store.run(name) / "run.json"
    past = read_json(path)["executions"] if path.exists() else []
    started, clock = datetime.now(UTC), time.monotonic()
    finished = False
    try:
        yield
        finished = True
    finally:
        entry = {
            "started": started.isoformat(timespec="seconds"),
            "wall_seconds": round(time.monotonic() - clock, 3),
            "jobs": execution.jobs,
            "finished": finished,
            "stages": {node: {"outcome": o, "artifact": f} for node, (o, f) in execution.outcomes.items()},
        }
        write_json(path, {"executions": [*past, entry]})


class _Worker:
    """One stage in a process of its own; its lines are passed on with the stage's name before them."""

    def __init__(
        self, identity: Identity, job: Job, folder: Path, threads: int, cores: Sequence[int]
    ) -> None:
        self.identity, self.job, self.cores, self.clock = identity, job, cores, time.monotonic()
        self._answer = folder / f"{job.name}.answer.json"
        job_file = folder / f"{job.name}.job.json"
        write_json(job_file, describe_job(job, self._answer))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "publius.pipeline.worker", str(job_file)],
            stdin=subprocess.PIPE,  # never written: its closing tells the worker that we are gone
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"GLIBC_TUNABLES": _HUGE_PAGES}
            | os.environ
            | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )
        keep_to(self.process.pid, cores)
        self._echo = threading.Thread(target=self._pass_on, daemon=True)
        self._echo.start()

    def _pass_on(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            text = line.decode(errors="replace").rstrip()
            console.print(f"  {self.job.name} | {text}", markup=False, soft_wrap=True)

    def outcome(self) -> Outcome:
        """What came of it, once the process has ended."""
        self._close()
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
        self._close()

    def _close(self) -> None:
        self._echo.join(timeout=5)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


class _Execution:
    """One pass over a recipe."""

    def __init__(
        self,
        recipe: Recipe,
        name: str,
        store: Store,
        identities: list[Identity],
        jobs: int,
        together: Callable[[Job], Outcome] | None,
    ) -> None:
        self.together = together
        self.recipe, self.name, self.store, self.jobs = recipe, name, store, jobs
        self.pending = list(identities)
        self.total = len(identities)
        self.artifacts: dict[str, Artifact] = {}
        self.outcomes: dict[str, tuple[Outcome, str]] = {}
        self.workers: list[_Worker] = []

    def run(self) -> None:
        """Until nothing is pending; on any failure the workers are stopped first."""
        with tempfile.TemporaryDirectory(prefix="publius-") as folder:
            try:
                while self.pending or self.workers:
                    self._start(Path(folder))
                    self._collect()
            finally:
                for worker in self.workers:
                    worker.process.terminate()
                for worker in self.workers:
                    worker.stop()
                    self._say(worker.identity, _STOPPED)

    def _ready(self) -> list[Identity]:
        """Pending stages whose inputs exist and whose artifact no worker is already making."""
        busy = {worker.identity.folder for worker in self.workers}
        ready: list[Identity] = []
        for identity in self.pending:
            done = all(parent.name in self.artifacts for parent in identity.node.parents())
            if done and identity.folder not in busy:
                ready.append(identity)
                busy.add(identity.folder)
        return ready

    def _start(self, folder: Path) -> None:
        while here := [i for i in self._ready() if self.store.final(i.folder).exists() or i.node.stage.light]:
            self._here(here[0])
        ready = self._worth_starting(self._ready())
        if ready and not self.workers and (self.jobs == 1 or len(ready) == 1):
            # Alone: nothing else can become ready before it ends, so it has this process and all cores.
            self._here(ready[0])
            return
        threads = max(1, len(usable_cores()) // self.jobs)
        for identity in ready[: self.jobs - len(self.workers)]:
            self._say(identity, "started")
            worker = _Worker(identity, self._job(identity), folder, threads, self._free_cores(threads))
            self.workers.append(worker)
            self.pending.remove(identity)

    def _worth_starting(self, ready: list[Identity]) -> list[Identity]:
        """`ready` without a lone wide stage that would have to share.

        Beside others it would have a part of the cores to its end, for a worker keeps what it got.
        """
        wide = [identity for identity in ready if identity.node.stage.wide]
        shared = any(worker.job.stage.wide for worker in self.workers)
        if self.jobs == 1 or len(wide) != 1 or shared or not (self.workers or len(ready) > 1):
            return ready
        return [identity for identity in ready if identity is not wide[0]]

    def _free_cores(self, count: int) -> list[int]:
        """`count` cores that no worker keeps to; none where there are fewer cores than workers."""
        taken = {core for worker in self.workers for core in worker.cores}
        free = [core for core in usable_cores() if core not in taken]
        return free[:count] if len(free) >= count else []

    def _here(self, identity: Identity) -> None:
        job = self._job(identity)
        self.pending.remove(identity)
        if not job.final.exists():
            self._say(identity, "resumed" if (job.partial / "resume").exists() else "started")
        clock = time.monotonic()
        try:
            together = self.together if job.stage.parallel else None
            outcome = run_stage(job) if together is None else together(job)
        except (KeyboardInterrupt, Stopped):
            self._say(identity, _STOPPED)
            raise
        self._finish(identity, job, outcome, time.monotonic() - clock)

    def _collect(self) -> None:
        ended = [worker for worker in self.workers if worker.process.poll() is not None]
        for worker in ended:
            self.workers.remove(worker)
            try:
                outcome = worker.outcome()
            except (KeyboardInterrupt, Stopped):
                self._say(worker.identity, _STOPPED)
                raise
            self._finish(worker.identity, worker.job, outcome, time.monotonic() - worker.clock)
        if self.workers and not ended:
            time.sleep(0.05)

    def _job(self, identity: Identity) -> Job:
        node = identity.node
        inputs: dict[str, Artifact | list[Artifact]] = {
            key: [self.artifacts[n.name] for n in given]
            if isinstance(given, list)
            else self.artifacts[given.name]
            for key, given in node.inputs.items()
        }
        base: dict[str, Any] = {"id": identity.id, "config": identity.config, "inputs": identity.inputs}
        base["fingerprint"] = identity.fingerprint
        return Job(node.name, node.stage, node.config, inputs, self.store.final(identity.folder), base)

    def _finish(self, identity: Identity, job: Job, outcome: Outcome, seconds: float) -> None:
        record = read_record(job.final)
        if record.id != identity.id:
            raise UserError(
                f"stage {job.name}: {job.final.name} belongs to another identity",
                where=str(job.final),
                fix="delete that folder and run again",
            )
        self.store.alias(self.name, identity.node.name, identity.folder)
        self.artifacts[identity.node.name] = job.artifact()
        self.outcomes[identity.node.name] = (outcome, identity.folder)
        self._say(identity, "cached" if outcome == "cached" else f"done in {seconds:.1f} s")

    def _say(self, identity: Identity, what: str) -> None:
        number = list(self.recipe.nodes).index(identity.node.name) + 1
        console.print(
            f"[{number}/{len(self.recipe.nodes)}] {identity.node.name}: {what}", markup=False, soft_wrap=True
        )
