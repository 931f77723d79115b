"""`publius run --nproc N`: the same command in N processes, through PyTorch's elastic launcher.

The first process that dies takes the others with it, within seconds; what failed is told in one line. When
this process dies, by whatever means, so do they.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from publius.core.device import usable_cores
from publius.core.errors import UserError
from publius.training.distributed.job import LAUNCHED, LOST

__all__ = ["launch"]


def launch(processes: int, arguments: Sequence[str]) -> int:
    """Run `publius ARGUMENTS` in `processes` processes of this machine; the exit code of rank 0.

    Raises:
        UserError: naming the process that was lost, unless rank 0 has said what was wrong.
    """
    if processes < 1:
        raise UserError(f"nproc is {processes}", where="--nproc", fix="give 1 or more")
    _hold_pipe()
    threads = max(1, len(usable_cores()) // processes)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    os.environ[LAUNCHED] = "1"
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=f"publius-{os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.1,
    )
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # the launcher's own account of a failure is a page long
    try:
        elastic_launch(config, sys.executable)("-m", "publius.cli", *arguments)
    except ChildFailedError as error:
        return _told(error)
    except SignalException as error:  # they have saved and ended
        return 130 if error.sigval == signal.SIGINT else 0
    finally:
        logging.disable(before)
    return 0


def _told(error: ChildFailedError) -> int:
    """The exit code, when rank 0 has told the user why."""
    codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
    rank, first = error.get_first_failure()
    killed = {r: -code for r, code in codes.items() if code < 0 and code != -signal.SIGTERM}
    if killed and (rank in killed or codes.get(0) not in (1, 2, 130)):
        rank = rank if rank in killed else min(killed)
        how = f"was killed by {signal.Signals(killed[rank]).name}"
    elif codes.get(0, LOST) not in (LOST, -signal.SIGTERM):
        return codes[0]
    else:
        how = f"ended with code {first.exitcode}"
    raise UserError(
        f"process {rank} of this job {how}; the others were stopped",
        where=f"--nproc, rank {rank}",
        fix="run again: it goes on from the last saved state. If you did not kill it, it may have run out of"
        " memory: use fewer processes or smaller batches",
    )


def _hold_pipe() -> None:
    """Give the processes, as stdin, a pipe that closes when this process is gone."""
    read, write = os.pipe()
    os.dup2(read, 0)
    os.close(read)
    os.set_inheritable(write, False)
