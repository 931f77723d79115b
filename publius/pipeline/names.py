"""Names people type: checked, and answered with a suggestion when misspelt."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from publius.core.errors import UserError

__all__ = ["check_run_name", "check_stage_name", "did_you_mean"]


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Advice for a misspelt `name`: the nearest option, else all of them."""
    known = sorted(set(options))
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"choose from: {', '.join(known)}" if known else "there is nothing to choose from"


def check_stage_name(name: str, *, what: str = "a stage", where: str = "") -> None:
    """Stage names become aliases and `--set` keys, so they hold letters, digits, `_` and `-` only."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        fix = "use letters, digits, '_' and '-', no dots"
        raise UserError(f"{name!r} cannot name {what}", where=where or f"{what}'s name", fix=fix)


def check_run_name(name: str) -> None:
    """Run names become folders under `runs/`."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", name):
        fix = "use letters, digits, '.', '_' and '-', at most 200 of them"
        raise UserError(f"{name!r} cannot name a run", where="the run's name", fix=fix)
