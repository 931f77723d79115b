"""A worker: one stage in a process of its own, told by a JSON job file, answering in a JSON file.

`python -m publius.pipeline.worker [MODULE ...]` imports the modules and waits for a line on stdin, the path
of its job. It holds that pipe on: when it closes, the parent is dead and the worker ends at once, so
`kill -9` on a runner leaves no orphans.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from publius.core.device import keep_memory
from publius.core.errors import UserError
from publius.pipeline.execute import run_stage
from publius.pipeline.job import read_job
from publius.pipeline.stop import Stopped, interrupts
from publius.pipeline.store import read_json, write_json

__all__ = ["main", "work"]


def work(job_file: Path) -> int:
    """Do the job in `job_file` and write the outcome, or the user's error, or a crash, to its answer file."""
    given = read_json(job_file)
    sys.path[:] = given["path"]
    answer: dict[str, Any]
    code = 0
    try:
        with interrupts(signal.SIGTERM, signal.SIGINT):
            answer = {"outcome": run_stage(read_job(given))}
    except UserError as error:
        answer, code = {"what": error.what, "where": error.where, "fix": error.fix}, 2
    except Stopped:
        answer = {"stopped": True}
    except KeyboardInterrupt:
        answer, code = {"interrupted": True}, 130
    except Exception:
        answer, code = {"crash": traceback.format_exc()}, 1
    write_json(Path(given["answer"]), answer)
    return code


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


def main(arguments: Sequence[str]) -> int:
    """Import what `arguments` name, wait for a job, and do it while watching the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for those at work
    for module in arguments:
        with contextlib.suppress(Exception):  # a stage that needs it fails where it can say so
            importlib.import_module(module)
    path = _line()
    if not path:
        return 0  # not needed, or the parent is gone
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    keep_memory()
    return work(Path(os.fsdecode(path)))


def _line() -> bytes:
    """One line of stdin, and nothing beyond it."""
    line = b""
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        line += byte
    return line


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
