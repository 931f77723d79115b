"""Trains the second stage: the last block of the served model, taught to tell harm.

What is below it does not learn, so each exchange's stream is computed once. The loss is the probe's: a smooth
maximum over the reply of what a threshold is later compared with, in time to stop what leaks. The first stage
flags above a threshold that keeps nearly every leak; the second stage's threshold is the lowest that keeps
the upper 95% bound of false positives on the benign pool as low as asked, whether the first flags or not.

Shape letters: E exchanges, B rows, T tokens, D hidden size, K outputs.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from publius.core.config import Config
from publius.core.errors import UserError
from publius.core.stats import auroc, binomial_upper, calibration_error, wilson
from publius.data.pocket.crafts import CATEGORIES
from publius.inference.readings import Probe, states_of
from publius.model.checkpoint import Checkpoint, fingerprint
from publius.model.transformer import Transformer
from publius.pipeline import Run, stage
from publius.redteam.attack import STYLES
from publius.safety.exchanges import SPLITS, Exchanges
from publius.safety.head import HeadDocument, LastBlock, TrainedHead, write_head
from publius.safety.probe import ProbeDocument, TrainedProbe, averages
from publius.safety.rereading import stream_before
from publius.safety.training import Row, batched, choose_threshold, learnable, platt, rows_of
from publius.safety.words import Heard, chosen_flags, learned_words
from publius.tokenizer.renderer import Renderer

__all__ = ["BoundConfig", "TrainHeadConfig", "bound_head", "train_head"]

_ROWS, _BUCKET = 32, 8
"""Rows of a batch, and batches among which rows of like length are put together."""


class TrainHeadConfig(Config):
    """How a head is trained."""

    epochs: int = Field(default=3, ge=1)
    rate: float = Field(default=1e-3, gt=0)
    """Highest learning rate; it rises over 30 steps and falls to nothing."""
    decay: float = Field(default=0.05, ge=0)
    mixes: tuple[float, ...] = (0.0, 0.5)
    """Weights of the first stage that are tried; the one that stops most on `val` is kept."""
    missed: float = Field(default=0.003, ge=0, lt=1)
    """Share of the leaks of `val` that the first stage may leave unflagged."""
    false_positives: float = Field(default=0.003, gt=0, lt=1)
    """Most of the benign exchanges that may be blocked, by the upper 95% bound."""
    without: tuple[str, ...] = ()
    """As `TrainProbeConfig.without`."""
    shuffle: bool = False
    """Train on shuffled labels: a control, which must find nothing."""
    seed: int = 0


class _Read(NamedTuple):
    """An exchange, what the last block gets of it, and what the first stage said."""

    row: Row
    stream_TD: Tensor
    """fp16: it is kept for all exchanges at once."""
    means: NDArray[np.float64]
    """The first stage's average at each token that is looked at."""


class _Scored(NamedTuple):
    """Both stages' highest word on an exchange, in time."""

    row: Row
    first: float
    both: float
    flagged: bool = False
    """Whether the second stage is asked."""


@stage(version=1)
def train_head(
    run: Run, config: TrainHeadConfig, *, model: Checkpoint, exchanges: Exchanges, probe: TrainedProbe
) -> TrainedHead:
    """A last-block head for `model`, to follow `probe`.

    Metrics, on test exchanges: `head.auroc`, of open and of sealed styles too (`.seen`, `.sealed`), refusals
    and benign replies being the negatives; `head.stopped`, leaks that both stages stop in time, by category
    too; `head.flagged.leaks` and `head.flagged`, the leaks and the benign replies that the first stage flags;
    `head.ece`; `head.benign`, false positives on the pool the threshold was chosen on; `head.benign.test` and
    `head.refusals.test`.

    Raises:
        UserError: when there are no leaks, or too few benign exchanges for the bound that is asked.
    """
    inner, renderer, first = model.load(), Renderer(model.tokenizer()), probe.document()
    identity = fingerprint(model)
    if first.model != identity:
        raise UserError(
            "the probe reads another model", where="train_head.probe", fix="give the one of this model"
        )
    read: dict[str, list[_Read]] = {}
    with run.progress("head", len(SPLITS) + config.epochs) as ticker:
        for split in SPLITS:
            known = learnable(exchanges, split, identity, config.without)
            rows = rows_of(renderer, known, inner.config.max_position, identity, first.hold_back)
            read[split] = _read(inner, rows, probe.probe(), first)
            ticker.advance(note=split)
        head = LastBlock(inner, 1 + len(CATEGORIES))
        for epoch, loss in enumerate(_fitted(head, inner, read["train"], config)):
            run.log(epoch=epoch + 1, loss=loss)
            ticker.advance(note=f"loss {loss:.3f}")
    head.eval()
    logits = _logits(head, inner, read["val"])
    stopped: list[tuple[float, float]] = []
    for mix in config.mixes:
        scored = _scored(read["val"], logits, mix)
        threshold = choose_threshold(_benign(scored), config.false_positives)
        leaks = [one.both > threshold for one in scored if one.row.leaks]
        stopped.append((sum(leaks) / max(1, len(leaks)), -mix))
    mix = -max(stopped)[1]
    scored = _scored(read["val"], logits, mix)
    scale, shift = platt([one.both for one in scored], [one.row.leaks for one in scored])
    with torch.no_grad():
        head.out.weight *= scale
        head.out.bias.mul_(scale).add_(shift)
    scored = [one._replace(both=one.both * scale + shift) for one in scored]
    flag = _flag([one.first for one in scored if one.row.leaks], config.missed)
    test = _scored(read["test"], _logits(head, inner, read["test"]), mix * scale)
    scored, test = (
        [one._replace(flagged=not one.first <= flag) for one in split] for split in (scored, test)
    )
    document = HeadDocument(
        model=identity, outputs=("harm", *CATEGORIES), flag=flag, mix=mix * scale, threshold=0.0,
        hold_back=first.hold_back, benign=0, false_positives=1.0, flagged=1.0,
    )  # fmt: skip
    document = _bounded(run, document, scored, config.false_positives)
    _report(run, test, document)
    return write_head(run.output, head, document)


class BoundConfig(Config):
    """What flags, and where the thresholds lie."""

    false_positives: float = Field(default=0.005, gt=0, lt=1)
    """As `TrainHeadConfig.false_positives`."""
    missed: float = Field(default=0.001, ge=0, lt=1)
    """Share of the leaks, of `train` and `val` together, that may stay unflagged."""
    margin: float = Field(default=0.5, ge=0)
    """Log-odds: leaks must be flagged even if the averages were lower by so much, as those of items that
    nothing was chosen on are."""
    spare: float = Field(default=0.1, ge=0, le=1)
    """Share of the benign traffic of `val` that may be flagged in any case: where less would do, both
    averages are lowered until it is."""
    hold_back: int = Field(default=16, ge=0)
    """Tokens, of both stages."""


@stage(version=4)
def bound_head(
    run: Run,
    config: BoundConfig,
    *,
    model: Checkpoint,
    exchanges: Exchanges,
    probe: TrainedProbe,
    head: TrainedHead,
) -> TrainedHead:
    """The same head behind other flags, with another threshold and hold-back: none needs new training.

    The words that flag are learned from `train`, its leaks and the model's own harmless replies. How many of
    them, and the averages that flag with them and without, are what flags the least of the benign traffic of
    `val` and leaves no more leaks unflagged than it may; then both averages are lowered as far as `spare`
    lets.

    Metrics: as `train_head`; `head.words`, how many flag.

    Raises:
        UserError: when there are too few benign exchanges for the bound that is asked.
    """
    inner, renderer, document = model.load(), Renderer(model.tokenizer()), head.document()
    block = LastBlock(inner, len(document.outputs))
    block.load_state_dict(head.weights())
    block.eval()
    scored: dict[str, list[_Scored]] = {}
    learned, first, identity = list[str](), probe.document(), document.model
    with run.progress("bound", len(SPLITS)) as ticker:
        for split in SPLITS:
            known = learnable(exchanges, split, identity)
            rows = rows_of(renderer, known, inner.config.max_position, identity, config.hold_back)
            if split == "train":
                own = [row for row in rows if row.leaks or row.exchange.model == identity]
                learned = learned_words([_heard(_Scored(row, 0.0, 0.0), renderer) for row in own])
                rows = [row for row in rows if row.leaks]
            read = _read(inner, rows, probe.probe(), first)
            scored[split] = _scored(read, _logits(block, inner, read), document.mix)
            ticker.advance(note=split)
    leaks = [
        _heard(one._replace(first=one.first - config.margin), renderer)
        for split in ("train", "val") for one in scored[split] if one.row.leaks
    ]  # fmt: skip
    harmless = [_heard(one, renderer) for one in scored["val"] if _harmless(one.row, identity)]
    flags = chosen_flags(leaks, harmless, learned, config.missed, spare=config.spare)
    words = None if flags.words is None else flags.words.keywords
    document = document.model_copy(
        update={"flag": flags.flag, "worded": flags.worded if words else None, "hold_back": config.hold_back}
    )
    run.metric("head.words", sum(len(entry.words) for entry in words.entries) if words else 0)
    known, test = (
        [one._replace(flagged=flags(one.first, _heard(one, renderer).text)) for one in scored[split]]
        for split in ("val", "test")
    )
    document = _bounded(run, document, known, config.false_positives)
    _report(run, test, document)
    return write_head(run.output, block, document, words)


def _heard(one: _Scored, renderer: Renderer) -> Heard:
    row = one.row
    reply = row.tokens[row.first : row.first + row.skipped + row.until]
    text = renderer.tokenizer.decode(reply, skip_special=True)
    return Heard(one.first, text, row.leaks, str(row.exchange.prompt.meta.get("entity", "")))


def _harmless(row: Row, identity: str) -> bool:
    """Whether this is benign traffic of the model itself, and no leak."""
    meta = row.exchange.prompt.meta
    benign = meta.get("kind") != "hazard" or meta.get("family") == "near_miss"
    return benign and not row.leaks and row.exchange.model == identity


def _benign(scored: Sequence[_Scored]) -> list[float]:
    """The highest words on the model's own harmless replies."""
    return [one.both for one in scored if one.row.exchange.label == "help"]


def _bounded(run: Run, document: HeadDocument, scored: Sequence[_Scored], most: float) -> HeadDocument:
    """With the lowest threshold that keeps the bound, and what is known of it."""
    benign = _benign(scored)
    threshold = choose_threshold(benign, most)
    count = sum(score > threshold for score in benign)
    flagged = [one.flagged for one in scored if one.row.exchange.label == "help"]
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


def _flag(leaks: Sequence[float], missed: float) -> float:
    """The highest threshold that leaves no more than the share `missed` of the leaks at or under it."""
    ordered = sorted(leaks)
    lowest = ordered[int(missed * len(ordered))]
    return float(np.nextafter(lowest, -np.inf))


@torch.no_grad()
def _read(model: Transformer, rows: Sequence[Row], probe: Probe, first: ProbeDocument) -> list[_Read]:
    found: dict[int, _Read] = {}
    weights, bias = torch.from_numpy(probe.weights[0, :-1]), float(probe.weights[0, -1])
    for part, tokens_BT in batched(rows, _ROWS):
        stream_BTD = stream_before(model, tokens_BT)
        harm_BT = states_of(model, tokens_BT, probe.layers) @ weights + bias
        for place, i in enumerate(part):
            row = rows[i]
            readings = harm_BT[place, row.read, None].numpy()
            means = np.array([mean[0] for mean in averages(readings, first.average)])
            found[i] = _Read(row, stream_BTD[place, : len(row.tokens) - 1].half(), means)
    return [found[i] for i in range(len(rows))]


def _stacked(read: Sequence[_Read]) -> tuple[Tensor, Tensor]:
    """Streams [B, T, D], filled up with zeros, and which places [B, T] are looked at, in time."""
    longest, wide = max(len(one.stream_TD) for one in read), read[0].stream_TD.shape[1]
    stream_BTD = torch.zeros(len(read), longest, wide)
    seen_BT = torch.zeros(len(read), longest, dtype=torch.bool)
    for place, one in enumerate(read):
        stream_BTD[place, : len(one.stream_TD)] = one.stream_TD.float()
        start = one.row.read.start
        seen_BT[place, start : start + one.row.until] = True
    return stream_BTD, seen_BT


def _fitted(
    head: LastBlock, model: Transformer, read: Sequence[_Read], config: TrainHeadConfig
) -> Iterator[float]:
    """Train; gives the mean loss of each epoch."""
    labels = [("harm", one.row.exchange.category) if one.row.leaks else ("", "") for one in read]
    rng = random.Random(f"head/{config.seed}")
    if config.shuffle:
        rng.shuffle(labels)
    if not any(label[0] for label in labels) or all(label[0] for label in labels):
        raise UserError(
            "leaks and harmless replies are both needed", where="train_head.exchanges", fix="draw both"
        )
    targets_EK = torch.tensor([[float(name in label) for name in ("harm", *CATEGORIES)] for label in labels])
    share_K = targets_EK.mean(0).clamp(min=1 / len(labels), max=1 - 1 / len(labels))
    weights_EK = torch.where(targets_EK == 1, 0.5 / share_K, 0.5 / (1 - share_K))
    optimizer = torch.optim.AdamW(head.parameters(), lr=config.rate, weight_decay=config.decay)
    steps, step = config.epochs * -(-len(read) // _ROWS), 0
    for _ in range(config.epochs):
        total, count = 0.0, 0
        for part in _shuffled([len(one.stream_TD) for one in read], rng):
            step += 1
            for group in optimizer.param_groups:
                group["lr"] = config.rate * min(1.0, step / 30) * max(0.02, 1 - step / steps)
            stream_BTD, seen_BT = _stacked([read[i] for i in part])
            logits_BTK = head(stream_BTD, model).masked_fill(~seen_BT[..., None], -torch.inf)
            loss = F.binary_cross_entropy_with_logits(
                logits_BTK.logsumexp(1), targets_EK[part], weights_EK[part]
            )
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(head.parameters(), 1.0)
            optimizer.step()
            total, count = total + loss.item(), count + 1
        yield total / count


def _shuffled(lengths: Sequence[int], rng: random.Random) -> list[list[int]]:
    """Batches in random order, each of rows of like length: of what is filled up nothing is learned."""
    order = list(range(len(lengths)))
    rng.shuffle(order)
    batches: list[list[int]] = []
    for at in range(0, len(order), _ROWS * _BUCKET):
        bucket = sorted(order[at : at + _ROWS * _BUCKET], key=lambda i: lengths[i])
        batches += [bucket[i : i + _ROWS] for i in range(0, len(bucket), _ROWS)]
    rng.shuffle(batches)
    return batches


@torch.no_grad()
def _logits(head: LastBlock, model: Transformer, read: Sequence[_Read]) -> list[NDArray[np.float32]]:
    """Harm at each token that is looked at and in time."""
    found: dict[int, NDArray[np.float32]] = {}
    order = sorted(range(len(read)), key=lambda i: len(read[i].stream_TD))
    for at in range(0, len(order), _ROWS):
        part = order[at : at + _ROWS]
        stream_BTD, seen_BT = _stacked([read[i] for i in part])
        harm_BT = head(stream_BTD, model)[..., 0]
        for place, i in enumerate(part):
            found[i] = harm_BT[place, seen_BT[place]].numpy()
    return [found[i] for i in range(len(read))]


def _scored(read: Sequence[_Read], logits: Sequence[NDArray[np.float32]], mix: float) -> list[_Scored]:
    found: list[_Scored] = []
    for one, harm in zip(read, logits, strict=True):
        means = one.means[: one.row.until]
        found.append(_Scored(one.row, float(means.max()), float((harm + mix * means).max())))
    return found


def _report(run: Run, test: Sequence[_Scored], document: HeadDocument) -> None:
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

    def stops(one: _Scored) -> bool:
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
