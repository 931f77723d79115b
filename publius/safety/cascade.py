"""Two stages: a probe flags at a low threshold, and what it flags is read again by something that sees more.

The first stage is read at every token and costs next to nothing; the second costs a model's pass and looks at
flagged exchanges only. While it has not spoken nothing of what it has to judge leaves: behind a flag a token
waits until `every` more have been drawn and judged (or the reply is over), and `hold_back` besides.

The second stage is asked at places that depend on the tokens alone, at every multiple of `every` behind the
flag and at the end, so that its verdict is the same however the reply is cut into pieces.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from publius.core.messages import Conversation
from publius.inference.readings import Probe
from publius.model.transformer import Transformer
from publius.safety.monitor import ALLOW, Action, ReadsWeights, Verdict
from publius.safety.probe import Leaving, ProbeMonitor, averages

__all__ = ["CascadeMonitor", "SecondStage"]


class SecondStage(Protocol):
    """What reads a flagged exchange over again."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """The first decides, the others are categories."""
        ...

    @property
    def threshold(self) -> float:
        """Above it the reply is blocked."""
        ...

    @property
    def mix(self) -> float:
        """Weight of the first stage's average in what is compared with the threshold."""
        ...

    def scores(self, prompt: Sequence[int], drawn: Sequence[int]) -> NDArray[np.float32]:
        """[tokens drawn, outputs]: log-odds at each, of what came before it; pure."""
        ...


class CascadeMonitor:
    """Blocks what the second stage finds in what the first has flagged.

    Args:
        first: flags above its threshold.
        second: decides.
        name: for logs.
        action: what to say where it decides for harm.
        threshold: in place of the second stage's own.
        every: tokens between two looks of the second stage.
    """

    def __init__(
        self,
        first: ProbeMonitor,
        second: SecondStage,
        *,
        name: str = "cascade",
        action: Action = "block",
        threshold: float | None = None,
        every: int = 4,
    ) -> None:
        self.name, self.first, self.second = name, first, second
        self.action: Action = action
        self.threshold = second.threshold if threshold is None else threshold
        self.every = every

    @property
    def probe(self) -> Probe:
        """The first stage's."""
        assert self.first.probe is not None
        return self.first.probe

    def bind(self, network: Transformer) -> None:
        """Give the served weights to a second stage that computes with them."""
        if isinstance(self.second, ReadsWeights):
            self.second.bind(network)

    def watch(self, conversation: Conversation) -> _Watch:
        """Begin to watch an exchange."""
        return _Watch(self)


class _Watch:
    """Reads rows as they come, each once; asks the second stage at its places."""

    def __init__(self, monitor: CascadeMonitor) -> None:
        self._monitor = monitor
        self._prompt: Sequence[int] = ()
        self._drawn: Sequence[int] = ()
        self._means: list[float] = []
        self._mean: NDArray[np.float64] | None = None
        self._flagged: int | None = None
        """Tokens drawn when the first stage flagged."""
        self._judged = 0
        """Tokens the second stage has judged."""
        self._verdict = ALLOW
        self._leaving = Leaving()

    @property
    def flagged(self) -> bool:
        return self._flagged is not None and self._verdict.action == "allow"

    def tokens(self, prompt: Sequence[int], drawn: Sequence[int]) -> None:
        self._prompt, self._drawn = prompt, drawn

    def prompt(self) -> Verdict:
        return ALLOW

    def reply(self, text: str, scores: NDArray[np.float32], *, done: bool) -> tuple[Verdict, int]:
        self._look(scores)
        count = len(scores)
        if self._flagged is not None and self._verdict.action == "allow":
            self._judge(count, done)
        if self._verdict.action == "block":
            return self._verdict, 0
        if text and not count:
            raise ValueError("text that no reading belongs to")  # nobody looked: the layer fails closed
        self._leaving.add(count, len(text))
        if done:
            return self._verdict, len(text)
        known = count if self._flagged is None else self._judged
        return self._verdict, self._leaving.upto(known - self._monitor.first.hold_back)

    def _look(self, scores: NDArray[np.float32]) -> None:
        first = self._monitor.first
        for mean in averages(scores[len(self._means) :], first.document.average, self._mean):
            self._mean = mean
            self._means.append(float(mean[0]))
            if self._flagged is None and not mean[0] <= first.threshold:  # NaN is not below
                self._flagged = len(self._means)

    def _judge(self, count: int, done: bool) -> None:
        """Every place the second stage is asked at, up to `count` tokens."""
        assert self._flagged is not None
        every = self._monitor.every
        start = max(self._flagged, self._judged)
        places = list(range(every * (start // every + 1), count + 1, every))
        if done and count > self._judged and count not in places:
            places.append(count)
        for place in places:
            if len(self._prompt) == 0 or len(self._drawn) < place:
                raise ValueError("the second stage was not told the tokens")  # fails closed
            self._decide(place)
            self._judged = place
            if self._verdict.action != "allow":
                return

    def _decide(self, place: int) -> None:
        monitor = self._monitor
        rows = monitor.second.scores(self._prompt, self._drawn[:place])
        if len(rows) != place:
            raise ValueError("the second stage did not judge every token")
        new = rows[self._judged :]
        harm = new[:, 0] + monitor.second.mix * np.array(self._means[self._judged : place], np.float64)
        worst = int(np.argmax(harm))  # the first NaN, if there is one
        if not harm[worst] <= monitor.threshold:
            self._verdict = self._passed(new[worst], float(harm[worst]))

    def _passed(self, row: NDArray[np.float32], harm: float) -> Verdict:
        outputs = self._monitor.second.outputs
        category = outputs[0]
        if len(row) > 1 and np.isfinite(row).all():
            category = outputs[1 + int(row[1:].argmax())]
        score = 1.0 / (1.0 + math.exp(-max(-60.0, min(60.0, harm)))) if harm == harm else 1.0
        told = "The reply was stopped: it was about to give what could do harm."
        return Verdict(self._monitor.action, category, told, score, self._monitor.name)
