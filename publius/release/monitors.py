"""A policy of monitors as something to decide on: its sha256, and the evidence that it works.

The sha256 is of the policy *and of everything it names*: the lists of words, the probes. `publius serve`
compares it with that of the decision, so what runs in front of the model is what was tested.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from publius.core.config import Config
from publius.core.errors import UserError
from publius.evals import Measure
from publius.model.checkpoint import Checkpoint, fingerprint
from publius.pipeline import Artifact, Run, stage
from publius.release.safeguards import SafeguardReport, Trial, write_safeguard
from publius.safety.head import TrainedHead
from publius.safety.measure import MonitorReport
from publius.safety.policy import MonitorPolicy, load_monitors
from publius.safety.probe import TrainedProbe

__all__ = [
    "MonitorFolder",
    "MonitorFolderConfig",
    "MonitorProofConfig",
    "make_monitor_policy",
    "policy_sha256",
    "prove_monitors",
]


def policy_sha256(path: Path) -> str:
    """The sha256 of a monitors' policy file: of its content (not its comments) and of all files it names.

    Raises:
        UserError: for a policy that cannot be read.
    """
    policy = MonitorPolicy.load(path)
    digest = hashlib.sha256(policy.model_dump_json().encode())
    for layer in policy.layers:
        for value in layer.model_dump(mode="json").values():
            named = path.parent / value if isinstance(value, str) and value else None
            if named is not None and named.exists():
                for name, file in _files(named):
                    part = hashlib.sha256(file.read_bytes()).hexdigest()
                    digest.update(f"{value}\0{name}\0{part}\n".encode())
    return digest.hexdigest()


def _files(place: Path) -> Iterator[tuple[str, Path]]:
    if place.is_file():
        yield "", place
    else:
        for file in sorted(p for p in place.rglob("*") if p.is_file()):
            yield file.relative_to(place).as_posix(), file


class MonitorFolderConfig(Config):
    """What the layers may do."""

    action: str | None = Field(default=None, pattern="^(flag|block)$")
    """As `Layer.action`: None leaves it to the monitor."""
    on_error: str = Field(default="closed", pattern="^(closed|open)$")


class _Sources(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: tuple[str, ...]


class MonitorFolder(Artifact):
    """`policy.yaml` and what it names: give `policy` to `publius serve --monitors`."""

    @property
    def policy(self) -> Path:
        """The policy file."""
        return self.file("policy.yaml")

    @property
    def sha256(self) -> str:
        """Of the policy and all it names."""
        return policy_sha256(self.policy)

    def sources(self) -> tuple[str, ...]:
        """Ids of the artifacts its layers were made from."""
        return self.parse("sources.json", _Sources).sources


@stage(version=2, light=True)
def make_monitor_policy(
    run: Run, config: MonitorFolderConfig, *, probe: TrainedProbe, head: TrainedHead | None = None
) -> MonitorFolder:
    """A policy of a probe, and of a head behind it where there is one, with both beside it: a folder that can
    be served, and decided on. The layers are those that `measure_monitors` calls `with`."""
    shutil.copytree(probe.path, run.output / "probe")
    common = {"on_error": config.on_error} | ({"action": config.action} if config.action is not None else {})
    layers: list[dict[str, Any]] = [{"monitor": "probe", "file": "probe", **common}]
    if head is not None:
        shutil.copytree(head.path, run.output / "head")
        layers.append({"monitor": "cascade", "file": "probe", "then": "head", **common})
    (run.output / "policy.yaml").write_text(yaml.safe_dump({"layers": layers}, sort_keys=False), "utf-8")
    made = [record.id for part in (probe, head) if part is not None and (record := part.record) is not None]
    sources = _Sources(sources=tuple(made))
    (run.output / "sources.json").write_text(sources.model_dump_json() + "\n", "utf-8")
    return MonitorFolder(run.output)


class MonitorProofConfig(Config):
    """Nothing to set: what monitors must achieve is in the policy."""


@stage(version=1, light=True)
def prove_monitors(
    run: Run, config: MonitorProofConfig, *, model: Checkpoint, monitors: MonitorFolder, report: MonitorReport
) -> SafeguardReport:
    """Bind what monitors were measured to achieve to the policy that is to be served.

    The report must have been measured on these weights with the very monitors of the policy: the records of
    the pipeline say so. What it must show is for the release policy, by checks on `monitor.*`.

    Metrics: `safeguard.monitors`, and those of the report.

    Raises:
        UserError: for a report that is damaged, or a policy that cannot watch this model.
    """
    load_monitors(monitors.policy, model=fingerprint(model))
    sha256, record = monitors.sha256, report.record
    inputs = {} if record is None else record.inputs
    used = {id for one in inputs.values() for id in ([one] if isinstance(one, str) else one)}
    own = model.record
    about = own is not None and own.id in used
    made = bool(monitors.sources()) and set(monitors.sources()) <= used
    trials = [
        Trial(
            what="measured on these weights", expected="by its record", passed=about,
            seen="yes" if about else "the record names others, or there is none",
        ),
        Trial(
            what="measured with these monitors", expected="by its record", passed=made,
            seen="yes" if made else "the record names others, or there is none",
        ),
        _unsoftened(monitors.policy, {} if record is None else record.config),
        *_said(report, fingerprint(model), sha256),
    ]  # fmt: skip
    return write_safeguard(
        run, "monitors", tested=sha256, trials=trials, measures=_measures(report),
        how="Attacks of every style and benign traffic were played with the monitors and without; an attack "
        "succeeds when what left leaks.",
    )  # fmt: skip


def _unsoftened(path: Path, measured: dict[str, Any]) -> Trial:
    """Monitors are measured at their own thresholds, blocking, and closed where they fail.

    A policy that lets them do less, or a measurement with another hold-back, is about other monitors.
    """
    soft = [
        layer.name or layer.monitor
        for layer in MonitorPolicy.load(path).layers
        if layer.action == "flag" or layer.on_error != "closed"
        or any(
            each is not None
            for each in (layer.threshold, layer.hold_back, layer.budget_ms, layer.flag, layer.worded)
        )
        or layer.words
    ]  # fmt: skip
    soft += [
        f"{layer.name or layer.monitor} (a judge, which was not there)"
        for layer in MonitorPolicy.load(path).layers if layer.monitor == "judge"
    ]  # fmt: skip
    soft += ["hold_back of the measurement"] if measured.get("hold_back") is not None else []
    return Trial(
        what="served as they were measured", expected="nothing set in their place", passed=not soft,
        seen=f"set: {', '.join(soft)}" if soft else "nothing",
    )  # fmt: skip


def _said(report: MonitorReport, model: str, sha256: str) -> Iterator[Trial]:
    """What the report itself says it was measured on, where it does."""
    path = report.path / "tested.json"
    if not path.exists():
        return
    try:
        told = json.loads(path.read_bytes())
    except ValueError:
        told = {}
    for name, expected in (("model", model), ("policy_sha256", sha256)):
        seen = told.get(name) if isinstance(told, dict) else None
        if seen is not None or name == "model":
            yield Trial(what=f"its own {name}", expected=expected, seen=str(seen), passed=seen == expected)


def _measures(report: MonitorReport) -> dict[str, Measure]:
    path = report.file("monitors.json")
    try:
        found = json.loads(path.read_bytes())
        return {
            name: Measure.model_validate(value)
            for name, value in found.items()
            if name.startswith("monitor.") and isinstance(value, dict)
        }
    except (ValueError, AttributeError, ValidationError):
        raise UserError(
            "the report on monitors is damaged", where=str(path), fix="delete the artifact and run it again"
        ) from None
