"""Running a recipe: stages in order, or independent ones side by side in worker processes."""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from publius.core.console import console
from publius.core.device import keep_memory, usable_cores
from publius.core.errors import UserError
from publius.pipeline.artifact import Artifact, read_record
from publius.pipeline.books import read_executions
from publius.pipeline.execute import Outcome, run_stage
from publius.pipeline.identity import Identity, identify
from publius.pipeline.job import Job
from publius.pipeline.names import check_run_name
from publius.pipeline.recipe import Recipe
from publius.pipeline.stop import Stopped, interrupts
from publius.pipeline.store import Store, alone, disk_errors, left_by_the_dead, write_json
from publius.pipeline.workers import Spares, StageCrash, Worker

__all__ = ["StageCrash", "run_recipe"]

_STOPPED = "stopped; the same command goes on from here"


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
        _write_recipe(store, name, recipe, until, identities)
        execution = _Execution(recipe, name, store, identities, jobs, together)
        with _journal(store, name, execution):
            execution.run()
    return execution.artifacts


def _write_recipe(
    store: Store, name: str, recipe: Recipe, until: str | None, identities: Sequence[Identity]
) -> None:
    """Say what the run is to be; of stages behind `until` only what can be told by now: they may read files
    that are not there yet."""
    if until is not None:
        with suppress(UserError):
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
    read_executions(path)  # a damaged one is told now, not after hours
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
        with alone(path.parent):  # another execution of this run may have ended meanwhile
            _, past = read_executions(path)
            write_json(path, {"executions": [*past, entry]})


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
        self.artifacts: dict[str, Artifact] = {}
        self.outcomes: dict[str, tuple[Outcome, str]] = {}
        self.workers: list[Worker] = []
        self.threads = max(1, len(usable_cores()) // jobs)
        self.spares = Spares(
            self.threads, {identity.node.stage.function.__module__ for identity in identities}
        )
        self.chains = _chains(recipe)

    def run(self) -> None:
        """Until nothing is pending; on any failure the workers are stopped first."""
        with tempfile.TemporaryDirectory(prefix="publius-") as folder, self.spares:
            try:
                self._keep_spares()
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
            # Alone: nothing else can become ready before it ends, or it is worth all cores.
            self._here(ready[0])
            return
        for identity in ready[: self.jobs - len(self.workers)]:
            self._say(identity, "started")
            job, cores = self._job(identity), self._free_cores(self.threads)
            self.workers.append(Worker(self.spares, identity, job, folder, cores))
            self.pending.remove(identity)
            self._keep_spares()

    def _keep_spares(self) -> None:
        """Let workers start while there is something to wait for, as many as will be wanted at once."""
        left = [i for i in self.pending if not i.node.stage.light and not self.store.final(i.folder).exists()]
        self.spares.keep(min(self.jobs, len(left)) if self.jobs > 1 and len(left) > 1 else 0)

    def _worth_starting(self, ready: list[Identity]) -> list[Identity]:
        """`ready`, those first on which most waits, with an eye to a lone wide stage.

        Beside others that would have a part of the cores to its end, for a worker keeps what it got. Where
        most waits on it, no other is started until it has had all of them; else the others come first.
        """
        if self.jobs == 1:
            return ready
        ready = sorted(ready, key=lambda identity: -self.chains[identity.node.name])
        wide = [identity for identity in ready if identity.node.stage.wide]
        shared = any(worker.job.stage.wide for worker in self.workers)
        if len(wide) != 1 or shared or not (self.workers or len(ready) > 1):
            return ready
        others = [identity for identity in ready if identity is not wide[0]]
        if others and self.chains[wide[0].node.name] <= self.chains[others[0].node.name]:
            return others
        return [] if self.workers else wide

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


def _chains(recipe: Recipe) -> dict[str, int]:
    """For each node, how many stages stand one after the other behind it."""
    chains = dict.fromkeys(recipe.nodes, 0)
    for node in reversed(recipe.nodes.values()):  # a node stands behind its parents
        for parent in node.parents():
            chains[parent.name] = max(chains[parent.name], chains[node.name] + 1)
    return chains
