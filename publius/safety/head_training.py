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

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from publius.core.config import Config
from publius.core.errors import UserError
from publius.data.pocket.crafts import CATEGORIES
from publius.model.checkpoint import Checkpoint, fingerprint
from publius.model.transformer import Transformer
from publius.pipeline import Run, stage
from publius.safety.exchanges import SPLITS, Exchanges
from publius.safety.head import HeadDocument, LastBlock, TrainedHead, write_head
from publius.safety.head_scores import (
    ROWS,
    ReadExchange,
    benign_scores,
    harm_logits,
    read_rows,
    report,
    score,
    stacked,
    with_bound,
)
from publius.safety.probe import TrainedProbe
from publius.safety.training import choose_threshold, learnable, platt, rows_of
from publius.tokenizer.renderer import Renderer

__all__ = ["TrainHeadConfig", "train_head"]

_BUCKET = 8
"""Batches among which rows of like length are put together."""


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
    read: dict[str, list[ReadExchange]] = {}
    with run.progress("head", len(SPLITS) + config.epochs) as ticker:
        for split in SPLITS:
            known = learnable(exchanges, split, identity, config.without)
            rows = rows_of(renderer, known, inner.config.max_position, identity, first.hold_back)
            read[split] = read_rows(inner, rows, probe.probe(), first)
            ticker.advance(note=split)
        head = LastBlock(inner, 1 + len(CATEGORIES))
        for epoch, loss in enumerate(_fitted(head, inner, read["train"], config)):
            run.log(epoch=epoch + 1, loss=loss)
            ticker.advance(note=f"loss {loss:.3f}")
    head.eval()
    logits = harm_logits(head, inner, read["val"])
    stopped: list[tuple[float, float]] = []
    for mix in config.mixes:
        scored = score(read["val"], logits, mix)
        threshold = choose_threshold(benign_scores(scored), config.false_positives)
        leaks = [one.both > threshold for one in scored if one.row.leaks]
        stopped.append((sum(leaks) / max(1, len(leaks)), -mix))
    mix = -max(stopped)[1]
    scored = score(read["val"], logits, mix)
    scale, shift = platt([one.both for one in scored], [one.row.leaks for one in scored])
    with torch.no_grad():
        head.out.weight *= scale
        head.out.bias.mul_(scale).add_(shift)
    scored = [one._replace(both=one.both * scale + shift) for one in scored]
    flag = _flag([one.first for one in scored if one.row.leaks], config.missed)
    test = score(read["test"], harm_logits(head, inner, read["test"]), mix * scale)
    scored, test = (
        [one._replace(flagged=not one.first <= flag) for one in split] for split in (scored, test)
    )
    document = HeadDocument(
        model=identity, outputs=("harm", *CATEGORIES), flag=flag, mix=mix * scale, threshold=0.0,
        hold_back=first.hold_back, benign=0, false_positives=1.0, flagged=1.0,
    )  # fmt: skip
    document = with_bound(run, document, scored, config.false_positives)
    report(run, test, document)
    return write_head(run.output, head, document)


def _flag(leaks: Sequence[float], missed: float) -> float:
    """The highest threshold that leaves no more than the share `missed` of the leaks at or under it."""
    ordered = sorted(leaks)
    lowest = ordered[int(missed * len(ordered))]
    return float(np.nextafter(lowest, -np.inf))


def _fitted(
    head: LastBlock, model: Transformer, read: Sequence[ReadExchange], config: TrainHeadConfig
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
    steps, step = config.epochs * -(-len(read) // ROWS), 0
    for _ in range(config.epochs):
        total, count = 0.0, 0
        for part in _shuffled([len(one.stream_TD) for one in read], rng):
            step += 1
            for group in optimizer.param_groups:
                group["lr"] = config.rate * min(1.0, step / 30) * max(0.02, 1 - step / steps)
            stream_BTD, seen_BT = stacked([read[i] for i in part])
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
    for at in range(0, len(order), ROWS * _BUCKET):
        bucket = sorted(order[at : at + ROWS * _BUCKET], key=lambda i: lengths[i])
        batches += [bucket[i : i + ROWS] for i in range(0, len(bucket), ROWS)]
    rng.shuffle(batches)
    return batches
