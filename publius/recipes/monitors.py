"""What a probe on the model's own states stops, and whom it disturbs.

    publius run monitors                      # after quickstart: a few minutes on two cores
    publius run monitors --set size=tiny      # every stage, nothing learned: what the tests run

On the two models that matter: the helpful-only one, which any attack breaks, and the release, which few do.
Labelled exchanges are drawn from both; each gets a probe on its own states and is attacked and asked harmless
things with it and without. Two controls: a probe trained on shuffled labels, which must find nothing, and one
that has never seen two of the four categories of harm.
"""

from __future__ import annotations

from typing import Literal

from publius.pipeline import Recipe
from publius.recipes._workshop import Sizes
from publius.recipes.quickstart import align
from publius.recipes.smoke import SMALLEST
from publius.safety.exchanges import ExchangesConfig, draw_exchanges
from publius.safety.measure import MeasureConfig, measure_monitors
from publius.safety.training import TrainProbeConfig, train_probe

__all__ = ["monitors"]

_TINY = ExchangesConfig(
    attacks=4,
    twins=2,
    plain=4,
    val_attacks=4,
    val_twins=2,
    val_plain=4,
    test_attacks=2,
    test_twins=1,
    test_plain=2,
)


def monitors(size: Literal["small", "tiny"] = "small", seed: int = 0) -> Recipe:
    """Probes on quickstart's helpful-only model and on its release."""
    tiny = size == "tiny"
    sizes = SMALLEST if tiny else Sizes(release=False)
    r = align(Recipe("monitors", jobs=1 if tiny else 2), sizes, seed)
    world, helpful, release = r.nodes["world"], r.nodes["sft"], r.nodes["final"]
    drawing = (_TINY if tiny else ExchangesConfig()).model_copy(update={"seed": seed})
    exchanges = r.stage("exchanges", draw_exchanges, drawing, world=world, models=[helpful, release])
    measuring = (
        MeasureConfig(seed=seed)
        if not tiny
        else MeasureConfig(attacks=1, attacks_sealed=1, samples=2, plain=2, twins=1, seed=seed)
    )
    training = TrainProbeConfig(false_positives=0.9, seed=seed) if tiny else TrainProbeConfig(seed=seed)
    for name, model in (("helpful", helpful), ("release", release)):
        probe = r.stage(f"probe_{name}", train_probe, training, model=model, exchanges=exchanges)
        report = r.stage(
            f"monitored_{name}", measure_monitors, measuring, model=model, world=world, probe=probe
        )
        for metric in ("auroc", "auroc.seen", "auroc.sealed", "ece", "stopped", "benign"):
            r.publish(f"{name}.probe.{metric}", probe, f"probe.{metric}")
        for metric in (
            "success.without", "success.with", "success.with.sealed", "fewer", "false_positives", "late"
        ):  # fmt: skip
            r.publish(f"{name}.monitor.{metric}", report, f"monitor.{metric}")
    absent = ("rumour", "address")
    for name, changes in (("shuffled", {"shuffle": True}), ("absent", {"without": absent})):
        config = training.model_copy(update=changes)
        control = r.stage(f"probe_{name}", train_probe, config, model=helpful, exchanges=exchanges)
        r.publish(f"{name}.probe.auroc", control, "probe.auroc")
        if name == "absent":
            for category in absent:
                r.publish(f"{name}.probe.stopped.{category}", control, f"probe.stopped.{category}")
    return r
