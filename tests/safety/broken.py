"""A monitor that fails where it is told to."""

from __future__ import annotations

import numpy as np

from publius.core.messages import Conversation, user
from publius.safety.monitor import ALLOW, Verdict

ASKED = Conversation(messages=(user("What is new?"),))


class Broken:
    """Fails in the method it is given."""

    name, probe = "broken", None

    def __init__(self, where: str) -> None:
        self.where = where

    def watch(self, conversation: Conversation) -> Broken:
        self._fail("watch")
        return self

    def prompt(self) -> Verdict:
        self._fail("prompt")
        return ALLOW

    def reply(self, text: str, scores: np.ndarray, *, done: bool) -> tuple[Verdict, int]:
        self._fail("reply")
        return ALLOW, len(text)

    def _fail(self, where: str) -> None:
        if where == self.where:
            raise RuntimeError("secret content")
