"""Monitors: what looks at an exchange in flight and says allow, flag or block.

A `Monitor` is shared and holds no state of an exchange; `watch` begins one, and the `Watch` sees the prompt
once and then the reply as it grows. What is written leaves the server only when every watch has allowed it,
so a block lets nothing of what it blocks out. A monitor that fails blocks: nobody looked.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from publius.core.messages import Conversation
from publius.inference.readings import Probe
from publius.model.transformer import Transformer

__all__ = [
    "ALLOW",
    "Action",
    "Monitor",
    "Monitors",
    "ReadsTokens",
    "ReadsWeights",
    "Verdict",
    "Watch",
    "Watching",
]

Action = Literal["allow", "flag", "block"]
_log = logging.getLogger(__name__)
_T = TypeVar("_T")
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
    def probe(self) -> Probe | None:
        """Read on the state that every token of a reply is drawn from; None when it only reads text."""
        ...

    def watch(self, conversation: Conversation) -> Watch:
        """Begin to watch an exchange."""
        ...


@runtime_checkable
class ReadsTokens(Protocol):
    """A watch whose second stage reads the exchange over again, token by token as the model did."""

    @property
    def flagged(self) -> bool:
        """Whether the second stage has work: what it says takes the time of a model's pass."""
        ...

    def tokens(self, prompt: Sequence[int], drawn: Sequence[int]) -> None:
        """The prompt's tokens and those drawn so far: one for each row of the next `reply`'s scores."""
        ...


@runtime_checkable
class ReadsWeights(Protocol):
    """A monitor that computes with the served model's own weights."""

    def bind(self, network: Transformer) -> None:
        """Take the weights, which are shared and must not be changed.

        Raises:
            UserError: when it was made for another shape.
        """
        ...


class Watching:
    """All monitors on one exchange: the gravest verdict counts, and what leaves is what all have verified.

    Args:
        monitors, columns: the layers, and which columns of the readings are whose.
        conversation: up to the reply.
        prompt: its tokens, as the model gets them; a layer that reads them blocks what comes without.
    """

    def __init__(
        self,
        monitors: Sequence[Monitor],
        columns: Sequence[slice],
        conversation: Conversation,
        prompt: Sequence[int] = (),
    ) -> None:
        self._names, self._columns, self._prompt = [monitor.name for monitor in monitors], columns, prompt
        self._watches = [self._tried(m.name, lambda m=m: m.watch(conversation), None) for m in monitors]
        self._readers = {i: w for i, w in enumerate(self._watches) if isinstance(w, ReadsTokens)}

    @property
    def flagged(self) -> bool:
        """Whether a second stage has work, so that the next `reply` takes long."""
        return any(reader.flagged for reader in self._readers.values())

    def prompt(self) -> Verdict:
        """As `Watch.prompt`."""
        return _gravest(
            [
                _failed(name) if watch is None else self._tried(name, watch.prompt, _failed(name))
                for name, watch in zip(self._names, self._watches, strict=True)
            ]
        )

    def reply(
        self, text: str, scores: NDArray[np.float32], *, done: bool, drawn: Sequence[int] = ()
    ) -> tuple[Verdict, int]:
        """As `Watch.reply`; `scores` has the columns of all probes beside each other, `drawn` the token of
        each row."""
        verdict, verified = ALLOW, len(text)
        for i, (name, watch, columns) in enumerate(
            zip(self._names, self._watches, self._columns, strict=True)
        ):
            said, upto = _failed(name), 0
            if watch is not None:
                if i in self._readers:
                    self._readers[i].tokens(self._prompt, drawn)
                said, upto = self._tried(
                    name,
                    lambda w=watch, c=columns: w.reply(text, scores[:, c], done=done),
                    (said, upto),
                )
            verdict, verified = _gravest([verdict, said]), min(verified, upto)
        return verdict, verified

    @staticmethod
    def _tried(name: str, work: Callable[[], _T], otherwise: _T) -> _T:
        """Fail closed: what a monitor raises is its block, and is logged (without content)."""
        try:
            return work()
        except Exception as error:  # a layer may fail in any way, and must not open the door by it
            _log.error("monitor %s failed: %s", name, type(error).__name__)
            return otherwise


class Monitors:
    """The layers a server runs, in order."""

    def __init__(self, monitors: Sequence[Monitor] = ()) -> None:
        self.monitors = tuple(monitors)
        self._columns: list[slice] = []
        column, probes = 0, list[Probe]()
        for monitor in self.monitors:
            probe = monitor.probe
            width = 0 if probe is None else len(probe)
            self._columns.append(slice(column, column + width))
            column += width
            if probe is not None:
                probes.append(probe)
        self.probe: Probe | None = Probe.beside(probes)
        """All probes beside each other, for the engine: give it as `Request.probe`, and `Request.readings` to
        `Watching.reply`."""

    def bind(self, network: Transformer) -> None:
        """Give the served model's weights to the layers that compute with them; before any exchange.

        Raises:
            UserError: when a layer was made for a model of another shape.
        """
        for monitor in self.monitors:
            if isinstance(monitor, ReadsWeights):
                monitor.bind(network)

    def watch(self, conversation: Conversation, *, prompt: Sequence[int] = ()) -> Watching:
        """Begin to watch an exchange with every layer; `prompt` is its tokens."""
        return Watching(self.monitors, self._columns, conversation, prompt)


def _failed(name: str) -> Verdict:
    return Verdict("block", "monitor_error", "A safety check could not be made.", monitor=name)


def _gravest(verdicts: Sequence[Verdict]) -> Verdict:
    return max(verdicts, key=lambda verdict: _ORDER[verdict.action], default=ALLOW)
