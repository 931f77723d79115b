"""Monitors: what looks at an exchange in flight and says allow, flag or block.

A `Monitor` is shared and holds no state of an exchange; `watch` begins one, and the `Watch` sees the prompt
once and then the reply as it grows. What is written leaves the server only when every watch has allowed it,
so a block lets nothing of what it blocks out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from publius.core.messages import Conversation

__all__ = ["ALLOW", "Action", "Monitor", "Monitors", "Verdict", "Watch", "Watching"]

Action = Literal["allow", "flag", "block"]
_ORDER: dict[Action, int] = {"allow": 0, "flag": 1, "block": 2}


class Verdict(NamedTuple):
    """What a monitor says.

    Args:
        action: "flag" lets it pass and is logged; "block" ends the exchange with a refusal.
        category: of the constitution or the monitor's own, for logs and for the client.
        explanation: one sentence for the client.
        score: what was compared with the threshold, where there is one.
        monitor: who said it.
    """

    action: Action = "allow"
    category: str | None = None
    explanation: str = ""
    score: float = 0.0
    monitor: str = ""


ALLOW = Verdict()


class Watch(Protocol):
    """One exchange under one monitor. Called in order, by one caller at a time."""

    def prompt(self) -> Verdict:
        """Of what was asked, before anything is generated."""
        ...

    def reply(self, text: str, scores: NDArray[np.float32], *, done: bool) -> tuple[Verdict, int]:
        """Of the reply so far.

        Args:
            text: all of it so far: thinking, text and the JSON of tool calls, in order.
            scores: one row for each token drawn so far, the probe's outputs on the state it was drawn from
                (`Monitor.probe`); no rows without a probe.
            done: nothing more follows, so nothing needs to be held back.

        Returns:
            the verdict, and how many characters from the beginning of `text` are verified and may leave.
        """
        ...


class Monitor(Protocol):
    """One layer. Deterministic: the verdict on a text does not depend on how it was cut into pieces."""

    @property
    def name(self) -> str:
        """For logs and metrics."""
        ...

    @property
    def probe(self) -> NDArray[np.float32] | None:
        """[outputs, hidden size + 1], weights and last a bias, to be applied to the final hidden state of
        every token a reply is drawn from; None when it only reads text."""
        ...

    def watch(self, conversation: Conversation) -> Watch:
        """Begin to watch an exchange."""
        ...


class Watching:
    """All monitors on one exchange: the gravest verdict counts, and what leaves is what all have verified."""

    def __init__(self, watches: Sequence[Watch], columns: Sequence[slice]) -> None:
        self._watches, self._columns = watches, columns

    def prompt(self) -> Verdict:
        """As `Watch.prompt`."""
        return _gravest([watch.prompt() for watch in self._watches])

    def reply(self, text: str, scores: NDArray[np.float32], *, done: bool) -> tuple[Verdict, int]:
        """As `Watch.reply`; `scores` has the columns of all probes beside each other."""
        verdict, verified = ALLOW, len(text)
        for watch, columns in zip(self._watches, self._columns, strict=True):
            said, upto = watch.reply(text, scores[:, columns], done=done)
            verdict, verified = _gravest([verdict, said]), min(verified, upto)
        return verdict, verified


class Monitors:
    """The layers a server runs, in order."""

    def __init__(self, monitors: Sequence[Monitor] = ()) -> None:
        self.monitors = tuple(monitors)
        probes = [monitor.probe for monitor in self.monitors]
        self._columns: list[slice] = []
        column = 0
        for probe in probes:
            width = 0 if probe is None else len(probe)
            self._columns.append(slice(column, column + width))
            column += width
        given = [probe for probe in probes if probe is not None]
        self.probe: NDArray[np.float32] | None = np.concatenate(given) if given else None
        """All probes beside each other, for the engine."""

    def watch(self, conversation: Conversation) -> Watching:
        """Begin to watch an exchange with every layer."""
        return Watching([monitor.watch(conversation) for monitor in self.monitors], self._columns)


def _gravest(verdicts: Sequence[Verdict]) -> Verdict:
    return max(verdicts, key=lambda verdict: _ORDER[verdict.action], default=ALLOW)
