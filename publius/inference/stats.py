"""What an engine counts."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Stats"]


class Stats(NamedTuple):
    """What an engine has done since it was made."""

    read: int = 0
    """Tokens that went through the model, guesses included."""
    reused: int = 0
    """Tokens of prompts that came from the prefix cache instead."""
    guessed: int = 0
    accepted: int = 0
    """Guesses that stood."""
    preempted: int = 0
    """Times that a request gave its pages up."""
    steps: int = 0
    pages: int = 0
    """In use now."""
