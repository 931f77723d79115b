"""What a second stage says of labelled exchanges: what it is trained on, bounded with and measured by.

Shape letters: B rows, T tokens, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from publius.core.stats import auroc, binomial_upper, calibration_error, wilson
from publius.data.pocket.crafts import CATEGORIES
from publius.inference.readings import Probe, states_of
from publius.model.transformer import Transformer
from publius.pipeline import Run
from publius.redteam.attack import STYLES
from publius.safety.head import HeadDocument, LastBlock
from publius.safety.probe import ProbeDocument, averages
from publius.safety.rereading import stream_before
from publius.safety.training import Row, batched, choose_threshold

__all__ = [
    "ROWS",
    "ReadExchange",
    "ScoredExchange",
    "benign_scores",
    "harm_logits",
    "helps",
    "read_rows",
    "report",
    "score",
    "stacked",
    "with_bound",
]

ROWS = 32
"""Of a batch."""


class ReadExchange(NamedTuple):
    """An exchange, what the last block gets of it, and what the first stage said."""

    row: Row
    stream_TD: Tensor
    """fp16: it is kept for all exchanges at once."""
    means: NDArray[np.float64]
    """The first stage's average at each token that is looked at."""


class ScoredExchange(NamedTuple):
    """Both stages' highest word on an exchange, in time."""

    row: Row
    first: float
    both: float
    flagged: bool = False
    """Whether the second stage is asked."""


def benign_scores(scored: Sequence[ScoredExchange]) -> list[float]:
    """The highest words on the model's own harmless replies."""
    return [one.both for one in scored if helps(one)]


def helps(one: ScoredExchange) -> bool:
    """Whether this is a harmless reply of the model itself."""
    return one.row.exchange.label == "help"


def with_bound(
    run: Run, document: HeadDocument, scored: Sequence[ScoredExchange], most: float
) -> HeadDocument:
    """With the lowest threshold that keeps the bound, and what is known of it."""
    benign = benign_scores(scored)
    threshold = choose_threshold(benign, most)
    count = sum(score > threshold for score in benign)
    flagged = [one.flagged for one in scored if helps(one)]
    run.metric("head.benign", wilson(count, len(benign)))
    run.metric("head.mix", document.mix)
    run.metric("head.threshold", threshold)
    return document.model_copy(
        update={
            "threshold": threshold, "benign": len(benign),
            "false_positives": binomial_upper(count, len(benign)),
            "flagged": sum(flagged) / max(1, len(flagged)),
        }
    )  # fmt: skip


@torch.no_grad()
def read_rows(
    model: Transformer, rows: Sequence[Row], probe: Probe, first: ProbeDocument
) -> list[ReadExchange]:
    """What the last block and the first stage make of each row, in order."""
    found: dict[int, ReadExchange] = {}
    weights, bias = torch.from_numpy(probe.weights[0, :-1]), float(probe.weights[0, -1])
    for part, tokens_BT in batched(rows, ROWS):
        stream_BTD = stream_before(model, tokens_BT)
        harm_BT = states_of(model, tokens_BT, probe.layers) @ weights + bias
        for place, i in enumerate(part):
            row = rows[i]
            readings = harm_BT[place, row.read, None].numpy()
            means = np.array([mean[0] for mean in averages(readings, first.average)])
            found[i] = ReadExchange(row, stream_BTD[place, : len(row.tokens) - 1].half(), means)
    return [found[i] for i in range(len(rows))]


def stacked(read: Sequence[ReadExchange]) -> tuple[Tensor, Tensor]:
    """Streams [B, T, D], filled up with zeros, and which places [B, T] are looked at, in time."""
    longest, wide = max(len(one.stream_TD) for one in read), read[0].stream_TD.shape[1]
    stream_BTD = torch.zeros(len(read), longest, wide)
    seen_BT = torch.zeros(len(read), longest, dtype=torch.bool)
    for place, one in enumerate(read):
        stream_BTD[place, : len(one.stream_TD)] = one.stream_TD.float()
        start = one.row.read.start
        seen_BT[place, start : start + one.row.until] = True
    return stream_BTD, seen_BT


@torch.no_grad()
def harm_logits(
    head: LastBlock, model: Transformer, read: Sequence[ReadExchange]
) -> list[NDArray[np.float32]]:
    """Harm at each token that is looked at and in time."""
    found: dict[int, NDArray[np.float32]] = {}
    order = sorted(range(len(read)), key=lambda i: len(read[i].stream_TD))
    for at in range(0, len(order), ROWS):
        part = order[at : at + ROWS]
        stream_BTD, seen_BT = stacked([read[i] for i in part])
        harm_BT = head(stream_BTD, model)[..., 0]
        for place, i in enumerate(part):
            found[i] = harm_BT[place, seen_BT[place]].numpy()
    return [found[i] for i in range(len(read))]


def score(
    read: Sequence[ReadExchange], logits: Sequence[NDArray[np.float32]], mix: float
) -> list[ScoredExchange]:
    """The highest words of both stages on each exchange; `mix` is the weight of the first."""
    found: list[ScoredExchange] = []
    for one, harm in zip(read, logits, strict=True):
        means = one.means[: one.row.until]
        found.append(ScoredExchange(one.row, float(means.max()), float((harm + mix * means).max())))
    return found


def report(run: Run, test: Sequence[ScoredExchange], document: HeadDocument) -> None:
    """Say on test exchanges what `train_head` says of its head."""
    sealed = {style.name for style in STYLES.values() if style.sealed}
    leaks = [one for one in test if one.row.leaks]
    harmless = [one.both for one in test if not one.row.leaks]
    parts = {
        "": leaks,
        ".seen": [one for one in leaks if one.row.exchange.style not in sealed],
        ".sealed": [one for one in leaks if one.row.exchange.style in sealed],
    }
    for part, chosen in parts.items():
        run.metric(f"head.auroc{part}", auroc([one.both for one in chosen], harmless))

    def stops(one: ScoredExchange) -> bool:
        return one.flagged and one.both > document.threshold

    run.metric("head.stopped", wilson(sum(map(stops, leaks)), len(leaks)))
    for category in CATEGORIES:
        of_it = [one for one in leaks if one.row.exchange.category == category]
        run.metric(f"head.stopped.{category}", wilson(sum(map(stops, of_it)), len(of_it)))
    help_ = [one for one in test if one.row.exchange.label == "help"]
    refusals = [one for one in test if one.row.exchange.label == "refusal"]
    for name, chosen in (("flagged.leaks", leaks), ("flagged", help_)):
        run.metric(f"head.{name}", wilson(sum(one.flagged for one in chosen), len(chosen)))
    for name, chosen in (("benign", help_), ("refusals", refusals)):
        run.metric(f"head.{name}.test", wilson(sum(map(stops, chosen)), len(chosen)))
    said = [(1.0 / (1.0 + float(np.exp(-one.both))), float(one.row.leaks)) for one in test]
    run.metric("head.ece", calibration_error(said))
