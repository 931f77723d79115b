"""A whole server over a tiny random model, spoken to through its application."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from publius.testing.server import write_tiny_checkpoint
from tests.serve.serving import Spoken


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random model that reads 4,096 tokens."""
    return write_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "haiku", max_position=4096)


@pytest.fixture
def spoken(checkpoint: Path, tmp_path: Path) -> Iterator[Spoken]:
    """A running application, asked with its key."""
    with Spoken(checkpoint, tmp_path) as one:
        yield one
