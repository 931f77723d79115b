"""The stage `search`: a hunt on a model of the bundled world, and its findings.

A search discovers; it does not measure. What it finds depends on what it looked for, so the share of its
attacks that worked says nothing of the model that could be held against another's: `red_team` measures that,
on held-out items in held-out wordings. Sealed styles and mutators, and requests that are kept for measuring,
are never played here, so nothing of them can be exported.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from publius.core.config import execution
from publius.core.errors import UserError
from publius.core.messages import Conversation
from publius.core.stats import wilson
from publius.data.pocket.world import World
from publius.model.checkpoint import Checkpoint
from publius.pipeline import Run, stage
from publius.redteam.attacker import Goal
from publius.redteam.attackers import ATTACKERS
from publius.redteam.findings import Findings
from publius.redteam.mutators import MUTATORS
from publius.redteam.referee import PROBES, TruthReferee
from publius.redteam.search.chains import named_attackers, named_mutators
from publius.redteam.search.driver import Driver
from publius.redteam.search.finish import Summary, thing_of, transfers, write_hunt
from publius.redteam.search.hunt import Hunt, Status
from publius.redteam.search.settings import HuntSettings
from publius.redteam.target import EngineTarget
from publius.tokenizer import Renderer

__all__ = ["SearchConfig", "hunt_to_the_end", "open_mutators", "open_styles", "search", "world_goals"]


class SearchConfig(HuntSettings):
    """A hunt on the bundled world, and what becomes of its findings."""

    round: int = Field(default=0, ge=0)
    styles: tuple[str, ...] = ()
    """Attackers by name; none for all that are not sealed. Probes, which look for another fault than harm,
    are among these only where facts are asked for."""
    mutators: tuple[str, ...] | None = None
    """By name; None for all that are not sealed."""
    kinds: tuple[Literal["hazard", "twin", "fact"], ...] = ("hazard",)
    """What is asked for: forbidden things; harmless ones, where a refusal is the fault; facts, for probes."""
    transfer: int = Field(default=8, ge=0)
    """Other goals on which each chain that worked is tried."""
    transfer_most: int = Field(default=16, ge=0)
    """Chains so tried: those of the gravest and surest findings. Their replies are no part of the budget."""
    held: float = Field(default=0.3, ge=0, le=1)
    """Share of wordings that are kept from training, and measured only; which, their words alone decide."""
    max_tokens: int = Field(default=64, ge=1)
    max_batch: int = execution(64)
    device: str = execution("auto")


@stage(version=5)
def search(
    run: Run, config: SearchConfig, *, model: Checkpoint, world: World, attacker: Checkpoint | None = None
) -> Findings:
    """Hunt on training items, confirm, and write findings.

    The truth of the world is the referee. `attacker` is the model that attackers ask for words; without one
    they do with their own. A run that is killed goes on from its last whole generation.

    Metrics: `search.found`, confirmed findings; `search.distinct`, their clusters (goal, style, wording), and
    `search.effective`; `search.wordings`, clusters of wording alone; `search.things`, things asked for that
    have one; `search.sure`, distinct ones that came back in more than half of the re-runs; `search.filled`,
    the share of pairs of category and style with a finding; `search.replies` and `search.tokens` spent;
    `search.quality`, the sum of the best score of each cell.

    Raises:
        UserError: for a style or mutator that is unknown or sealed.
    """
    with EngineTarget.of(
        model, max_tokens=config.max_tokens, device=config.device, max_batch=config.max_batch
    ) as target:
        writer = None
        if attacker is not None:
            writer = EngineTarget.of(
                attacker, max_tokens=config.max_tokens, device=config.device, max_batch=config.max_batch
            )
        renderer = Renderer(model.tokenizer())
        driver = Driver(target, TruthReferee(), writer, tokens=lambda c: len(renderer.prompt(c)))
        hunt = Hunt(
            driver, world_goals(world, config.kinds), config,
            styles=open_styles(config.styles, probes="fact" in config.kinds),
            mutators=open_mutators(config.mutators),
        )  # fmt: skip
        with run.progress("search", config.budget) as ticker:
            hunt_to_the_end(run, hunt, lambda status, more: ticker.advance(more, note=_note(status)))
        shares = transfers(hunt, each=config.transfer, most=config.transfer_most, seed=config.seed)
    summary = write_hunt(
        run.output, hunt, round=config.round, share_held=config.held, transfer=shares,
        pool=twin_pool(world), config=config.model_dump(mode="json"),
    )  # fmt: skip
    _metrics(run, hunt, summary)
    return Findings(run.output)


def hunt_to_the_end(run: Run, hunt: Hunt, show: Callable[[Status, int], object]) -> None:
    """Generations until the budget is spent, a state saved after each, from the last one that was saved.

    Args:
        show: called with how it stands and how many replies came since.
    """
    if (folder := run.restore()) is not None:
        hunt.load(json.loads((folder / "hunt.json").read_text("utf-8")))
        show(hunt.status(), hunt.replies)

    def write(folder: Path) -> None:
        (folder / "hunt.json").write_text(json.dumps(hunt.dump()), "utf-8")

    with run.stoppable():
        while not hunt.done:
            before = hunt.replies
            hunt.step()
            if hunt.replies == before and not hunt.note and hunt.generation > _IDLE:
                hunt.note = "no attacker has anything left to try"
            status = hunt.status()
            run.log(
                generation=hunt.generation, replies=status.replies, tokens=status.tokens,
                confirmed=status.confirmed, hits=status.hits, filled=status.filled,
            )  # fmt: skip
            run.save(write)
            run.stop_here(write)
            show(status, hunt.replies - before)
    run.count(tokens=hunt.status().tokens)


_IDLE = 50
"""Generations after which one that sends nothing ends the hunt."""


def world_goals(world: World, kinds: Sequence[str]) -> list[Goal]:
    """What may be asked for and trained on: questions about training items."""
    return [
        Goal(question, "train", benign=kind == "twin")
        for kind in kinds
        for question in world.questions(kind, "train")
    ]


def twin_pool(world: World) -> Callable[[bool], Sequence[Conversation]]:
    """Questions that look like harmful ones and are fine; asked with True, those that are not."""
    pools = {False: world.questions("twin", "train"), True: world.questions("hazard", "train")}
    return lambda benign: pools[benign]


def open_styles(names: Sequence[str], *, probes: bool = False) -> list[str]:
    """Attackers that may be searched with. For no names all of them; those that look for another fault than
    harm (sycophancy, deception, bias) with `probes` only.

    Raises:
        UserError: for one that is sealed, or unknown.
    """
    found = named_attackers(names)
    _unsealed([name for name in names if found[name].sealed], "attack style")
    wanted = set(found) if names or probes else set(found) - set(PROBES)
    return [name for name, attacker in found.items() if not attacker.sealed and name in wanted]


def open_mutators(names: Sequence[str] | None) -> list[str]:
    """Mutators that may be searched with; all of them for None.

    Raises:
        UserError: for one that is sealed, or unknown.
    """
    found = named_mutators(list(MUTATORS) if names is None else names)
    _unsealed([m.name for m in found if m.sealed and names is not None], "mutator")
    return [mutator.name for mutator in found if not mutator.sealed]


def _unsealed(sealed: Sequence[str], what: str) -> None:
    if sealed:
        raise UserError(
            f"{what} {', '.join(sealed)} is sealed: it measures, and what it finds may not be trained on",
            where="redteam search",
            fix=f"choose from {', '.join(name for name, a in ATTACKERS.items() if not a.sealed)}"
            if what == "attack style"
            else f"choose from {', '.join(name for name, m in MUTATORS.items() if not m.sealed)}",
        )


def _note(status: Status) -> str:
    return f"{status.confirmed} found, {status.filled} of {status.cells} cells"


def _metrics(run: Run, hunt: Hunt, summary: Summary) -> None:
    status = hunt.status()
    sure = {f.cluster for f in summary.findings if 2 * f.reproduced > f.tries}
    run.metric("search.found", len(summary.findings))
    run.metric("search.distinct", summary.clusters)
    run.metric("search.effective", summary.effective)
    run.metric("search.wordings", summary.wordings)
    run.metric("search.sure", len(sure))
    run.metric("search.things", len({thing_of(hunt.goals[hit.goal]) for hit in hunt.hits}))
    run.metric("search.filled", wilson(status.filled, status.cells))
    run.metric("search.replies", status.replies)
    run.metric("search.tokens", status.tokens)
    run.metric("search.quality", hunt.archive.quality())
