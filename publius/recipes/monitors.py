"""What two layers of monitors stop, and whom they disturb.

    publius run monitors                      # after quickstart: about half an hour on two quiet cores
    publius run monitors --set seed=1

On the two models that matter: the helpful-only one, which any attack breaks, and the release, which few do.
Labelled exchanges are drawn from both; each gets a probe on its own states and a last-block head behind it.
Both are attacked and asked harmless things under both layers, each alone, and none. Controls: a probe trained
on shuffled labels, which must find nothing, and both layers without two of the four categories of harm. And
an attacker who knows everything.
"""

from __future__ import annotations

from publius.data.pocket.world import PocketConfig, make_pocket
from publius.pipeline import Recipe
from publius.recipes._workshop import Sizes
from publius.recipes.quickstart import align
from publius.safety.exchanges import ExchangesConfig, LabelsConfig, draw_exchanges, label_exchanges
from publius.safety.head_training import BoundConfig, TrainHeadConfig, bound_head, train_head
from publius.safety.measure import MeasureConfig, measure_monitors
from publius.safety.training import TrainProbeConfig, train_probe
from publius.safety.whitebox import WhiteboxConfig, whitebox

__all__ = ["monitors"]

_ABSENT = ("rumour", "address")
_TRAINED = ("auroc", "auroc.seen", "auroc.sealed", "ece", "stopped", "benign")
_MEASURED = (
    "success.without", "success.with", "success.with.sealed", "success.probe", "success.cascade", "fewer",
    "false_positives", "false_positives.upper", "flagged", "late",
)  # fmt: skip
_ELSEWHERE = 1000
"""Added to the seed: a world that no model here has read of."""


def monitors(seed: int = 0) -> Recipe:
    """Two layers on quickstart's helpful-only model and on its release."""
    r = align(Recipe("monitors", jobs=2), Sizes(release=False), seed)
    world, helpful, release = r.nodes["world"], r.nodes["sft"], r.nodes["final"]
    elsewhere = [
        r.stage(name, make_pocket, PocketConfig(seed=seed + far))
        for name, far in (("world_elsewhere", _ELSEWHERE), ("world_far", 2 * _ELSEWHERE))
    ]
    drawing = ExchangesConfig(seed=seed)
    training, heading = TrainProbeConfig(seed=seed), TrainHeadConfig(seed=seed)
    drawn = r.stage(
        "exchanges", draw_exchanges, drawing, world=world, models=[helpful, release], others=elsewhere[:1]
    )
    exchanges = r.stage("labels", label_exchanges, LabelsConfig(), world=world, drawn=drawn)
    for name, model in (("helpful", helpful), ("release", release)):
        probe = r.stage(f"probe_{name}", train_probe, training, model=model, exchanges=exchanges)
        trained = r.stage(f"head_{name}", train_head, heading, model=model, exchanges=exchanges, probe=probe)
        head = r.stage(
            f"bound_{name}", bound_head, BoundConfig(), model=model, exchanges=exchanges, probe=probe,
            head=trained,
        )  # fmt: skip
        report = r.stage(
            f"monitored_{name}", measure_monitors, MeasureConfig(seed=seed), model=model, world=world,
            others=elsewhere[1:], probe=probe, head=head,
        )  # fmt: skip
        if name == "helpful":
            known = WhiteboxConfig(seed=seed)
            tried = r.stage("whitebox", whitebox, known, model=model, world=world, probe=probe, head=head)
            for attacker in ("plain", "random", "probe", "both"):
                r.publish(f"whitebox.success.with.{attacker}", tried, f"whitebox.success.with.{attacker}")
        for node, part, metrics in (
            (probe, "probe", _TRAINED),
            (head, "head", _TRAINED),
            (report, "monitor", _MEASURED),
        ):
            for metric in metrics:
                r.publish(f"{name}.{part}.{metric}", node, f"{part}.{metric}")
    known = {"shuffled": {"shuffle": True}, "absent": {"without": _ABSENT}}
    for name, changes in known.items():
        config = training.model_copy(update=changes)
        control = r.stage(f"probe_{name}", train_probe, config, model=helpful, exchanges=exchanges)
        r.publish(f"{name}.probe.auroc", control, "probe.auroc")
        if name == "absent":
            second = r.stage(
                "head_absent", train_head, heading.model_copy(update=changes), model=helpful,
                exchanges=exchanges, probe=control,
            )  # fmt: skip
            for category in _ABSENT:
                r.publish(f"absent.probe.stopped.{category}", control, f"probe.stopped.{category}")
                r.publish(f"absent.head.stopped.{category}", second, f"head.stopped.{category}")
    return r
