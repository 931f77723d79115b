"""Curves: the loss of every stage that trained, and PPO's reward against what it paid in KL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from publius.report.collect import Entry, Gathered
from publius.report.html import Html, compact, details, el, number, section, table
from publius.report.plots import Point, Series, line_plot, smooth

__all__ = ["losses", "reinforcement"]

_HELD_OUT = ("val_loss", "val_bpb", "val_accuracy")
_PPO = {
    "reward": "reward",
    "check_reward": "second model's reward",
    "kl": "KL, nats per reply",
    "entropy": "entropy",
    "length": "tokens per reply",
    "eos_rate": "ended by itself",
    "clip_fraction": "clipped",
    "value_loss": "value loss",
    "ratio_first": "first-pass ratio",
    "skipped": "left out for having no reward",
}
_PART = "part."
"""Before the name of each part of a composed reward, in the log."""

_GAINED = {"ppo.gain": "reward gained on held-out prompts", "ppo.kl": "KL in nats per reply"}
_DPO = {
    "dpo.accuracy": "right on held-out pairs",
    "dpo.margin": "implicit reward of the better reply over the other",
    "dpo.better": "of the better reply",
    "dpo.worse": "of the other",
    "dpo.kl": "KL in nats per reply",
}


def _points(log: Sequence[dict[str, Any]], key: str, x: str = "step") -> list[Point]:
    """The logged pairs; lines without either, and values that were not finite (null), are left out."""
    return [
        (float(line[x]), float(line[key]))
        for line in log
        if line.get(key) is not None and line.get(x) is not None
    ]


def losses(g: Gathered) -> Html | None:
    """One plot a training stage: the loss of each step, its running mean, held-out numbers."""
    plots = [plot for entry in g.made() if (plot := _loss_plot(entry)) is not None]
    if not plots:
        return None
    return section(
        "training",
        "Training",
        "Loss in nats a token (reward models: a pair) by optimizer step; faint as logged, bold smoothed.",
        el("div", plots, class_="plots"),
    )


def _loss_plot(entry: Entry) -> Html | None:
    log = entry.log()
    points = _points(log, "loss")
    if not points:
        return None
    series = [
        Series("as logged", points, "s1", faint=True),
        Series("training", smooth(points), "s1"),
        Series("held out", _points(log, "val_loss"), "s2", dots=True),
    ]
    rates = [value for _, value in _points(log, "tokens_per_second")]
    parts = [f"{len(points)} steps"]
    if rates:
        parts.append(f"{compact(sum(rates) / len(rates))} tokens/s")
    for key in _HELD_OUT:
        if (last := entry.record.metrics.get(key)) is not None and last["value"] is not None:
            parts.append(f"{key} {number(last['value'])}")
    return line_plot(entry.name, series, x_label="step", note=", ".join(parts), log=True)


def reinforcement(g: Gathered) -> Html | None:
    """For each PPO stage: reward against sqrt(KL), and the course of all else; what each DPO came to."""
    parts = [part for entry in g.made() for part in (_ppo(entry), _dpo(entry)) if part is not None]
    if not parts:
        return None
    return section(
        "rl",
        "Reinforcement learning",
        "Reward is bought with distance from the starting policy, so it is drawn against √KL. The second "
        "preference model saw the other half of the labels: where the first rises and it falls, the policy "
        "is gaming the first.",
        parts,
    )


def _ppo(entry: Entry) -> Html | None:
    log = [line for line in entry.log() if "kl" in line and "reward" in line]
    if not log:
        return None
    stopped = [str(line["stopped"]) for line in entry.log() if line.get("stopped")]
    by_root = [
        Series("reward", _points(log, "reward", "sqrt_kl"), "s1", dots=True),
        Series("second model", _points(log, "check_reward", "sqrt_kl"), "s2", dots=True),
    ]
    by_step = [
        Series("reward", _points(log, "reward"), "s1"),
        Series("second model", _points(log, "check_reward"), "s2"),
    ]
    plots = [
        # In order of KL, not of steps: a path that doubles back on itself cannot be read.
        line_plot(
            "Reward against √KL",
            [s._replace(points=sorted(s.points)) for s in by_root],
            x_label="√KL, KL in nats per reply",
        ),
        line_plot("Reward by step", by_step, x_label="step"),
        line_plot(
            "KL by step", [Series("KL", _points(log, "kl"), "s3")], x_label="step", y_label="nats per reply"
        ),
        line_plot(
            "Entropy by step",
            [Series("entropy", _points(log, "entropy"), "s4")],
            x_label="step",
            y_label="nats",
        ),
        line_plot(
            "Length by step",
            [Series("length", _points(log, "length"), "s1")],
            x_label="step",
            y_label="tokens per reply",
        ),
        line_plot(
            "Clipped by step",
            [Series("clipped", _points(log, "clip_fraction"), "s2")],
            x_label="step",
            y_label="share of tokens",
        ),
    ]
    labels = {key: f"part {key.removeprefix(_PART)}" for line in log for key in line if key.startswith(_PART)}
    plots += [_part_plot(log, key, label) for key, label in labels.items() if key.count(".") == 1]
    known = _PPO | labels
    names = [(key, label) for key, label in known.items() if any(line.get(key) is not None for line in log)]
    rows = [[f"{line['step']}", *(number(line.get(key)) for key, _ in names)] for line in log]
    steps = table(["step", *(label for _, label in names)], rows, numeric=range(len(names) + 1))
    return el(
        "div",
        el("h3", entry.name),
        _summary(entry),
        el("p", el("strong", "Stopped early: "), stopped[-1], class_="warning") if stopped else None,
        el("div", [plot for plot in plots if plot is not None], class_="plots"),
        details(f"Every step ({len(log)})", steps),
    )


def _part_plot(log: Sequence[dict[str, Any]], key: str, label: str) -> Html | None:
    """One part of the reward by itself: each has a scale of its own."""
    return line_plot(
        f"{label.capitalize()} by step",
        [Series(label, _points(log, key), "s3")],
        x_label="step",
        y_label="mean, unweighted",
    )


def _dpo(entry: Entry) -> Html | None:
    """Fitted to pairs: what is known of it on held-out ones. Its loss is drawn with the others'."""
    if "dpo.accuracy" not in entry.record.metrics:
        return None
    return el("div", el("h3", entry.name), _sentence(entry, _DPO))


def _summary(entry: Entry) -> Html:
    return _sentence(entry, _GAINED)


def _sentence(entry: Entry, names: dict[str, str]) -> Html:
    """The metrics there are, each in words with its interval."""
    said: list[str] = []
    for key, label in names.items():
        found = entry.record.metrics.get(key)
        if found and found["value"] is not None:
            interval = (
                ""
                if found.get("low") is None
                else f" ({number(found['low'])} to {number(found['high'])}, n = {found['n']})"
            )
            said.append(f"{label} {number(found['value'])}{interval}")
    return el("p", "; ".join(said), class_="note")
