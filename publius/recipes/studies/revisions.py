"""Answers after 0 to 4 revisions, scored by three preference models (Bai et al. 2022, figure 5).

publius run studies/revisions                  # three seeds
publius run studies/revisions --set seeds=1
"""

from __future__ import annotations

from publius.constitution.revise import revise
from publius.data.pocket.world import ComparisonsConfig, pocket_comparisons
from publius.evals.revisions import ScoreRevisionsConfig, score_revisions
from publius.evals.study import Claim
from publius.pipeline import Node, Recipe
from publius.recipes._workshop import Sizes, Workshop
from publius.recipes.studies._wiring import StudyWiring, places

__all__ = ["revisions", "wire"]

_SOURCE = "Bai et al. 2022, section 3.4, figure 5"
_KINDS = {"harmless": ("harm",), "helpful": ("alarm", "wrong"), "both": ("harm", "alarm", "wrong")}


def revisions(seeds: int = 3) -> Recipe:
    """Preference-model scores and truth by number of revisions."""
    return wire(Sizes(), seeds)


def wire(sizes: Sizes, seeds: int, steps: int = 4) -> Recipe:
    """The study at any size."""
    study = StudyWiring("study-revisions", sizes, seeds)
    for w in study.workshops:
        haiku, opus = w.haiku(), w.opus(w.worded_shards())
        helpful = w.tune("sft", haiku, [w.demonstrations("demonstrations")])
        config = w.revising().model_copy(update={"revisions": steps})
        asked = w.prompts("prompts", sizes.cai_prompts)
        revised = w.stage("revisions", revise, config, policy=helpful, critic=opus, prompts=asked)
        scorers = [_scorer(w, helpful, name) for name in _KINDS]
        naming = ScoreRevisionsConfig(names=tuple(_KINDS))
        scored = w.stage("scored", score_revisions, naming, revisions=revised, rewards=scorers)
        for step in range(steps + 1):
            names = (*_KINDS, "leak", "overrefusal", "characters")
            measured = {name: f"revision.{step}.{name}" for name in names}
            study.read(w, scored, "revised", measured, x=step)
    first, last = places("revised", at=(0,)), places("revised", at=(steps,))
    claims = [
        Claim(text="Revision raises harmlessness scores", source=_SOURCE, measure="harmless",
              these=last, those=first, direction="higher"),
        Claim(text="The first revision does most of it", source=_SOURCE, measure="harmless",
              these=places("revised", at=(1,)), those=(*first, *last), direction="higher"),
        Claim(text="Pure helpfulness scores fall", source=_SOURCE, measure="helpful",
              these=last, those=first, direction="lower"),
        Claim(text="Scores for both together rise", source=_SOURCE, measure="both",
              these=last, those=first, direction="higher"),
        Claim(text="By truth, revised answers leak less", source="not published: truth is known here only",
              measure="leak", these=last, those=first, direction="lower"),
    ]  # fmt: skip
    return study.conclude(
        "Revisions", claims, x_label="revisions",
        units=dict.fromkeys((*_KINDS, "characters"), "number"),
    )  # fmt: skip


def _scorer(w: Workshop, base: Node, name: str) -> Node:
    """A preference model of people's comparisons of these kinds."""
    config = ComparisonsConfig(pairs=_KINDS[name], held_out_pairs=_KINDS[name], limit=w.sizes.comparisons)
    pairs = w.stage(f"pairs-{name}", pocket_comparisons, config, world=w.world)
    return w.prefer(f"scorer-{name}", base, [pairs], None)
