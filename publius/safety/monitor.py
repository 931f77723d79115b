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
    "SEAM",
    "Action",
    "Gathers",
    "Monitor",
    "Monitors",
    "ReadsTokens",
    "ReadsWeights",
    "Verdict",
    "Watch",
    "Watching",
]

Action = Literal["allow", "flag", "block"]
SEAM = "\n"
"""Stands behind a thought for monitors alone: else its last word and the first that is said would be one."""
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
            text: all of it so far: thinking with `SEAM` behind it, text and the JSON of calls, in order.
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

    def works(self, count: int, *, done: bool) -> bool:
        """Whether the next `reply`, of `count` tokens, is known to take the time of a model's pass: a
        second stage reads in it, and not just a little."""
        ...

    def tokens(
        self, prompt: Sequence[int], drawn: Sequence[int], trunk_TD: NDArray[np.float32] | None = None
    ) -> None:
        """The prompt's tokens and those drawn: at least one for each row of the next `reply`'s scores; and
        what the engine has kept of them (`Request.trunk`), where it has."""
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

    @property
    def follows(self) -> bool:
        """Whether it also reads what the engine keeps of its own passes (`Engine(trunk=True)`)."""
        ...


@runtime_checkable
class Gathers(Protocol):
    """A monitor that holds tokens back for longer than it matters to look at each at once."""

    @property
    def gathers(self) -> int:
        """So many tokens may come together before it is shown them; at least 1."""
        ...


class _Layer(NamedTuple):
    """One monitor on one exchange."""

    name: str
    watch: Watch | None
    """None when it could not begin."""
    reader: ReadsTokens | None
    """The same, where its second stage reads the tokens."""
    columns: slice | None


class Watching:
    """All monitors on one exchange: the gravest verdict counts, and what leaves is what all have verified.

    Args:
        monitors, columns: the layers, and which columns of the readings are whose; None for all.
        conversation: up to the reply.
        prompt: its tokens, as the model gets them; a layer that reads them blocks what comes without.
    """

    def __init__(
        self,
        monitors: Sequence[Monitor],
        columns: Sequence[slice | None],
        conversation: Conversation,
        prompt: Sequence[int] = (),
    ) -> None:
        self._prompt = prompt
        self._layers: list[_Layer] = []
        for monitor, wanted in zip(monitors, columns, strict=True):
            watch = _tried(monitor.name, lambda m=monitor: m.watch(conversation), None)
            reader = watch if isinstance(watch, ReadsTokens) else None
            self._layers.append(_Layer(monitor.name, watch, reader, wanted))
        self._readers = [layer.reader for layer in self._layers if layer.reader is not None]

    def works(self, count: int, *, done: bool) -> bool:
        """As `ReadsTokens.works`: whether the next `reply`, of `count` tokens, takes long."""
        return any(reader.works(count, done=done) for reader in self._readers)

    def prompt(self) -> Verdict:
        """As `Watch.prompt`."""
        return _gravest(
            [
                _failed(layer.name)
                if layer.watch is None
                else _tried(layer.name, layer.watch.prompt, _failed(layer.name))
                for layer in self._layers
            ]
        )

    def reply(
        self,
        text: str,
        scores: NDArray[np.float32],
        *,
        done: bool,
        drawn: Sequence[int] = (),
        trunk_TD: NDArray[np.float32] | None = None,
    ) -> tuple[Verdict, int]:
        """As `Watch.reply`; `scores` has the columns of all probes beside each other, `drawn` at least the
        token of each row, and `trunk_TD` is as `ReadsTokens.tokens` has it."""
        verdict, verified = ALLOW, len(text)
        for name, watch, reader, columns in self._layers:  # the hot path: once for every token drawn
            said, upto = None, 0
            if watch is not None:
                try:
                    if reader is not None:
                        reader.tokens(self._prompt, drawn, trunk_TD)
                    rows = scores if columns is None else scores[:, columns]
                    said, upto = watch.reply(text, rows, done=done)
                except Exception as error:  # a layer may fail in any way
                    _log_failure(name, error)
            if said is None:
                said = _failed(name)
            if said is not ALLOW and _ORDER[said.action] > _ORDER[verdict.action]:
                verdict = said
            if upto < verified:
                verified = upto
        return verdict, verified


class Monitors:
    """The layers a server runs, in order."""

    def __init__(self, monitors: Sequence[Monitor] = ()) -> None:
        self.monitors = tuple(monitors)
        found: list[slice] = []
        probes: list[Probe] = []
        width = 0
        for monitor in self.monitors:
            probe = monitor.probe
            if probe is None:
                found.append(slice(0, 0))
                continue
            found.append(slice(width, width + len(probe)))
            probes.append(probe)
            width += len(probe)
        self._columns = [None if columns == slice(0, width) else columns for columns in found]
        self.probe: Probe | None = Probe.beside(probes)
        """All probes beside each other, for the engine: give it as `Request.probe`, and `Request.readings` to
        `Watching.reply`."""
        self.gathers = max((one.gathers for one in self.monitors if isinstance(one, Gathers)), default=1)
        """Tokens that may come together between two looks: what leaves waits for the slowest layer anyway."""

    @property
    def follows(self) -> bool:
        """Whether a layer reads what `Engine(trunk=True)` keeps."""
        return any(isinstance(monitor, ReadsWeights) and monitor.follows for monitor in self.monitors)

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


def _tried(name: str, work: Callable[[], _T], otherwise: _T) -> _T:
    """Fail closed: what a monitor raises is its block, and is logged (without content)."""
    try:
        return work()
    except Exception as error:  # a layer may fail in any way, and must not open the door by it
        _log_failure(name, error)
        return otherwise


def _log_failure(name: str, error: Exception) -> None:
    _log.error("monitor %s failed: %s", name, type(error).__name__)


def _gravest(verdicts: Sequence[Verdict]) -> Verdict:
    return max(verdicts, key=lambda verdict: _ORDER[verdict.action], default=ALLOW)
