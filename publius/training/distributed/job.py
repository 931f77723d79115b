"""A job of several processes, seen from inside one of them.

Rank 0 runs the recipe. Stages that train are told to the others, as JSON through the job's store, and done
together; meanwhile and after, the others wait. Started by `publius run --nproc N` on one machine, or by
torchrun on many (they must share the disk that holds `--home`).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.rendezvous import rendezvous

from publius.core.console import console
from publius.core.errors import UserError
from publius.pipeline.execute import Outcome, run_stage
from publius.pipeline.job import Job, describe_job, read_job
from publius.pipeline.run import Run
from publius.pipeline.stop import Stopped, interrupts
from publius.training.distributed.ranks import Link, backend
from publius.training.distributed.run import Done, Follower, Leader

__all__ = ["LAUNCHED", "LOST", "Member", "lost_contact"]

LAUNCHED = "PUBLIUS_LAUNCHED"
"""Set in processes that `launch` started: it tells the user of lost ones, and holds a pipe to them."""
LOST = 3
"""The exit code of a process that ended because another did."""
_LAST_WORDS = 2.0
"""Seconds between reporting a failure to rank 0 and ending, for rank 0 to tell it before it is ended too."""
_WHILE = timedelta(hours=1)
_FAILED = "failed"


def lost_contact(error: BaseException) -> bool:
    """Is this how torch says that another process of the job is gone, or does not answer?"""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, dist.DistError) or (isinstance(cause, RuntimeError) and "gloo" in str(cause)):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


class Member:
    """This process among those of its job.

    Args:
        store: of the job, shared by all.
        rank: mine.
        world: how many there are.
        local: my number on this machine, which is that of my GPU.
    """

    def __init__(self, store: Store, rank: int, world: int, local: int) -> None:
        self.store, self.rank, self.world, self.local = store, rank, world, local
        self._link = Link(PrefixStore("jobs", store))
        self._count = 0

    @classmethod
    def join(cls) -> Member:
        """By what the launcher left in the environment."""
        if LAUNCHED in os.environ:
            threading.Thread(target=_end_with_launcher, daemon=True).start()
        store, rank, world = next(rendezvous("env://", timeout=timedelta(minutes=5)))
        return cls(store, rank, world, int(os.environ.get("LOCAL_RANK", "0")))

    @contextmanager
    def _group(self, patience: float) -> Iterator[Link]:
        """Inside, the ranks can talk; each stage has groups of its own."""
        self._count += 1
        store = PrefixStore(f"stage-{self._count}", self.store)
        if torch.cuda.is_available():
            torch.cuda.set_device(self.local)
        dist.init_process_group(
            backend(),
            store=PrefixStore("group", store),
            rank=self.rank,
            world_size=self.world,
            timeout=timedelta(seconds=patience),
        )
        try:
            yield Link(PrefixStore("link", store))
        finally:
            dist.destroy_process_group()

    def together(self, job: Job) -> Outcome:
        """Rank 0: do `job` with all the others.

        Raises:
            UserError: also when one of them failed, or is lost.
        """

        def begin(folder: Path, name: str) -> Run:
            # Only now is it sure that there is work to do.
            self._link.tell(json.dumps(describe_job(job, Path())))
            return Leader(folder, name, link.enter())

        link = _Opened(self._group(_patience(job)))
        try:
            return run_stage(job, begin)
        except Exception as error:
            if not lost_contact(error):
                raise
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # comes soon; must not cut this short
            raise self._failure(job) from None
        finally:
            link.leave()

    def _failure(self, job: Job) -> UserError:
        where = f"stage {job.name} ({job.final.name})"
        if self.store.check([_FAILED]):
            told = json.loads(self.store.get(_FAILED))
            return UserError(told["what"], where=told["where"] or where, fix=told["fix"])
        if LAUNCHED in os.environ:
            sys.exit(LOST)
        return UserError(
            f"stage {job.name}: another process of this job was lost",
            where=where,
            fix="run again: it goes on from the last saved state",
        )

    def dismiss(self) -> None:
        """Rank 0: there is nothing more to do."""
        self._link.tell("")

    def serve(self) -> int:
        """Another rank: do stages as rank 0 tells them, until it says that there are no more; the exit code.

        Errors go to rank 0, which tells the user.
        """
        with interrupts(signal.SIGTERM, signal.SIGINT):
            try:
                return self._serve()
            except Stopped:  # also while a failure is told: rank 0's words are the only ones
                return 0
            except KeyboardInterrupt:
                return 130

    def _serve(self) -> int:
        try:
            while given := self._next():
                self._follow(json.loads(given))
        except UserError as error:
            self._report(error.what, error.where, error.fix)
            time.sleep(_LAST_WORDS)
            return LOST
        except Exception as error:
            if not lost_contact(error) and not self.store.check([_FAILED]):
                fix = "this is a bug; what happened stands above"
                self._report(f"rank {self.rank} failed: {type(error).__name__}: {error}", "", fix)
                traceback.print_exc()
            time.sleep(_LAST_WORDS)
            return LOST
        return 0

    def _next(self) -> str:
        """What rank 0 says next, however long it takes with stages of its own."""
        while True:
            try:
                return self._link.hear(_WHILE)
            except dist.DistStoreError:
                continue

    def _report(self, what: str, where: str, fix: str) -> None:
        self.store.set(_FAILED, json.dumps({"what": what, "where": where, "fix": fix}))

    def _follow(self, given: Mapping[str, Any]) -> None:
        sys.path[:] = given["path"]
        job = read_job(given)
        with tempfile.TemporaryDirectory(prefix="publius-") as folder, self._group(_patience(job)) as link:
            run = Follower(Path(folder) / "run", job.name, link)
            try:
                job.stage(run, job.config, **job.inputs)
            except Done:
                return
            console.print(f"rank {self.rank}: {job.stage.name} never calls run.lead()", markup=False)


class _Opened:
    """A context entered later than it is left."""

    def __init__(self, context: Any) -> None:
        self._context, self._entered = context, False

    def enter(self) -> Any:
        self._entered = True
        return self._context.__enter__()

    def leave(self) -> None:
        if self._entered:
            self._context.__exit__(None, None, None)


def _patience(job: Job) -> float:
    """`parallel.timeout_seconds`, wherever in the stage's config the loop's is."""
    for config in (job.config, getattr(job.config, "loop", None)):
        if (parallel := getattr(config, "parallel", None)) is not None:
            return parallel.timeout_seconds
    return 50.0


def _end_with_launcher() -> None:
    while os.read(0, 1):
        pass
    os._exit(LOST)
