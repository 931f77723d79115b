"""Between what a model writes and what leaves: parts of a reply wait here until monitors have verified them.

A monitor says how many characters of the reply, counted over all its blocks, may leave. Everything behind
that waits; when a monitor blocks, what waits is dropped, so nothing of what it blocked has left. Between what
is thought and what is said stands a line's end that monitors read and nobody else: the last word of the one
and the first of the other are two.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from publius.safety.monitor import ALLOW, SEAM, Verdict, Watching
from publius.serve.blocks import Opens, Part, Says

__all__ = ["HoldBack"]


class _Seam:
    """The place of `SEAM` among the parts that wait."""


class HoldBack:
    """The parts of one reply on their way out.

    Args:
        watching: the monitors; None lets everything pass at once.
    """

    def __init__(self, watching: Watching | None) -> None:
        self._watching = watching
        self._waiting: deque[Part | _Seam] = deque()
        self._thinks = False
        """The block that was last opened is a thought."""
        self._text = ""
        self._released = 0
        self.verdict: Verdict = ALLOW
        """The gravest so far: a flag is kept until the end."""

    def slow(self, count: int, *, done: bool) -> bool:
        """Whether the next `take`, of `count` tokens, is known to take a model's pass: no place to wait."""
        return self._watching is not None and self._watching.works(count, done=done)

    def take(
        self,
        parts: list[Part],
        scores: NDArray[np.float32],
        *,
        done: bool,
        drawn: Sequence[int] = (),
        trunk_TD: NDArray[np.float32] | None = None,
    ) -> Iterator[Part]:
        """Take parts in and give those that may leave; none any more once `blocked`.

        Args:
            scores: one row for each token drawn so far.
            drawn: these tokens, and maybe more.
            trunk_TD: what the engine has kept of them (`Request.trunk`).
            done: the reply is over.
        """
        if self._watching is None:
            yield from parts
            return
        for part in parts:
            self._wait(part)
        verdict, verified = self._watching.reply(
            self._text, scores, done=done, drawn=drawn, trunk_TD=trunk_TD
        )
        if verdict.action != "allow":
            self.verdict = verdict
        if self.verdict.action == "block":
            self._waiting.clear()
            return
        yield from self._leave(len(self._text) if done else min(verified, len(self._text)))

    @property
    def blocked(self) -> bool:
        """Whether a monitor has ended the reply."""
        return self.verdict.action == "block"

    def _wait(self, part: Part) -> None:
        if isinstance(part, Says):
            self._text += part.text
        elif isinstance(part, Opens):
            if self._thinks and self._text:
                self._text += SEAM
                self._waiting.append(_Seam())
            self._thinks = part.kind == "thinking"
        self._waiting.append(part)

    def _leave(self, verified: int) -> Iterator[Part]:
        while self._waiting:
            part = self._waiting[0]
            if isinstance(part, _Seam):
                if verified <= self._released:
                    return
                self._waiting.popleft()
                self._released += len(SEAM)
                continue
            if isinstance(part, Says):
                room = verified - self._released
                if room <= 0:
                    return
                if len(part.text) > room:
                    self._waiting[0] = Says(part.text[room:])
                    part = Says(part.text[:room])
                else:
                    self._waiting.popleft()
                self._released += len(part.text)
            elif self._next_held(verified):
                return
            else:
                self._waiting.popleft()
            yield part

    def _next_held(self, verified: int) -> bool:
        """Whether text that follows in the queue is all held back: then a block need not be opened or shut
        yet, and a reply blocked here shows no empty block."""
        following = any(isinstance(part, Says) for part in self._waiting)
        return following and verified <= self._released
