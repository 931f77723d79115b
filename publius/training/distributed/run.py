"""The `Run` that each rank's stage function holds: rank 0's writes, the others' only keep in step."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from publius.core.console import Ticker
from publius.pipeline.run import Run
from publius.training.distributed.ranks import Link
from publius.training.distributed.session import join_session

__all__ = ["Done", "Follower", "Leader"]

_SOON = timedelta(minutes=30)
"""How long another rank waits for rank 0's word in the middle of a stage. Rank 0's end is seen at once by who
started the job; this bounds only what nobody sees."""


class Done(BaseException):
    """A rank other than 0 has done its part of a stage."""


def _any(wish: bool) -> bool:
    wishes = torch.tensor([int(wish)])
    dist.all_reduce(wishes, dist.ReduceOp.MAX)
    return bool(wishes.item())


class Leader(Run):
    """Rank 0's run: an ordinary one that tells the others where states lie.

    Args:
        folder: as `Run`.
        stage: as `Run`.
        link: to the other ranks.
    """

    join = staticmethod(join_session)

    def __init__(self, folder: Path, stage: str, link: Link) -> None:
        super().__init__(folder, stage)
        self._link = link

    def _fill(self, write: Callable[[Path], object], folder: Path) -> Callable[[], object] | None:
        self._link.tell(str(folder.resolve()))
        return super()._fill(write, folder)

    def restore(self) -> Path | None:
        """As `Run.restore`; the others hear of it."""
        found = super().restore()
        self._link.tell("" if found is None else str(found.resolve()))
        return found

    def agree(self, wish: bool) -> bool:
        """Whether any rank wishes."""
        return _any(wish)


class Follower(Run):
    """Another rank's run: states go where rank 0 says, everything else nowhere.

    Args:
        folder: a temporary one; what a stage writes there is lost.
        stage: as `Run`.
        link: to rank 0.
    """

    join = staticmethod(join_session)

    def __init__(self, folder: Path, stage: str, link: Link) -> None:
        super().__init__(folder, stage)
        self._link = link
        self._rest: Callable[[], object] | None = None

    def log(self, **numbers: Any) -> None:
        """Rank 0 does."""

    def progress(self, label: str, total: float) -> AbstractContextManager[Ticker]:
        """Rank 0 shows it."""
        return nullcontext(_Silent())

    def save(self, write: Callable[[Path], object]) -> None:
        """This rank's part of the state that rank 0 keeps."""
        self.settle()
        self._rest = self._fill(write, Path(self._link.hear(_SOON)))

    def settle(self) -> None:
        """Wait until this rank's part is written."""
        rest, self._rest = self._rest, None
        if rest is not None:
            rest()

    def restore(self) -> Path | None:
        """The state that rank 0 found."""
        found = self._link.hear(_SOON)
        return Path(found) if found else None

    def agree(self, wish: bool) -> bool:
        """Whether any rank wishes."""
        return _any(wish)

    def lead(self) -> None:
        """This rank is done.

        Raises:
            Done: always.
        """
        self.settle()
        raise Done


class _Silent:
    """A progress display that shows nothing."""

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Nothing."""
