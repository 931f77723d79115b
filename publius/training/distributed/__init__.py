"""One training over several processes: FSDP2, HSDP, tensor and context parallel, sharded states."""

from publius.training.distributed.layout import ParallelConfig
from publius.training.distributed.session import Session, join_session

__all__ = ["ParallelConfig", "Session", "join_session"]
