"""Does a search find more than random prompts, for the same number of replies? (Samvelyan et al. 2024.)

    publius run studies/search

Two models of each seed: the helpful-only one, which falls for almost anything, and the one that two rounds of
red team and training made, which `quickstart` releases. Three ways of asking, with the same budget of the
target's replies, re-runs that confirm a hit included: a search; random attacks, style, mutator and request
drawn evenly; and random requests, asked plainly. What is counted is distinct confirmed findings: clusters
of goal, style and wording (`publius.redteam.clusters`), one measure for all. Stages of `quickstart` that a
seed has made already are not made again.
"""

from __future__ import annotations

from typing import Literal

from publius.evals.study import Claim
from publius.pipeline import Node, Recipe
from publius.recipes._workshop import Sizes, Workshop
from publius.recipes.rounds import Ground, wire_rounds
from publius.recipes.studies._wiring import StudyWiring, places
from publius.redteam.search import SearchConfig
from publius.redteam.search import search as hunt

__all__ = ["search", "wire"]

_SOURCE = "Samvelyan et al. 2024 (arXiv 2402.16822), section 4"
_ARMS: dict[str, Literal["search", "random", "plain"]] = {
    "search": "search", "random attacks": "random", "random requests": "plain",
}  # fmt: skip
_UNITS: dict[str, Literal["share", "number"]] = {}


def search(seeds: int = 3, budget: int = 2400, rounds: int = 2) -> Recipe:
    """Distinct confirmed findings of three ways of asking, on a weak model and on a strong one."""
    return wire(Sizes(), seeds, budget=budget, rounds=rounds)


def wire(sizes: Sizes, seeds: int, *, budget: int, rounds: int) -> Recipe:
    """The study at any size."""
    study = StudyWiring("study-search", sizes, seeds)
    units: dict[str, Literal["share", "number"]] = {}
    for w in study.workshops:
        made = wire_rounds(Ground(w), rounds)
        for model, node in (("helpful only", made[0].model), ("after rounds", made[-1].model)):
            for arm in _ARMS:
                hunted = _hunt(w, model, arm, node, budget)
                for measure, metric in (
                    ("distinct", "distinct"), ("effective", "effective"), ("sure", "sure"),
                    ("wordings", "wordings"), ("cells", "filled"),
                ):  # fmt: skip
                    name = f"{measure}, {model}"
                    study.read(w, hunted, arm, {name: f"search.{metric}"})
                    if metric != "filled":
                        units[name] = "number"
    claims = [
        Claim(
            text=f"On the model {model} a search finds more than {those}", source=_SOURCE,
            measure=f"distinct, {model}", these=places("search"), those=places(those), direction="higher",
        )
        for model in ("helpful only", "after rounds")
        for those in ("random attacks", "random requests")
    ]  # fmt: skip
    return study.conclude("Search against random prompts", claims, units=units)


def _hunt(w: Workshop, model: str, arm: str, node: Node, budget: int) -> Node:
    config = SearchConfig(plan=_ARMS[arm], budget=budget, width=min(32, budget), seed=w.seed)
    name = f"{arm}-{model}".replace(" ", "_")
    return w.stage(name, hunt, config, model=node, world=w.world)
