"""Overoptimisation: how far a policy climbed its own preference model while another one said otherwise.

Two runs of PPO from the same start against the same preference model: one that nobody stops, and one that the
second model (trained on the other half of the comparisons) may stop. Their curves are read off what each step
logged. Gao et al. 2022 (arXiv 2210.10760) and Bai et al. 2022 (2204.05862, section 4.2) draw the same over
the square root of the KL.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from pydantic import Field

from publius.core.config import Config
from publius.core.errors import UserError
from publius.model.checkpoint import Checkpoint
from publius.pipeline import Artifact, Run, stage
from publius.pipeline.artifact import read_log

__all__ = ["Curve", "Overoptimisation", "OveroptimisationConfig", "curve_of", "overoptimisation"]


class OveroptimisationConfig(Config):
    """How curves are read."""

    smooth: int = Field(default=5, ge=1)
    """Steps that each point of a curve is the mean of: one step's batch is noisy."""


class Curve(NamedTuple):
    """What a run logged, smoothed, in order of its steps.

    Args:
        reward: of the model that was climbed, in its own units.
        check: of the second model.
        sqrt_kl: nats per reply, the root.
        stopped: what ended it early; empty when nothing did.
    """

    reward: list[float]
    check: list[float]
    sqrt_kl: list[float]
    stopped: str = ""

    @property
    def peak(self) -> int:
        """Where the second model liked it best."""
        return max(range(len(self.check)), key=self.check.__getitem__)


class Overoptimisation(Artifact):
    """`curves.json`: both runs, smoothed."""


def curve_of(lines: Sequence[dict[str, Any]], smooth: int) -> Curve:
    """A run's curve: every point the mean of the last `smooth` steps (of fewer at the beginning).

    Raises:
        UserError: when no step logged a second model.
    """
    steps = [line for line in lines if "reward" in line and line.get("check_reward") is not None]
    if not steps:
        raise UserError(
            "no step of PPO logged a second preference model", where="overoptimisation",
            fix="give ppo a `reward_check`",
        )  # fmt: skip

    def mean(name: str) -> list[float]:
        values = [float(step[name]) for step in steps]
        windows = [values[max(0, i + 1 - smooth) : i + 1] for i in range(len(values))]
        return [sum(window) / len(window) for window in windows]

    stopped = next((str(line["stopped"]) for line in lines if line.get("stopped")), "")
    return Curve(mean("reward"), mean("check_reward"), mean("sqrt_kl"), stopped)


@stage(version=1, light=True)
def overoptimisation(
    run: Run, config: OveroptimisationConfig, *, unwatched: Checkpoint, watched: Checkpoint
) -> Overoptimisation:
    """Read two runs of PPO that differ only in whether the second model may stop them.

    Metrics, in units of the models: `over.climbed` and `over.fell`, what the first and the second model say
    of the unwatched run's end less what they said at the second's best; `over.kept`, what the second model
    says of the watched run's end less that of the unwatched; `over.worse`, the least it ever said of
    the watched run less what it said at the start (0 when it never fell below it); `over.stopped` 1 or 0;
    `over.steps` of the watched run; `over.sqrt_kl.peak`, `.end`, `.stop`.

    Raises:
        UserError: as `curve_of`.
    """
    free = curve_of(read_log(unwatched.path.parent), config.smooth)
    held = curve_of(read_log(watched.path.parent), config.smooth)
    peak = free.peak
    run.metric("over.climbed", free.reward[-1] - free.reward[peak])
    run.metric("over.fell", free.check[-1] - free.check[peak])
    run.metric("over.kept", held.check[-1] - free.check[-1])
    run.metric("over.worse", min(0.0, min(held.check) - held.check[0]))
    run.metric("over.stopped", int(bool(held.stopped)))
    run.metric("over.steps", len(held.check))
    run.metric("over.sqrt_kl.peak", free.sqrt_kl[peak])
    run.metric("over.sqrt_kl.end", free.sqrt_kl[-1])
    run.metric("over.sqrt_kl.stop", held.sqrt_kl[-1])
    curves = {"unwatched": free._asdict(), "watched": held._asdict()}
    (run.output / "curves.json").write_text(json.dumps(curves) + "\n", "utf-8")
    return Overoptimisation(run.output)
