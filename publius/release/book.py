"""Decisions of a home that no recipe made: decided, signed and overridden by people, at the command line.

Artifacts are never changed, so a second signature or an override on a decision goes into a copy of it, in
`<home>/decisions/<first digits of the fingerprint>`. Of several decisions on the same weights the one that
was made last counts: also when it denies what an earlier one allowed.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from publius.core.errors import UserError
from publius.model.checkpoint import Checkpoint, fingerprint
from publius.pipeline.store import Store, whole_folder
from publius.release.decision import OldDecision, read_decision

__all__ = ["copied", "decision_of", "latest", "newest", "place_of"]


def place_of(model: str, home: Path) -> Path:
    """Where a home keeps its own decision on weights."""
    return home / "decisions" / model[:16]


def decision_of(checkpoint: Path, home: Path) -> Path | None:
    """The folder of the latest decision on a checkpoint: the home's own, or the one in a release.

    Raises:
        UserError: for a decision there that cannot be read: it may be the one that denies.
    """
    own, inside = place_of(fingerprint(Checkpoint(checkpoint)), home), checkpoint / "decision"
    found = [folder for folder in (own, inside) if folder.is_dir()]
    if len(found) < 2:
        return found[0] if found else None
    try:
        made_inside = read_decision(inside).issued
    except OldDecision:
        return own
    return own if read_decision(own).issued >= made_inside else inside


def latest(checkpoint: Path, home: Path) -> Path:
    """The folder of the latest decision on a checkpoint, those of gates in runs of this home among them.

    Raises:
        UserError: when nobody decided on it; and as `newest`.
    """
    found = newest(checkpoint, home)
    if found is None:
        raise UserError(
            "no gate has decided on this model", where=str(checkpoint), fix="publius gate decide MODEL"
        )
    return found


def newest(checkpoint: Path, home: Path) -> Path | None:
    """As `latest`; None when nobody decided on it.

    Raises:
        UserError: for a decision there, or of a run, that cannot be read: it may be the one that denies.
    """
    model = fingerprint(Checkpoint(checkpoint))
    own = place_of(model, home)
    decided = decision_of(checkpoint, home)
    found = [*([] if decided is None else [decided]), *_gated(model, home)]
    if not found:
        return None
    return max(found, key=lambda folder: (read_decision(folder).issued, folder == own))


def copied(checkpoint: Path, home: Path) -> Path:
    """The home's own decision on a checkpoint, to be signed or overridden; copied from a release or a run's
    gate when it has none, or an older one.

    Raises:
        UserError: when nobody decided on it.
    """
    found, own = latest(checkpoint, home), place_of(fingerprint(Checkpoint(checkpoint)), home)
    if found != own:
        fresh = own.with_name(f"{own.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        with whole_folder(fresh):
            shutil.copytree(found, fresh)
        shutil.rmtree(own, ignore_errors=True)
        fresh.rename(own)
    return own


def _gated(model: str, home: Path) -> list[Path]:
    """Decisions on a model by gates of this home's runs; what else the runs hold may be damaged."""
    store = Store(home)
    aliases = [link for link in store.runs.glob("*/*") if link.is_symlink()]
    folders = {store.final(link.readlink().name) / "files" for link in aliases}
    found: list[Path] = []
    for folder in sorted(folders):
        if not (folder / "decision.json").is_file():
            continue
        try:
            if read_decision(folder).model == model:
                found.append(folder)
        except OldDecision:
            continue
    return found
