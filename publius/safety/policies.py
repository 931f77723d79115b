"""The policies that are measured: none, both layers, and each layer without the other."""

from __future__ import annotations

from collections.abc import Mapping

from publius.model.checkpoint import Checkpoint, fingerprint
from publius.redteam.auditor import Auditor
from publius.safety.cascade import CascadeMonitor
from publius.safety.head import HeadStage, TrainedHead
from publius.safety.monitor import Monitors
from publius.safety.play import Ahead, Watched
from publius.safety.probe import ProbeMonitor, TrainedProbe
from publius.safety.words import Flags

__all__ = ["policies_of"]


def policies_of(
    auditor: Auditor,
    model: Checkpoint,
    probe: TrainedProbe,
    head: TrainedHead,
    *,
    max_tokens: int,
    keep: str = "",
    more: Mapping[str, Monitors] | None = None,
) -> tuple[Watched, Ahead]:
    """A model under `without`, `with` (both layers), `probe` and `cascade`; and the second stage's reader.

    Args:
        auditor: holds the engine.
        model: its checkpoint, whose fingerprint both layers must name.
        probe, head: trained on it.
        max_tokens: longest reply of one turn.
        keep: as `Watched`.
        more: further policies, which read no probe.

    Raises:
        UserError: when a layer belongs to another model.
    """
    identity, document, told = fingerprint(model), head.document(), Flags.of(head)
    stage = HeadStage.load(head.path, model=identity)
    stage.bind(auditor.engine.model)
    ahead = Ahead(stage)
    alone = ProbeMonitor.load(probe.path, model=identity)
    flags = ProbeMonitor.load(probe.path, model=identity, threshold=told.flag, hold_back=document.hold_back)
    cascade = CascadeMonitor(flags, ahead, words=told.words, worded=told.worded, lift=document.lift)
    policies = {
        "without": Monitors(),
        "with": Monitors([alone, cascade]),
        "probe": Monitors([alone]),
        "cascade": Monitors([cascade]),
        **(more or {}),
    }
    watched = Watched(
        auditor.engine, auditor.renderer, policies, probe=alone.probe, max_tokens=max_tokens,
        ahead=[ahead], keep=keep,
    )  # fmt: skip
    return watched, ahead
