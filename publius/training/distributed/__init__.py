"""One training over several processes: FSDP2, HSDP, tensor and context parallel, sharded states.

Only the config stands here: torch's machinery takes the better part of a second to import, and processes that
work alone need none of it. `job` loads the rest where there is a job, and its runs hand it to the loop.
"""

from publius.training.distributed.layout import ParallelConfig

__all__ = ["ParallelConfig"]
