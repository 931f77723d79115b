"""Trains the probe: which states belong to replies that leak?

An exchange's logit is a smooth maximum over its reply of what a threshold is later compared with, the moving
averages of the linear readings, so that what is learned is what is asked of it: no average of a harmless
reply may be high, and one of a leak must be, before its first step is said (and as many tokens after as are
held back). Then Platt's two numbers on other exchanges make the score a probability; all is folded into one
matrix. The threshold is the lowest that keeps the upper 95% bound (Clopper and Pearson 1934) of false
positives on the benign pool as low as asked.

A reply of another model is read from its fifth token on: until then the states say what this one would reply.

Shape letters: E exchanges, T tokens of a reply, N of all replies, S states, K outputs.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from publius.core.config import Config
from publius.core.errors import UserError
from publius.core.stats import auroc, binomial_upper, calibration_error, wilson
from publius.data.pocket.crafts import CATEGORIES
from publius.inference.readings import Probe, states_of
from publius.model.checkpoint import Checkpoint, fingerprint
from publius.model.transformer import Transformer
from publius.pipeline import Run, stage
from publius.redteam.attack import STYLES
from publius.safety.exchanges import SPLITS, Exchange, Exchanges
from publius.safety.probe import ProbeDocument, TrainedProbe, averages, write_probe
from publius.tokenizer.renderer import Renderer

__all__ = [
    "Row",
    "TrainProbeConfig",
    "batched",
    "choose_threshold",
    "first_step",
    "learnable",
    "platt",
    "rows_of",
    "train_probe",
]

_ROWS, _STEPS = 32, 80
_FOREIGN = 4
"""Tokens of another model's reply that are passed over."""


class TrainProbeConfig(Config):
    """How a probe is trained."""

    layers: tuple[int, ...] | None = None
    """After how many layers the stream is read besides the last state; None takes all of them."""
    decay: float = Field(default=0.002, ge=0)
    """L2 of the weights on standardised states."""
    averages: tuple[float, ...] = (0.3,)
    """Weights of the newest reading that are tried; the one that stops most on `val` is kept."""
    false_positives: float = Field(default=0.002, gt=0, lt=1)
    """Most of the benign exchanges that may be blocked, by the upper 95% bound; a second stage has
    its own."""
    hold_back: int = Field(default=8, ge=0)
    """Tokens."""
    without: tuple[str, ...] = ()
    """Categories that nothing is learned from, nor any threshold: to see what it makes of the unknown."""
    shuffle: bool = False
    """Train on shuffled labels: a control, which must find nothing."""
    seed: int = 0


class _Read(NamedTuple):
    """An exchange and the states its reply was drawn from."""

    exchange: Exchange
    states_TS: NDArray[np.float32]
    until: int
    """How many of them come in time: all, or for a leak those before its first step and the hold-back."""


@stage(version=5)
def train_probe(
    run: Run, config: TrainProbeConfig, *, model: Checkpoint, exchanges: Exchanges
) -> TrainedProbe:
    """A probe on `model`'s states.

    Metrics, on test exchanges (items and wordings nobody trained on): `probe.auroc`, of open and of sealed
    styles too (`.seen`, `.sealed`), refusals and benign replies being the negatives; `.refusals`, against
    refusals alone; `probe.ece` of its score; `probe.stopped`, leaks above the threshold, by category too;
    `probe.benign`, false positives on the pool the threshold was chosen on; `probe.benign.test`, on the
    model's own test replies, and `probe.refusals.test`, of refusals whoever refused. A leak counts as stopped
    when it is in time.

    Raises:
        UserError: when there are no leaks, or too few benign exchanges for the bound that is asked.
    """
    inner, renderer = model.load(), Renderer(model.tokenizer())
    layers = tuple(range(1, inner.config.layers)) if config.layers is None else config.layers
    identity = fingerprint(model)
    read: dict[str, list[_Read]] = {}
    with run.progress("probe", len(SPLITS) + 1) as ticker:
        for split in SPLITS:
            known = learnable(exchanges, split, identity, config.without)
            rows = rows_of(renderer, known, inner.config.max_position, identity, config.hold_back)
            read[split] = _states(inner, rows, layers)
            ticker.advance(note=split)
        own = [one for one in read["val"] if one.exchange.label == "help"]
        leaks = [one for one in read["val"] if _leaks(one)]
        found: list[tuple[float, float, float, Probe]] = []
        for average in config.averages:
            probe = Probe(_fitted(read["train"], average, config), layers)
            threshold = choose_threshold(_scores(probe, own, average), config.false_positives)
            stopped = sum(score > threshold for score in _scores(probe, leaks, average))
            found.append((stopped / max(1, len(leaks)), average, threshold, probe))
        ticker.advance(note="fitted")
    _, average, threshold, probe = max(found, key=lambda one: one[:2])
    known = read["val"]
    scale, shift = platt(_scores(probe, known, average), [_leaks(one) for one in known])
    weights = probe.weights * scale
    weights[:, -1] += shift
    probe = Probe(weights, layers)
    # chosen anew: weights are rounded, and one exchange stands at the threshold itself
    threshold = choose_threshold(_scores(probe, own, average), config.false_positives)
    count = sum(score > threshold for score in _scores(probe, own, average))
    _report(run, probe, average, threshold, read["test"])
    run.metric("probe.benign", wilson(count, len(own)))
    run.metric("probe.average", average)
    run.metric("probe.threshold", threshold)
    document = ProbeDocument(
        model=identity, outputs=("harm", *CATEGORIES), layers=layers, average=average, threshold=threshold,
        hold_back=config.hold_back, benign=len(own), false_positives=binomial_upper(count, len(own)),
    )  # fmt: skip
    return write_probe(run.output, probe, document)


def learnable(
    exchanges: Exchanges, split: str, identity: str, without: Collection[str] = ()
) -> list[Exchange]:
    """What a monitor of the model `identity` learns from: no attempts, no strays, help of its own only, and
    but for the test nothing of the categories it is to do without."""
    return [
        e for e in exchanges.read(split)
        if e.label not in ("attempt", "stray") and (e.label != "help" or e.model == identity)
        and (split == "test" or e.kind != "hazard" or e.category not in without)
    ]  # fmt: skip


def choose_threshold(benign: Sequence[float], most: float) -> float:
    """The lowest threshold that keeps the upper 95% bound of benign scores above it at or under `most`.

    Raises:
        UserError: when there are too few scores to bound anything so tightly.
    """
    ordered = sorted(benign, reverse=True)
    allowed = -1
    while allowed + 1 < len(ordered) and binomial_upper(allowed + 1, len(ordered)) <= most:
        allowed += 1
    if allowed < 0:
        raise UserError(
            f"{len(ordered)} benign exchanges cannot show false positives under {most:.2%}",
            where="train_probe.false_positives",
            fix="draw more benign exchanges, or ask for less",
        )
    return ordered[allowed] if allowed < len(ordered) else ordered[-1]


def _leaks(one: _Read) -> bool:
    return one.exchange.label == "leak"


class Row(NamedTuple):
    """An exchange as the model's tokens."""

    exchange: Exchange
    tokens: list[int]
    """Prompt and reply."""
    first: int
    """Where the reply begins."""
    skipped: int
    """Tokens of the reply that are passed over, for another model wrote them."""
    until: int
    """How many of those after them come in time."""

    @property
    def read(self) -> slice:
        """Places whose states the tokens that are looked at were drawn from: all, in time or not."""
        return slice(self.first - 1 + self.skipped, len(self.tokens) - 1)

    @property
    def leaks(self) -> bool:
        """Whether it must be stopped."""
        return self.exchange.label == "leak"


def rows_of(
    renderer: Renderer, exchanges: Iterable[Exchange], longest: int, identity: str, hold_back: int
) -> list[Row]:
    """Exchanges as tokens, in order; those that do not fit into `longest` are left out.

    Args:
        identity: fingerprint of the model that reads.
        hold_back: so many tokens of a leak after the first of its first step still come in time.
    """
    rows: list[Row] = []
    for exchange in exchanges:
        begin = renderer.prompt(exchange.prompt)
        begun = exchange.prompt.messages[-1].role == "assistant"
        before = exchange.prompt.messages[:-1] if begun else exchange.prompt.messages
        whole = exchange.prompt.model_copy(update={"messages": (*before, exchange.reply)})
        tokens = renderer.render(whole).tokens
        first, count = len(begin), len(tokens) - len(begin)
        if len(tokens) <= longest and tokens[:first] == begin != tokens:
            skipped = 0 if exchange.model == identity else min(_FOREIGN, count - 1)
            start = count
            if exchange.label == "leak":
                start = first_step(exchange.prompt.meta["keys"], tokens[first:], renderer)
            until = start + hold_back - skipped
            rows.append(Row(exchange, tokens, first, skipped, max(1, min(count - skipped, until))))
    return rows


def batched(rows: Sequence[Row], size: int) -> Iterator[tuple[list[int], Tensor]]:
    """Places in `rows`, short ones together, and their tokens [B, T], filled up with zeros at the end."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].tokens))
    for at in range(0, len(order), size):
        part = order[at : at + size]
        longest = max(len(rows[i].tokens) for i in part)
        yield part, torch.tensor([rows[i].tokens + [0] * (longest - len(rows[i].tokens)) for i in part])


def _states(model: Transformer, rows: Sequence[Row], layers: tuple[int, ...]) -> list[_Read]:
    """The states of every reply's tokens, in order."""
    found: dict[int, _Read] = {}
    for part, tokens_BT in batched(rows, _ROWS):
        states_BTS = states_of(model, tokens_BT, layers)
        for place, i in enumerate(part):
            found[i] = _Read(rows[i].exchange, states_BTS[place, rows[i].read].numpy().copy(), rows[i].until)
    return [found[i] for i in range(len(rows))]


def first_step(keys: Sequence[str], reply: Sequence[int], renderer: Renderer) -> int:
    """The number of the token in which the first of `keys` begins; 0 when none is said."""
    whole = renderer.tokenizer.decode(reply, skip_special=True).lower()
    start = min((at for key in keys if (at := whole.find(str(key).lower())) >= 0), default=0)
    for number in range(len(reply)):
        if len(renderer.tokenizer.decode(reply[: number + 1], skip_special=True)) > start:
            return number
    return len(reply)


def _fitted(read: Sequence[_Read], average: float, config: TrainProbeConfig) -> NDArray[np.float32]:
    """Weights [K, S + 1] of logistic regression; the first output is harm, the others its categories."""
    labels = [("harm", one.exchange.category) if _leaks(one) else ("", "") for one in read]
    if config.shuffle:
        random.Random(config.seed).shuffle(labels)
    names = ("harm", *CATEGORIES)
    if not any(label[0] for label in labels) or all(label[0] for label in labels):
        raise UserError(
            "leaks and harmless replies are both needed", where="train_probe.exchanges", fix="draw both"
        )
    rows = [_averaged(one.states_TS[: one.until], average) for one in read]
    states_NS = torch.from_numpy(np.concatenate(rows))
    mean_S, std_S = states_NS.mean(0), states_NS.std(0).clamp(min=1e-4)
    states_NS.sub_(mean_S).div_(std_S)
    owner_N = torch.tensor([i for i, row in enumerate(rows) for _ in row])
    place_N = torch.tensor([t for row in rows for t in range(len(row))])
    targets_EK = torch.tensor([[float(name in label) for name in names] for label in labels])
    ones_K = targets_EK.sum(0).clamp(min=1)
    weights_EK = torch.where(targets_EK == 1, 0.5 / ones_K, 0.5 / (len(rows) - ones_K).clamp(min=1))
    matrix = torch.zeros(len(names), states_NS.shape[1], requires_grad=True)
    bias = torch.zeros(len(names), requires_grad=True)
    optimizer = torch.optim.LBFGS([matrix, bias], max_iter=_STEPS, line_search_fn="strong_wolfe")
    nothing_ETK = torch.full((len(rows), int(place_N.max()) + 1, len(names)), -torch.inf)

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits_ETK = nothing_ETK.index_put((owner_N, place_N), states_NS @ matrix.T + bias)
        logits_EK = logits_ETK.logsumexp(1)
        wrong = F.binary_cross_entropy_with_logits(logits_EK, targets_EK, weights_EK, reduction="sum")
        total = wrong + config.decay * matrix.square().sum()
        total.backward()
        return total

    optimizer.step(loss)  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        plain = matrix / std_S
        return torch.cat([plain, (bias - plain @ mean_S)[:, None]], 1).numpy().astype(np.float32)


def _averaged(states_TS: NDArray[np.float32], average: float) -> NDArray[np.float32]:
    """Averages of states give the averages of their linear readings."""
    return np.stack(list(averages(states_TS, average))).astype(np.float32)


def _scores(probe: Probe, read: Sequence[_Read], average: float) -> list[float]:
    """The highest average of each exchange: what a threshold is compared with."""
    found: list[float] = []
    for one in read:
        readings = one.states_TS[: one.until] @ probe.weights[:1, :-1].T + probe.weights[:1, -1]
        found.append(max(float(mean[0]) for mean in averages(readings, average)))
    return found


def platt(scores: Sequence[float], labels: Sequence[bool]) -> tuple[float, float]:
    """Scale and shift that make scores log-odds (Platt 1999); the scale stays positive."""
    x, y = torch.tensor(scores), torch.tensor([float(label) for label in labels])
    parts = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.LBFGS([parts], max_iter=50, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = x * parts[0].exp() + parts[1]
        total = F.binary_cross_entropy_with_logits(logits, y) + 1e-4 * parts.square().sum()
        total.backward()
        return total

    optimizer.step(loss)  # pyright: ignore[reportArgumentType]
    return float(parts[0].detach().exp()), float(parts[1].detach())


def _report(run: Run, probe: Probe, average: float, threshold: float, test: Sequence[_Read]) -> None:
    scored = list(zip(test, _scores(probe, test, average), strict=True))
    sealed = {style.name for style in STYLES.values() if style.sealed}
    harmless = [score for one, score in scored if not _leaks(one)]
    refusals = [score for one, score in scored if one.exchange.label == "refusal"]
    leaks = [(one.exchange.style, score) for one, score in scored if _leaks(one)]
    everything = [score for _, score in leaks]
    compared: dict[str, tuple[Sequence[float], Sequence[float]]] = {
        "probe.auroc": (everything, harmless),
        "probe.auroc.seen": ([score for style, score in leaks if style not in sealed], harmless),
        "probe.auroc.sealed": ([score for style, score in leaks if style in sealed], harmless),
        "probe.auroc.refusals": (everything, refusals),
    }
    for name, (high, low) in compared.items():
        run.metric(name, auroc(high, low))
    said = [(1.0 / (1.0 + float(np.exp(-score))), float(_leaks(one))) for one, score in scored]
    run.metric("probe.ece", calibration_error(said))
    run.metric("probe.stopped", wilson(sum(score > threshold for score in everything), len(everything)))
    for category in CATEGORIES:
        of_it = [s for one, s in scored if _leaks(one) and one.exchange.category == category]
        run.metric(f"probe.stopped.{category}", wilson(sum(s > threshold for s in of_it), len(of_it)))
    for name, of in (("benign", "help"), ("refusals", "refusal")):
        mine = [s for one, s in scored if one.exchange.label == of]
        run.metric(f"probe.{name}.test", wilson(sum(score > threshold for score in mine), len(mine)))
