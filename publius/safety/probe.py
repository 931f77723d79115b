"""The probe monitor: a linear reading of the model's own states decides, token by token, whether to go on.

Each drawn token has the probe's outputs on the state it was drawn from, so it is judged before it leaves. A
moving average follows them over the reply; a reply is blocked as soon as the average of the first output
passes the threshold, and the other outputs name the category. `hold_back` tokens wait until those after them
have been judged too: what is recognised a little late has still not left.

A probe belongs to the weights it was trained on: its document names them. Weights are safetensors, else JSON.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from publius.core.errors import UserError
from publius.core.messages import Conversation
from publius.inference.readings import Probe
from publius.pipeline import Artifact
from publius.safety.monitor import ALLOW, Action, Verdict

__all__ = [
    "Average",
    "Leaving",
    "ProbeDocument",
    "ProbeMonitor",
    "TrainedProbe",
    "averages",
    "write_probe",
]

_WEIGHTS, _DOCUMENT = "probe.safetensors", "probe.json"


class ProbeDocument(BaseModel):
    """What is known of a probe besides its weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    """The fingerprint of the weights it reads (`fingerprint`)."""
    outputs: tuple[str, ...] = Field(min_length=1)
    """The first decides, the others are categories."""
    layers: tuple[int, ...]
    average: float = Field(gt=0, le=1)
    """Weight of the newest reading in the moving average; 1 takes each by itself."""
    threshold: float
    """A log-odds; above it a reply is blocked."""
    hold_back: int = Field(ge=0)
    """Tokens."""
    benign: int = Field(ge=0)
    """Exchanges the threshold was chosen on."""
    false_positives: float = Field(ge=0, le=1)
    """The upper confidence bound of their share that is blocked."""


class TrainedProbe(Artifact):
    """A probe on disk."""

    def document(self) -> ProbeDocument:
        """What is known of it.

        Raises:
            UserError: when it is missing or damaged.
        """
        return self.parse(_DOCUMENT, ProbeDocument)

    def probe(self) -> Probe:
        """Its weights.

        Raises:
            UserError: when they are missing, damaged, or not what the document says.
        """
        document, path = self.document(), self.file(_WEIGHTS)
        try:
            weights = load_file(path)["weights"]
        except (SafetensorError, KeyError, ValueError) as error:
            raise UserError(
                f"the probe's weights are damaged: {error}", where=str(path), fix="train it again"
            ) from None
        if weights.ndim != 2 or len(weights) != len(document.outputs) or not np.isfinite(weights).all():
            raise UserError(
                f"the probe's weights have shape {weights.shape} for {len(document.outputs)} outputs, or are "
                "not all numbers",
                where=str(path),
                fix="train it again",
            )
        return Probe(weights, document.layers)


def write_probe(folder: Path, probe: Probe, document: ProbeDocument) -> TrainedProbe:
    """Write a probe into an existing folder."""
    save_file({"weights": probe.weights}, folder / _WEIGHTS)
    (folder / _DOCUMENT).write_text(document.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return TrainedProbe(folder)


def averages(readings: Iterable[NDArray[np.float32]], weight: float) -> Iterable[NDArray[np.float64]]:
    """The moving average after each row; the first row is the first average."""
    mean: NDArray[np.float64] | None = None
    for row in readings:
        mean = row.astype(np.float64) if mean is None else weight * row + (1 - weight) * mean
        yield mean


class Average:
    """The moving average of one output as a reply grows: to the digit what `averages` makes of it, in plain
    numbers, for where one comes at a time an array costs more than what it holds.

    Args:
        weight: of the newest reading.
    """

    def __init__(self, weight: float) -> None:
        self._weight, self._rest = weight, 1 - weight
        self._mean: float | None = None

    def take(self, reading: np.float32) -> float:
        """The average after one more reading."""
        mean = self._mean
        mean = float(reading) if mean is None else float(reading * self._weight) + self._rest * mean
        self._mean = mean
        return mean


class Leaving:
    """How much text there was when so many tokens had been drawn: what may leave behind a hold-back."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, int]] = deque()
        self._asked, self._length = 0, 0

    def add(self, tokens: int, length: int) -> None:
        """So much text after so many tokens."""
        self._waiting.append((tokens, length))

    def upto(self, tokens: int) -> int:
        """The newest known length at which no more than `tokens` had been drawn; ask in rising order (0 where
        fewer than before are asked for)."""
        waiting = self._waiting
        if self._length and tokens < self._asked:
            return 0
        self._asked = tokens
        while waiting and waiting[0][0] <= tokens:
            self._length = waiting.popleft()[1]
        return self._length


class ProbeMonitor:
    """Blocks (or flags) a reply whose averaged reading passes the threshold.

    Args:
        probe: what is read.
        document: how the readings are judged.
        name: for logs.
        action: what to say above the threshold.
        threshold: in place of the document's.
        hold_back: in place of the document's.
    """

    def __init__(
        self,
        probe: Probe,
        document: ProbeDocument,
        *,
        name: str = "probe",
        action: Action = "block",
        threshold: float | None = None,
        hold_back: int | None = None,
    ) -> None:
        self.name, self.probe, self.document = name, probe, document
        self.action: Action = action
        self.threshold = document.threshold if threshold is None else threshold
        self.hold_back = document.hold_back if hold_back is None else hold_back

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        model: str | None = None,
        name: str = "probe",
        action: Action = "block",
        threshold: float | None = None,
        hold_back: int | None = None,
    ) -> ProbeMonitor:
        """The probe in `folder`; `model` is the fingerprint of the weights it is to read, when known.

        Raises:
            UserError: when it is missing, damaged, or was trained on other weights.
        """
        found = TrainedProbe(folder)
        document = found.document()
        if model is not None and document.model != model:
            raise UserError(
                f"the probe was trained on the weights {document.model[:12]}, not on {model[:12]}",
                where=str(folder),
                fix="train a probe on the weights you serve",
            )
        return cls(
            found.probe(), document, name=name, action=action, threshold=threshold, hold_back=hold_back
        )

    @property
    def gathers(self) -> int:
        """A quarter of what is held back: so much later does a token leave at most."""
        return max(1, self.hold_back // 4)

    def watch(self, conversation: Conversation) -> _Watch:
        """Begin to watch; the prompt is judged by the state that the first token is drawn from."""
        return _Watch(self)


class _Watch:
    """Reads rows as they come: each once, whatever pieces they come in."""

    def __init__(self, monitor: ProbeMonitor) -> None:
        self._monitor = monitor
        self._average = Average(monitor.document.average)
        self._read = 0
        self._verdict = ALLOW
        self._leaving = Leaving()

    def prompt(self) -> Verdict:
        return ALLOW

    def reply(self, text: str, scores: NDArray[np.float32], *, done: bool) -> tuple[Verdict, int]:
        count = len(scores)
        if count > self._read and self._verdict is ALLOW:
            self._judge(scores)
        said = self._verdict
        if said.action == "block":
            return said, 0
        if text and not count:
            raise ValueError("text that no reading belongs to")  # nobody looked: the layer fails closed
        self._leaving.add(count, len(text))
        if done:
            return said, len(text)
        return said, self._leaving.upto(count - self._monitor.hold_back)

    def _judge(self, scores: NDArray[np.float32]) -> None:
        """The rows not read yet, up to the first whose average passes."""
        threshold, take = self._monitor.threshold, self._average.take
        for place in range(self._read, len(scores)):
            if not take(scores[place, 0]) <= threshold:  # NaN is not below
                *_, mean = averages(scores[: place + 1], self._monitor.document.average)
                self._verdict = self._passed(mean)
                return
        self._read = len(scores)

    def _passed(self, mean: NDArray[np.float64]) -> Verdict:
        monitor = self._monitor
        category = monitor.document.outputs[0]
        if len(mean) > 1 and np.isfinite(mean).all():
            category = monitor.document.outputs[1 + int(mean[1:].argmax())]
        score = 1.0 / (1.0 + math.exp(-max(-60.0, min(60.0, float(mean[0]))))) if mean[0] == mean[0] else 1.0
        told = "The reply was stopped: it was about to give what could do harm."
        return Verdict(monitor.action, category, told, score, monitor.name)
