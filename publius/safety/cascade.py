"""Two stages: a probe and a list of words flag, and what they flag is read again by something that sees more.

The first stage looks at every token and costs next to nothing; the second costs a model's pass and looks at
flagged exchanges only. An exchange is flagged when the probe's average passes `flag`, or when a word of the
list has been seen and the average passes the lower `worded`. While the second stage has not spoken nothing of
what it has to judge leaves: behind a flag a token waits until the next multiple of `every` has been drawn and
judged (or the reply is over), and `hold_back` more.

A word may do more than flag: with `lift` one that has been said adds to what is compared with the threshold.

The second stage reads pieces that depend on the tokens alone, `every` at a time from the first, and begins
with what had come before the flag. Whether an exchange is flagged, and whether a word is said, depend on the
whole of it: so its verdict is the same, to the digit, however the reply is cut into pieces.
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
from publius.safety.keywords import KeywordMonitor
from publius.safety.monitor import ALLOW, Action, ReadsWeights, Verdict, Watch
from publius.safety.probe import Average, Leaving, ProbeMonitor

__all__ = ["CascadeMonitor", "Reading", "SecondStage"]

_BRIEF = 1e8
"""FLOPs that are done where one is (2 ms of one core): to hand so few to another thread costs more."""


class Reading(Protocol):
    """One exchange under the second stage. Called in order, by one caller at a time."""

    def more(self, drawn: Sequence[int]) -> NDArray[np.float32]:
        """[tokens, outputs]: log-odds at each of the next tokens drawn, of what came before it."""
        ...


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

    def begin(self, prompt: Sequence[int], trunk_TD: NDArray[np.float32] | None = None) -> Reading:
        """Begin to read an exchange; `trunk_TD` is what the engine has kept of it (`Request.trunk`)."""
        ...

    def effort(self, tokens: int, before: int) -> float:
        """FLOPs of reading `tokens` over what the engine has kept, behind `before` that have been read;
        infinite where it cannot be told, or may have to wait."""
        ...


class CascadeMonitor:
    """Blocks what the second stage finds in what the first has flagged.

    Args:
        first: flags above its threshold.
        second: decides.
        name: for logs.
        action: what to say where it decides for harm.
        threshold: in place of the second stage's own.
        words: a match flags too, whatever the list would do about it; None looks for none.
        worded: the average that must be passed besides a match.
        lift: what a match adds to what is compared with the threshold.
        every: tokens that the second stage reads at a time; few at a time cost more, for a call costs much
            whatever it reads.
    """

    def __init__(
        self,
        first: ProbeMonitor,
        second: SecondStage,
        *,
        name: str = "cascade",
        action: Action = "block",
        threshold: float | None = None,
        words: KeywordMonitor | None = None,
        worded: float = -math.inf,
        lift: float = 0.0,
        every: int = 16,
    ) -> None:
        self.name, self.first, self.second = name, first, second
        self.words, self.worded, self.lift = words, worded, lift
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

    @property
    def follows(self) -> bool:
        """Whether the second stage does."""
        return isinstance(self.second, ReadsWeights) and self.second.follows

    @property
    def gathers(self) -> int:
        """As the first stage, which holds back as long."""
        return self.first.gathers

    def watch(self, conversation: Conversation) -> _Watch:
        """Begin to watch an exchange."""
        return _Watch(self, None if self.words is None else self.words.watch(conversation))


class _Watch:
    """Reads rows as they come, each once; asks the second stage at its places."""

    def __init__(self, monitor: CascadeMonitor, words: Watch | None) -> None:
        self._monitor = monitor
        self._words = words
        """None when there are none to look for, or one has been seen."""
        self._seen = False
        """A word."""
        self._warm = False
        """The first stage's average has passed what must be passed besides a word."""
        self._reading: Reading | None = None
        self._prompt: Sequence[int] = ()
        self._drawn: Sequence[int] = ()
        self._trunk: NDArray[np.float32] | None = None
        self._average = Average(monitor.first.document.average)
        self._means: list[float] = []
        self._flagged: int | None = None
        """Tokens drawn when it was known that the exchange is flagged."""
        self._judged = 0
        """Tokens the second stage has judged."""
        self._harm = -math.inf
        """The second stage's highest word yet."""
        self._suspect: Verdict | None = None
        """From the first place where harm would be enough if a word is said. Whoever blocks says this: when
        the words come to be read depends on how the reply is cut, and this does not."""
        self._verdict = ALLOW
        self._leaving = Leaving()

    def works(self, count: int, *, done: bool) -> bool:
        if self._flagged is None or self._verdict.action != "allow":
            return False
        places = self._places(self._flagged, count, done)
        if not places or self._trunk is None:
            return bool(places)
        before = 0 if self._reading is None else len(self._prompt) + self._judged
        tokens = len(self._prompt) + places[-1] - before
        return self._monitor.second.effort(tokens, before) > _BRIEF

    def tokens(
        self, prompt: Sequence[int], drawn: Sequence[int], trunk_TD: NDArray[np.float32] | None = None
    ) -> None:
        self._prompt, self._drawn, self._trunk = prompt, drawn, trunk_TD

    def prompt(self) -> Verdict:
        if self._words is not None and self._words.prompt().action != "allow":
            self._words, self._seen = None, True
        return ALLOW

    def reply(self, text: str, scores: NDArray[np.float32], *, done: bool) -> tuple[Verdict, int]:
        count = len(scores)
        self._look(scores)
        self._listen(text, scores, done)
        if self._flagged is None and self._warm and self._seen:
            self._flagged = count
        if self._flagged is not None and self._verdict.action == "allow":
            self._decide()  # a word may have been said since
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
        means, take = self._means, self._average.take
        worded, flag = self._monitor.worded, self._monitor.first.threshold
        for place in range(len(means), len(scores)):
            mean = take(scores[place, 0])
            means.append(mean)
            if not mean <= worded:  # NaN is not below
                self._warm = True
            if self._flagged is None and not mean <= flag:
                self._flagged = len(means)

    def _listen(self, text: str, scores: NDArray[np.float32], done: bool) -> None:
        """For words, where one makes a difference: by itself it does nothing."""
        wanted = self._warm if self._flagged is None else self._monitor.lift > 0
        if self._words is not None and wanted:
            self._seen = self._words.reply(text, scores, done=done)[0].action != "allow"
            self._words = None if self._seen else self._words

    def _judge(self, count: int, done: bool) -> None:
        """Every piece up to `count` tokens, once the first place behind the flag has been reached."""
        assert self._flagged is not None
        for place in self._places(self._flagged, count, done):
            if len(self._prompt) == 0 or len(self._drawn) < place:
                raise ValueError("the second stage was not told the tokens")  # fails closed
            self._read(place)
            self._judged = place
            self._decide()
            if self._verdict.action != "allow":
                return

    def _places(self, flagged: int, count: int, done: bool) -> list[int]:
        """Where the second stage is asked when `count` tokens have been drawn."""
        every, judged = self._monitor.every, self._judged
        if not done and count // every == flagged // every and judged < flagged:
            return []
        places = list(range(every * (judged // every + 1), count + 1, every))
        return [*places, count] if done and count > judged and count % every else places

    def _read(self, place: int) -> None:
        monitor = self._monitor
        if self._reading is None:
            self._reading = monitor.second.begin(self._prompt, self._trunk)
        new = self._reading.more(self._drawn[self._judged : place])
        if len(new) != place - self._judged:
            raise ValueError("the second stage did not judge every token")
        harm = new[:, 0] + monitor.second.mix * np.array(self._means[self._judged : place], np.float64)
        worst = int(np.argmax(harm))  # the first NaN, if there is one
        highest = float(harm[worst])
        if self._suspect is None and not highest + monitor.lift <= monitor.threshold:
            self._suspect = self._passed(new[worst], highest + monitor.lift)
        if not highest <= self._harm:
            self._harm = highest

    def _decide(self) -> None:
        lift = self._monitor.lift if self._seen else 0.0
        if self._suspect is not None and not self._harm + lift <= self._monitor.threshold:
            self._verdict = self._suspect

    def _passed(self, row: NDArray[np.float32], harm: float) -> Verdict:
        outputs = self._monitor.second.outputs
        category = outputs[0]
        if len(row) > 1 and np.isfinite(row).all():
            category = outputs[1 + int(row[1:].argmax())]
        score = 1.0 / (1.0 + math.exp(-max(-60.0, min(60.0, harm)))) if harm == harm else 1.0
        told = "The reply was stopped: it was about to give what could do harm."
        return Verdict(self._monitor.action, category, told, score, self._monitor.name)
