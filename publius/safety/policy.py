"""A policy of monitors: which layers look at an exchange, in order, and what each may do.

    layers:
      - monitor: keywords
        file: words.yaml
      - monitor: probe
        file: probe            # a folder; relative to the policy
        threshold: 2.5         # log-odds; else the probe's own
        hold_back: 8
        action: block
        on_error: closed
        budget_ms: 50
      - monitor: cascade
        file: probe            # flags, above `flag` (else the head's own)
        then: head             # decides about what is flagged, above `threshold` (else its own)
        words: words.yaml      # these flag too (else the head's own), where the probe passes `worded`
      - monitor: judge         # a cascade, and a judge where its second stage is unsure
        file: probe
        then: head
        asks: judge.yaml       # how the judge is asked
        judge: judge           # its checkpoint's folder; else the models that `asks` names
        below: 2.0             # log-odds under the threshold down to which it is asked
        above: 0.0             # log-odds over it up to which it may let pass

A layer that fails blocks (`on_error: closed`, the default); `open` lets what it should have judged pass,
flagged, and must be asked for. A layer that overruns its budget on one exchange fails, and is asked no more:
one slow layer must not hold up everybody.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from publius.core.config import Config
from publius.core.messages import Conversation
from publius.inference.readings import Probe
from publius.model.transformer import Transformer
from publius.safety.cascade import CascadeMonitor
from publius.safety.files import read_yaml
from publius.safety.head import HeadStage, TrainedHead
from publius.safety.keywords import KeywordList, KeywordMonitor
from publius.safety.monitor import Gathers, Monitor, Monitors, ReadsTokens, ReadsWeights, Verdict, Watch
from publius.safety.probe import ProbeMonitor
from publius.safety.third_stage import PATIENCE, JudgedMonitor, open_judge

__all__ = ["Layer", "MonitorPolicy", "load_monitors"]

_T = TypeVar("_T")


class Layer(Config):
    """One monitor and what it may do."""

    monitor: Literal["keywords", "probe", "cascade", "judge"]
    file: str
    """The list of words, or the probe's folder; relative to the policy."""
    then: str = ""
    """(cascade, judge) The folder of the second stage."""
    asks: str = ""
    """(judge) The file that says how it is asked (`RefereeConfig`)."""
    judge: str = ""
    """(judge) The folder of a checkpoint that judges."""
    below: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """(judge) It is asked about what comes so near to the threshold, in log-odds."""
    above: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """(judge) And about what passes it by so much: this it may let pass."""
    name: str = ""
    """For logs; else the kind of monitor."""
    action: Literal["flag", "block"] | None = None
    """At most this; None leaves it to the monitor."""
    threshold: float | None = Field(default=None, allow_inf_nan=False)
    """(probe, cascade) In place of its own, or of the second stage's."""
    flag: float | None = Field(default=None, allow_inf_nan=False)
    """(cascade) Above it the first stage flags; in place of the second stage's own."""
    words: str = ""
    """(cascade) A list of words that flag too, in place of the second stage's own; relative to the policy."""
    worded: float | None = Field(default=None, allow_inf_nan=False)
    """(cascade) What the first stage's average must pass besides a word. None: of the second stage's own
    words what it says, and of other words nothing."""
    hold_back: int | None = Field(default=None, ge=0)
    """(probe, cascade) Tokens, in place of its own."""
    on_error: Literal["closed", "open"] = "closed"
    budget_ms: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Most time spent in it on one exchange; None does not look."""

    @model_validator(mode="after")
    def _belongs(self) -> Layer:
        if self.monitor == "keywords" and (self.threshold is not None or self.hold_back is not None):
            raise ValueError("threshold and hold_back are a probe's")
        staged = self.monitor in ("cascade", "judge")
        if staged != bool(self.then):
            raise ValueError("a cascade or a judge, and nothing else, says what comes then")
        if not staged and (self.flag is not None or self.words or self.worded is not None):
            raise ValueError("flag, words and worded are a cascade's")
        if (self.monitor == "judge") != (bool(self.asks) and self.below is not None):
            raise ValueError("a judge, and nothing else, says how it asks and how far below the threshold")
        if self.monitor != "judge" and (self.judge or self.asks or self.above or self.below is not None):
            raise ValueError("judge, asks, below and above are a judge's")
        return self


class MonitorPolicy(Config):
    """All layers, in order."""

    layers: tuple[Layer, ...]

    @model_validator(mode="after")
    def _named_apart(self) -> MonitorPolicy:
        names = [layer.name or layer.monitor for layer in self.layers]
        if len(set(names)) != len(names):
            raise ValueError(f"layers of one name, {names}: give each its own")
        return self

    @classmethod
    def load(cls, path: Path) -> MonitorPolicy:
        """From YAML or JSON.

        Raises:
            UserError: for a file that is missing, not YAML, or no policy, naming the field.
        """
        return read_yaml(cls, path, "the policy")


def load_monitors(path: Path, *, model: str | None = None) -> Monitors:
    """The monitors of a policy file, ready to watch.

    Args:
        path: the policy.
        model: fingerprint of the weights to be served: a probe trained on others is refused.

    Raises:
        UserError: for a malformed policy, or a layer whose file is missing or wrong.
    """
    policy = MonitorPolicy.load(path)
    return Monitors([_monitor(layer, path.parent, model) for layer in policy.layers])


def _monitor(layer: Layer, folder: Path, model: str | None) -> Monitor:
    name, file = layer.name or layer.monitor, folder / layer.file
    if layer.monitor == "keywords":
        inner: Monitor = KeywordMonitor.load(file, name=name)
    elif layer.monitor == "cascade":
        inner = _cascade(layer, name, folder, model)
    elif layer.monitor == "judge":
        inner = _judged(layer, name, folder, model)
    else:
        inner = ProbeMonitor.load(
            file, model=model, name=name, threshold=layer.threshold, hold_back=layer.hold_back
        )
    return _Layered(inner, layer)


def _cascade(layer: Layer, name: str, folder: Path, model: str | None) -> CascadeMonitor:
    second = HeadStage.load(folder / layer.then, model=model)
    document = second.document
    flag = document.flag if layer.flag is None else layer.flag
    held = document.hold_back if layer.hold_back is None else layer.hold_back
    first = ProbeMonitor.load(folder / layer.file, model=model, threshold=flag, hold_back=held)
    given = layer.words
    listed = KeywordList.load(folder / given) if given else TrainedHead(folder / layer.then).words()
    words = None if listed is None else KeywordMonitor(listed)
    worded = document.worded if layer.worded is None and not layer.words else layer.worded
    return CascadeMonitor(
        first, second, name=name, threshold=layer.threshold, words=words,
        worded=-math.inf if worded is None else worded, lift=0.0 if given else document.lift,
    )  # fmt: skip


def _judged(layer: Layer, name: str, folder: Path, model: str | None) -> JudgedMonitor:
    sure = _cascade(layer, name, folder, model)
    unsure = copy.copy(sure)  # the same stages at two thresholds
    unsure.threshold -= layer.below or 0.0
    sure.threshold += layer.above
    judge = open_judge(folder / layer.asks, folder / layer.judge if layer.judge else None)
    patience = PATIENCE if layer.budget_ms is None else layer.budget_ms / 1000
    return JudgedMonitor(unsure, sure, judge, name=name, patience=patience)


class _Layered:
    """A monitor under a policy: less grave where it may not block, timed, open where it may fail so."""

    def __init__(self, inner: Monitor, layer: Layer) -> None:
        self._inner, self.layer = inner, layer

    @property
    def name(self) -> str:
        return self._inner.name

    @property
    def probe(self) -> Probe | None:
        return self._inner.probe

    def bind(self, network: Transformer) -> None:
        if isinstance(self._inner, ReadsWeights):
            self._inner.bind(network)

    @property
    def follows(self) -> bool:
        return isinstance(self._inner, ReadsWeights) and self._inner.follows

    @property
    def gathers(self) -> int:
        if self.layer.action == "flag" or not isinstance(self._inner, Gathers):
            return 1  # what only flags lets all leave at once
        return self._inner.gathers

    def watch(self, conversation: Conversation) -> _LayeredWatch:
        return _LayeredWatch(self._inner, self.layer, conversation)


class _LayeredWatch:
    def __init__(self, monitor: Monitor, layer: Layer, conversation: Conversation) -> None:
        self._name, self._layer, self._spent, self._failed = monitor.name, layer, 0.0, False
        self._watch: Watch | None = self._tried(lambda: monitor.watch(conversation), None)
        self._reader = self._watch if isinstance(self._watch, ReadsTokens) else None

    def works(self, count: int, *, done: bool) -> bool:
        return self._reader is not None and self._reader.works(count, done=done)

    def tokens(
        self, prompt: Sequence[int], drawn: Sequence[int], trunk_TD: NDArray[np.float32] | None = None
    ) -> None:
        if self._reader is not None:
            self._reader.tokens(prompt, drawn, trunk_TD)

    def prompt(self) -> Verdict:
        watch = self._watch
        if watch is None:
            return self._open()
        return self._softened(self._tried(watch.prompt, self._open()))

    def reply(self, text: str, scores: NDArray[np.float32], *, done: bool) -> tuple[Verdict, int]:
        watch, passed = self._watch, (self._open(), len(text))
        if watch is None:
            return passed
        said, verified = self._tried(lambda: watch.reply(text, scores, done=done), passed)
        return self._softened(said), len(text) if self._layer.action == "flag" else verified

    def _open(self) -> Verdict:
        return Verdict("flag", "monitor_error", "A safety check could not be made.", monitor=self._name)

    def _softened(self, said: Verdict) -> Verdict:
        return (
            said._replace(action="flag") if said.action == "block" and self._layer.action == "flag" else said
        )

    def _tried(self, work: Callable[[], _T], otherwise: _T) -> _T:
        """What fails closed is raised, and `Watching` blocks."""
        begun = time.perf_counter()
        try:
            if self._failed:
                raise TimeoutError("over budget")
            found = work()
            self._spent += 1000 * (time.perf_counter() - begun)
            if self._layer.budget_ms is not None and self._spent > self._layer.budget_ms:
                raise TimeoutError("over budget")
            return found
        except Exception:  # any failure of a layer is that layer's failure, no one else's
            self._failed = True
            if self._layer.on_error == "closed":
                raise
            return otherwise
