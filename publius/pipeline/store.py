"""Files that survive a kill: the folders of a home, locks, atomic writes, and disk errors as user errors."""

from __future__ import annotations

import errno
import fcntl
import itertools
import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from publius.core.errors import UserError

__all__ = [
    "Store",
    "alone",
    "as_user_error",
    "claim",
    "disk_errors",
    "fsync",
    "fsync_tree",
    "is_claimed",
    "left_by_the_dead",
    "read_json",
    "remove_tree",
    "whole_folder",
    "write_json",
    "write_whole",
]

_FULL = {errno.ENOSPC, errno.EDQUOT}
_WRITABLE = "make it writable, or use --home"
_IN_THE_WAY = "move what stands there, or give another path"
_REFUSED = {
    errno.EROFS: _WRITABLE, errno.EACCES: _WRITABLE, errno.EPERM: _WRITABLE,
    errno.ENOTDIR: _IN_THE_WAY, errno.EEXIST: _IN_THE_WAY, errno.EISDIR: _IN_THE_WAY,
    errno.ENAMETOOLONG: "give a shorter name", errno.ELOOP: "mend the link",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f)",
}  # fmt: skip
"""What a path may be refused for, and what to do. A missing file is not here: what lacks one has a bug."""


class Store:
    """The layout under `home`: `artifacts/<stage>-<id12>` and `runs/<name>/<stage>` aliases."""

    def __init__(self, home: Path) -> None:
        self.home = Path(home)
        self.artifacts = self.home / "artifacts"
        self.runs = self.home / "runs"

    def final(self, folder: str) -> Path:
        """Where a finished artifact lies."""
        return self.artifacts / folder

    def partial(self, folder: str) -> Path:
        """Where an unfinished one is being made."""
        return self.artifacts / f"{folder}.partial"

    def run(self, name: str) -> Path:
        """The folder of a run: aliases, `recipe.json`, `run.json`."""
        return self.runs / name

    def alias(self, name: str, node: str, folder: str) -> None:
        """Point `runs/<name>/<node>` at an artifact, replacing any older alias in one step."""
        link = self.run(name) / node
        fresh = link.with_name(f".{node}.{os.getpid()}")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(Path("..") / ".." / "artifacts" / folder)
        fresh.replace(link)

    def aliased(self, name: str, node: str) -> str | None:
        """The artifact folder name `runs/<name>/<node>` points at; None without such an alias."""
        link = self.run(name) / node
        return link.readlink().name if link.is_symlink() else None

    def has_run(self, name: str) -> bool:
        """Whether a run of this name was ever begun here."""
        try:
            return (self.run(name) / "recipe.json").exists()
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:  # longer than a run can be called
                return False
            raise

    def run_names(self) -> list[str]:
        """Names of the runs known here, sorted."""
        return sorted(p.parent.name for p in self.runs.glob("*/recipe.json"))


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


@contextmanager
def claim(partial: Path) -> Iterator[None]:
    """Make the folder `partial` and hold its lock; a killed holder's lock is gone with it.

    Raises:
        UserError: when another runner holds it.
    """
    lock = partial / "lock"
    for attempt in itertools.count():
        try:
            partial.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        except (FileNotFoundError, FileExistsError):
            if attempt > 100:
                raise
            continue  # its owner finished and renamed the folder between two calls
        except OSError:
            with suppress(OSError):
                partial.rmdir()  # made a moment ago and still empty, or another's and not
            raise
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode() or "unknown"
            os.close(descriptor)
            raise UserError(
                f"another runner (process {holder}) is making {partial.stem}",
                where=str(partial),
                fix="wait for it to finish, or stop it, and run again",
            ) from None
        try:
            # The lock counts only if the file is still the one the path names.
            if _inode(lock) == os.fstat(descriptor).st_ino:
                with suppress(OSError):  # a full disk: the lock holds without its owner's number
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
                yield
                return
        finally:
            os.close(descriptor)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Read, change and write a file of `folder` while no other process does; a killed one's lock is gone."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a network's disk locks no folders
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def is_claimed(partial: Path) -> bool:
    """Whether a live runner holds `partial`."""
    try:
        descriptor = os.open(partial / "lock", os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


@contextmanager
def disk_errors(where: str) -> Iterator[None]:
    """Turn a full disk and a refused path, however wrapped by a library, into a `UserError`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        mended = as_user_error(error, where)
        if mended is None:
            raise
        raise mended from error


def as_user_error(error: BaseException, where: str) -> UserError | None:
    """A full disk or a refused path, as what a user can mend; None for anything else."""
    cause: BaseException | None = error
    while cause is not None:
        code = cause.errno if isinstance(cause, OSError) else None
        if code is None:  # libraries written in Rust or C++ keep only the system's words
            text = str(cause)
            code = next((told for told in (*_FULL, errno.EFBIG) if os.strerror(told) in text), None)
        if code in _FULL:
            return UserError(
                "the disk is full", where=where, fix="free space (try `publius clean`), run again"
            )
        if code in _REFUSED:
            name, reason = getattr(cause, "filename", None) or where, os.strerror(code)
            return UserError(f"cannot use {name}: {reason}", where=where, fix=_REFUSED[code])
        cause = cause.__cause__
    return None


def fsync(path: Path) -> None:
    """Force one file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(folder: Path) -> None:
    """Force `folder` and all in it to the disk, children first."""
    for child in folder.iterdir():
        if child.is_dir() and not child.is_symlink():
            fsync_tree(child)
        elif child.is_file():
            fsync(child)
    fsync(folder)


def remove_tree(folder: Path) -> None:
    """Remove a folder so that a kill half way leaves no half of it under its own name."""
    if not folder.exists():
        return
    trash = folder.with_name(f".{folder.name}.{os.getpid()}-{threading.get_ident()}.trash")
    folder.rename(trash)
    shutil.rmtree(trash)


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all."""
    write_whole(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def write_whole(path: Path, content: bytes, *, mode: int = 0o666, over: bool = True) -> None:
    """Write a file so that a full disk, or a kill, leaves the earlier one as it was.

    Args:
        mode: of a file, before the user's mask.
        over: take the place of one that is there.

    Raises:
        FileExistsError: when one is there, and not `over`; OSError: when it cannot be written.
    """
    # two threads may write the same; the process comes last, for `left_by_the_dead`
    fresh = path.with_name(f".{path.name}.{threading.get_ident()}.{os.getpid()}")
    try:
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if over:
            fresh.replace(path)
        else:
            path.hardlink_to(fresh)
    finally:
        fresh.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path) -> Iterator[None]:
    """What is made within is a whole folder: where that fails, one that was not there before is gone again.

    Raises:
        UserError: for a full disk and a refused write.
    """
    there = folder.exists()
    try:
        with disk_errors(str(folder)):
            yield
    except BaseException:
        if not there:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def left_by_the_dead(path: Path) -> bool:
    """Whether `path` is a temporary of ours, `.<name>.<thread>.<process>`, whose process was killed."""
    process = path.suffix.removeprefix(".")
    if not path.name.startswith(".") or not process.isdigit():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except OSError:  # alive, and another user's
        return False
    return False


def read_json(path: Path) -> Any:
    """Read a JSON file of ours.

    Raises:
        UserError: when it is damaged.
    """
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"a JSON file is damaged: {error}", where=str(path), fix="delete it") from None
