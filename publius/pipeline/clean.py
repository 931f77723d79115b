"""`publius clean`: delete what no run points at."""

from __future__ import annotations

import math
import shutil
import time
from pathlib import Path
from typing import NamedTuple

from publius.core.errors import UserError
from publius.pipeline.books import read_wiring
from publius.pipeline.names import check_run_name, did_you_mean
from publius.pipeline.store import Store, claim, disk_errors, is_claimed, remove_tree

__all__ = ["Removed", "clean_home"]


class Removed(NamedTuple):
    """One folder deleted, and the bytes it held."""

    path: Path
    bytes: int


def clean_home(
    home: Path, *, run: str | None = None, older_than: float | None = None, dry_run: bool = False
) -> list[Removed]:
    """Delete artifacts that no run points at, and unfinished ones that no runner is working on and no run can
    go on with: a training that was stopped is not lost.

    Args:
        run: forget this run first, and delete only the artifacts that it alone pointed at.
        older_than: spare what was changed within this many days.
        dry_run: only say what would go.

    Raises:
        UserError: for an unknown run, days that are no number of them, or a folder that cannot be written.
    """
    store = Store(home)
    if older_than is not None and not 0 <= older_than < math.inf:
        fix = "give a number of days, 0 or more"
        raise UserError(f"{older_than:g} days cannot be", where="--older-than", fix=fix)
    if run is not None:
        check_run_name(run)  # a path would lead out of runs/
    if run is not None and not store.run(run).is_dir():
        raise UserError(
            f"there is no run {run!r}", where=str(store.runs), fix=did_you_mean(run, store.run_names())
        )
    with disk_errors(f"cleaning {store.home}"):
        doomed = _candidates(store, run, _kept(store, run), older_than)
        removed = [Removed(path, _size(path)) for path in doomed]
        if not dry_run:
            # looked at again before each: a run that began meanwhile may have taken one up
            removed = [one for one in removed if _remove(one.path, _kept(store, run))]
            if run is not None:
                remove_tree(store.run(run))
            for trash in store.artifacts.glob(".*.trash"):
                shutil.rmtree(trash)
    return removed


class _Kept(NamedTuple):
    """What the runs that stay need, by folder name."""

    pointed: set[str]
    """By an alias."""
    wanted: set[str]
    """By a recipe: what it has made, and what it will go on with."""

    def spares(self, path: Path) -> bool:
        """Whether it must stay: of what is unfinished only a state to go on from."""
        if path.suffix != ".partial":
            return path.name in self.pointed or path.name in self.wanted
        begun = any((path / "resume").glob("[0-9]*"))
        return is_claimed(path) or (begun and path.name.removesuffix(".partial") in self.wanted)


def _kept(store: Store, but: str | None) -> _Kept:
    """Of all runs but one. A recipe is written before its first stage begins."""
    runs = [run for run in store.runs.glob("*") if run.is_dir() and run.name != but]
    recipes = [run / "recipe.json" for run in runs]
    stages = [stage for path in recipes if path.is_file() for stage in read_wiring(path).stages]
    return _Kept(_pointed_at(runs), {stage.artifact for stage in stages})


def _pointed_at(runs: list[Path]) -> set[str]:
    return {link.readlink().name for run in runs for link in run.iterdir() if link.is_symlink()}


def _candidates(store: Store, run: str | None, kept: _Kept, older_than: float | None) -> list[Path]:
    limit = time.time() - older_than * 86400 if older_than is not None else None
    only = _pointed_at([store.run(run)]) if run is not None else None
    found: list[Path] = []
    for path in sorted(store.artifacts.glob("[!.]*")):
        if not path.is_dir() or (only is not None and path.name not in only) or kept.spares(path):
            continue
        if limit is not None and path.stat().st_mtime > limit:
            continue
        found.append(path)
    return found


def _size(folder: Path) -> int:
    return sum(file.lstat().st_size for file in folder.rglob("*") if not file.is_dir())


def _remove(path: Path, kept: _Kept) -> bool:
    """False when it is needed after all."""
    if kept.spares(path):
        return False
    if path.suffix == ".partial":
        # Under its lock, so that a runner starting right now is refused instead of robbed.
        with claim(path):
            remove_tree(path)
    else:
        remove_tree(path)
    return True
