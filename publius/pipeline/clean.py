"""`publius clean`: delete what no run points at."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import NamedTuple

from publius.core.errors import UserError
from publius.pipeline.names import did_you_mean
from publius.pipeline.store import Store, claim, disk_errors, is_claimed, remove_tree

__all__ = ["Removed", "clean_home"]


class Removed(NamedTuple):
    """One folder deleted, and the bytes it held."""

    path: Path
    bytes: int


def clean_home(
    home: Path, *, run: str | None = None, older_than: float | None = None, dry_run: bool = False
) -> list[Removed]:
    """Delete artifacts that no alias points at, and unfinished ones that no runner is working on.

    Args:
        run: forget this run first, and delete only the artifacts that it alone pointed at.
        older_than: spare what was changed within this many days.
        dry_run: only say what would go.

    Raises:
        UserError: for an unknown run, or a folder that cannot be written.
    """
    store = Store(home)
    if run is not None and not store.run(run).is_dir():
        raise UserError(
            f"there is no run {run!r}", where=str(store.runs), fix=did_you_mean(run, store.run_names())
        )
    with disk_errors(f"cleaning {store.home}"):
        kept = _pointed_at([p for p in store.runs.glob("*") if p.name != run])
        doomed = _candidates(store, run, kept, older_than)
        removed = [Removed(path, _size(path)) for path in doomed]
        if not dry_run:
            for path in doomed:
                _remove(path)
            if run is not None:
                remove_tree(store.run(run))
            for trash in store.artifacts.glob(".*.trash"):
                shutil.rmtree(trash)
    return removed


def _pointed_at(runs: list[Path]) -> set[str]:
    return {
        link.readlink().name for run in runs if run.is_dir() for link in run.iterdir() if link.is_symlink()
    }


def _candidates(store: Store, run: str | None, kept: set[str], older_than: float | None) -> list[Path]:
    limit = time.time() - older_than * 86400 if older_than is not None else None
    only = _pointed_at([store.run(run)]) if run is not None else None
    found: list[Path] = []
    for path in sorted(store.artifacts.glob("[!.]*")):
        if path.name in kept or not path.is_dir() or (only is not None and path.name not in only):
            continue
        if limit is not None and path.stat().st_mtime > limit:
            continue
        if path.suffix == ".partial" and is_claimed(path):
            continue
        found.append(path)
    return found


def _size(folder: Path) -> int:
    return sum(file.lstat().st_size for file in folder.rglob("*") if not file.is_dir())


def _remove(path: Path) -> None:
    if path.suffix == ".partial":
        # Under its lock, so that a runner starting right now is refused instead of robbed.
        with claim(path):
            remove_tree(path)
    else:
        remove_tree(path)
