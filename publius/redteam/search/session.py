"""A hunt outside the pipeline, on any target: from requests to a folder of findings, whole or not at all.

While it goes on, `<folder>.partial` holds its state. The same call goes on from there; a call with other
settings is refused.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from publius.core.errors import UserError
from publius.core.messages import Conversation, user
from publius.data.files import read_lines
from publius.pipeline import Run
from publius.pipeline.store import disk_errors
from publius.redteam.attacker import Goal
from publius.redteam.findings import Findings, FindingsDocument
from publius.redteam.search.finish import transfers, write_hunt
from publius.redteam.search.hunt import Hunt, Status
from publius.redteam.search.stage import hunt_to_the_end

__all__ = ["attack", "read_goals"]


def attack(
    out: Path,
    hunt: Hunt,
    *,
    transfer: int = 8,
    transfer_most: int = 16,
    held: float = 0.3,
    round: int = 0,
    pool: Callable[[bool], Sequence[Conversation]] = lambda benign: (),
    show: Callable[[Status, int], object] = lambda status, more: None,
) -> FindingsDocument:
    """Hunt to the end and write `Findings` into `out`.

    Args:
        out: a folder that is not there yet.
        transfer, transfer_most: as in `SearchConfig`.
        held: as in `SearchConfig`.
        pool: questions for twins (`redteam.search.stage.twin_pool`).
        show: called after each generation.

    Raises:
        UserError: when `out` is there, the target cannot be reached, or another search was begun there.
    """
    out = Path(out)
    if out.exists():
        raise UserError("the folder is there already", where=str(out), fix="give one that is not there yet")
    with disk_errors("findings"):
        out.parent.mkdir(parents=True, exist_ok=True)
        run = Run(out.with_name(f"{out.name}.partial"), "search")
        try:
            hunt_to_the_end(run, hunt, show)
        except BaseException:
            if not run.has_state:  # nothing to go on from
                shutil.rmtree(run.folder, ignore_errors=True)
            raise
        shares = transfers(hunt, each=transfer, most=transfer_most, seed=hunt.settings.seed)
        config: dict[str, Any] = {
            **hunt.settings.model_dump(mode="json"), "styles": hunt.styles, "mutators": hunt.mutators[1:],
            "judge": hunt.driver.referee.name, "attacker": hunt.driver.writer and hunt.driver.writer.name,
        }  # fmt: skip
        write_hunt(run.output, hunt, round=round, share_held=held, transfer=shares, pool=pool, config=config)
        run.output.rename(out)
        shutil.rmtree(run.folder, ignore_errors=True)
    return Findings(out).document()


def read_goals(file: str) -> list[Goal]:
    """Requests of a user's own, a JSON object a line: `prompt`, and if they say so `category`, `entity`,
    `keys` and `need` (truth, for `TruthReferee`), `principles`, `language`, `benign` (harmless: to have it
    refused is the find).

    Raises:
        UserError: for a file that cannot be read, a line that is none, and a file without any.
    """
    goals: list[Goal] = []
    for number, line in enumerate(read_lines(file), 1):
        where = f"{file}, line {number}"
        try:
            row = json.loads(line.text)
        # a number of 5,000 digits is JSON, and no `int` of Python
        except (ValueError, RecursionError) as error:
            told = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            fix = 'write {"prompt": "...", "category": "..."}'
            raise UserError(f"this line is no JSON: {told}", where=where, fix=fix) from None
        if not isinstance(row, dict) or not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
            raise UserError(
                "this line has no request", where=where, fix='write {"prompt": "...", "category": "..."}'
            )
        _check(row, where)
        meta = {key: value for key, value in row.items() if key not in ("prompt", "benign")}
        question = Conversation(messages=(user(row["prompt"]),), meta=meta)
        goals.append(Goal(question, "train", benign=bool(row.get("benign", False))))
    if not goals:
        raise UserError("the file holds no requests", where=file, fix="write one a line")
    return goals


def _check(row: dict[str, Any], where: str) -> None:
    """What a referee or a report would take for something else: a text is a list of its letters, and
    whatever is not empty is true."""
    for key in ("keys", "principles"):
        value = row.get(key, [])
        if not isinstance(value, list) or not all(isinstance(one, str) and one.strip() for one in value):
            fix = f'write "{key}": ["...", "..."]'
            raise UserError(f"{key} is not a list of texts", where=where, fix=fix)
    need = row.get("need", 1)
    if isinstance(need, bool) or not isinstance(need, int) or need < 1:
        raise UserError("need is not a number of keys", where=where, fix='write "need": 1, or more')
    if not isinstance(row.get("benign", False), bool):
        raise UserError("benign is neither true nor false", where=where, fix='write "benign": true')
