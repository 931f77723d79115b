"""Does a search find more than random prompts, for the same number of replies? (Samvelyan et al. 2024.)

    publius run studies/search

Two models of one `quickstart`: the helpful-only one, which falls for almost anything, and the one that is
released. Four ways of asking, with the same budget of the target's replies, the re-runs that confirm a hit
included:

- *search*;
- *random prompts*: harmful questions drawn evenly, as they stand;
- *random requests*: the same in the three wordings of the style `direct`;
- *random attacks*: one-way attack styles, mutators and questions drawn evenly. These are attacks already, by
  people who know what works; only nothing is learned. Attackers of many turns are left out: drawn evenly they
  spend most of the budget and find less.

What is counted is distinct confirmed findings: clusters of goal, style and wording
(`publius.redteam.clusters`), one measure for all. With `ablation` a fifth arm draws evenly from all that the
search has, attackers that answer to what they see included: what archive and bandit add.

Seeds are of the searches: the models are those of `quickstart` with `seed`, and not made again where it has
run. `first` names the first of them, so that what was tuned is measured on seeds that nobody has looked at.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from publius.core.config import Seed
from publius.core.errors import UserError
from publius.evals.study import Claim, Reading, StudyConfig, study
from publius.pipeline import Node, Recipe
from publius.recipes._workshop import Sizes
from publius.recipes.quickstart import align
from publius.recipes.studies._wiring import places
from publius.redteam.attack import STYLES
from publius.redteam.search import SearchConfig
from publius.redteam.search import search as hunt
from publius.redteam.search.hunt import Plan

__all__ = ["search", "wire"]

_SOURCE = (
    "Samvelyan et al. 2024 (arXiv 2402.16822), section 4: there, of kinds of attack, not by such a count"
)
_MODELS = {"helpful only": "sft", "release": "final"}
_OPEN = tuple(name for name, style in STYLES.items() if not style.sealed)


class _Arm(NamedTuple):
    plan: Plan
    styles: tuple[str, ...]


_ARMS = {
    "search": _Arm("search", ()),
    "random prompts": _Arm("bare", ("direct",)),
    "random requests": _Arm("plain", ("direct",)),
    "random attacks": _Arm("random", _OPEN),
}
_ABLATION = {"attackers drawn evenly": _Arm("random", ())}
_MEASURES = {name: name for name in ("distinct", "effective", "sure", "wordings", "things")}
"""What is read of each: see the stage `search`."""


def search(
    seeds: int = 3, budget: int = 800, weak_budget: int = 240, seed: Seed = 0, first: Seed = 0,
    ablation: bool = False,
) -> Recipe:  # fmt: skip
    """Distinct confirmed findings of each way of asking, on a weak model and on a strong one.

    `weak_budget` is that of the helpful-only model, where every attack finds something. Seeds of the searches
    are `first`, `first` + 1, ...
    """
    budgets = {"sft": weak_budget, "final": budget}
    return wire(Sizes(), seeds, budgets=budgets, seed=seed, first=first, ablation=ablation)


def wire(
    sizes: Sizes, seeds: int, *, budgets: dict[str, int], seed: int = 0, first: int = 0,
    ablation: bool = False,
) -> Recipe:  # fmt: skip
    """The study at any size.

    Raises:
        UserError: for no seed at all.
    """
    if seeds < 1:
        raise UserError(f"{seeds} seeds measure nothing", where="--set seeds", fix="give at least 1")
    arms = {**_ARMS, **_ABLATION} if ablation else _ARMS
    r = align(Recipe("study-search", jobs=1), sizes, seed)
    # of quickstart only what the two models are made from
    needed = {node.name for model in _MODELS.values() for node in r.ancestors(model)}
    r.nodes = {name: node for name, node in r.nodes.items() if name in needed}
    r.published = {}
    parts: list[Node] = []
    readings: list[Reading] = []
    for number in range(first, first + seeds):
        for model, stage in _MODELS.items():
            for arm, how in arms.items():
                config = SearchConfig(
                    plan=how.plan, styles=how.styles, budget=budgets[stage], width=min(16, budgets[stage]),
                    seed=number, transfer=0,
                )  # fmt: skip
                name = f"s{number}-{stage}-{arm}".replace(" ", "_")
                hunted = r.stage(name, hunt, config, model=r.nodes[stage], world=r.nodes["world"])
                readings += [
                    Reading(
                        part=len(parts), metric=f"search.{metric}", measure=f"{measure}, {model}", arm=arm,
                        seed=number,
                    )
                    for measure, metric in _MEASURES.items()
                ]  # fmt: skip
                parts.append(hunted)
    claims = tuple(
        Claim(
            text=f"On the {model} model a search finds more than {those}", source=_SOURCE,
            measure=f"distinct, {model}", these=places("search"), those=places(those), direction="higher",
        )
        for model in _MODELS
        for those in list(arms)[1:]
    )  # fmt: skip
    units: dict[str, Literal["share", "number"]] = {reading.measure: "number" for reading in readings}
    config = StudyConfig(
        title="Search against random prompts", readings=tuple(readings), claims=claims, units=units
    )
    last = r.stage("study", study, config, parts=parts)
    for number in range(1, len(claims) + 1):
        r.publish(f"claim.{number}", last, f"study.claim.{number}")
    r.publish("study.as_published", last, "study.as_published")
    return r
