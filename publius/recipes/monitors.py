"""What a probe on the model's own states stops, and whom it disturbs.

    publius run monitors                      # after quickstart: ten minutes on two cores
    publius run monitors --set seed=1

On the two models that matter: the helpful-only one, which any attack breaks, and the release, which few do.
Labelled exchanges are drawn from both; each gets a probe on its own states and is attacked and asked harmless
things with it and without. Two controls: a probe trained on shuffled labels, which must find nothing, and one
that has never seen two of the four categories of harm.
"""

from __future__ import annotations

from publius.data.pocket.world import PocketConfig, make_pocket
from publius.pipeline import Recipe
from publius.recipes._workshop import Sizes
from publius.recipes.quickstart import align
from publius.safety.exchanges import ExchangesConfig, draw_exchanges
from publius.safety.measure import MeasureConfig, measure_monitors
from publius.safety.training import TrainProbeConfig, train_probe

__all__ = ["monitors"]

_ABSENT = ("rumour", "address")
_ELSEWHERE = 1000
"""Added to the seed: a world that no model here has read of."""


def monitors(seed: int = 0) -> Recipe:
    """Probes on quickstart's helpful-only model and on its release."""
    r = align(Recipe("monitors", jobs=2), Sizes(release=False), seed)
    world, helpful, release = r.nodes["world"], r.nodes["sft"], r.nodes["final"]
    drawing, training = ExchangesConfig(seed=seed), TrainProbeConfig(seed=seed)
    strange = r.stage("world_elsewhere", make_pocket, PocketConfig(seed=_ELSEWHERE + seed))
    exchanges = r.stage(
        "exchanges", draw_exchanges, drawing, world=world, models=[helpful, release], others=[strange]
    )
    for name, model in (("helpful", helpful), ("release", release)):
        probe = r.stage(f"probe_{name}", train_probe, training, model=model, exchanges=exchanges)
        report = r.stage(
            f"monitored_{name}", measure_monitors, MeasureConfig(seed=seed), model=model, world=world,
            probe=probe,
        )  # fmt: skip
        for metric in ("auroc", "auroc.seen", "auroc.sealed", "ece", "stopped", "benign"):
            r.publish(f"{name}.probe.{metric}", probe, f"probe.{metric}")
        for metric in (
            "success.without", "success.with", "success.with.sealed", "fewer", "false_positives", "late",
        ):  # fmt: skip
            r.publish(f"{name}.monitor.{metric}", report, f"monitor.{metric}")
    controls = {"shuffled": {"shuffle": True}, "absent": {"without": _ABSENT}}
    for name, changes in controls.items():
        config = training.model_copy(update=changes)
        control = r.stage(f"probe_{name}", train_probe, config, model=helpful, exchanges=exchanges)
        r.publish(f"{name}.probe.auroc", control, "probe.auroc")
        for category in _ABSENT if name == "absent" else ():
            r.publish(f"{name}.probe.stopped.{category}", control, f"probe.stopped.{category}")
    return r
