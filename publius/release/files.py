"""Files and folders of a decision, a release or a key: there as a whole, or not at all."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from publius.pipeline.store import disk_errors

__all__ = ["whole_folder", "write_whole"]


def write_whole(path: Path, content: bytes, *, mode: int = 0o666, over: bool = True) -> None:
    """Write a file so that a full disk, or a kill, leaves the earlier one as it was.

    Args:
        mode: of a file, before the user's mask.
        over: take the place of one that is there.

    Raises:
        FileExistsError: when one is there, and not `over`; OSError: when it cannot be written.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
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
