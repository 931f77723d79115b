"""Critique and revise, or revise at once? At three sizes of critic (Bai et al. 2022, figure 7).

publius run studies/critiques
"""

from __future__ import annotations

from publius.constitution.revise import revise
from publius.data.pocket.world import ComparisonsConfig, pocket_comparisons
from publius.evals.revisions import ScoreRevisionsConfig, score_revisions
from publius.evals.study import Claim
from publius.pipeline import Recipe
from publius.recipes._workshop import Sizes
from publius.recipes.studies._wiring import StudyWiring, places

__all__ = ["critiques", "wire"]

_SOURCE = "Bai et al. 2022, section 3.5, figure 7"
_CRITICS = ((96, 3), (160, 4), (224, 4))
_ARMS = {"critiqued": True, "direct": False}


def critiques(seeds: int = 3) -> Recipe:
    """Harmlessness and leaks of revisions, with a critique first and without."""
    return wire(Sizes(), seeds)


def wire(sizes: Sizes, seeds: int, critics: tuple[tuple[int, int], ...] = _CRITICS) -> Recipe:
    """The study at any size; `critics` are widths and layers, smallest first."""
    study = StudyWiring("study-critiques", sizes, seeds)
    for w in study.workshops:
        helpful = w.tune("sft", w.haiku(), [w.demonstrations("demonstrations")])
        shards, prompts = w.worded_shards(), w.prompts("prompts", sizes.cai_prompts)
        harm = ComparisonsConfig(pairs=("harm",), held_out_pairs=("harm",), limit=sizes.comparisons)
        pairs = w.stage("pairs", pocket_comparisons, harm, world=w.world)
        scorer = w.prefer("scorer", helpful, [pairs], None)
        for size in critics:
            critic = w.pretrained(f"critic{size[0]}", size, sizes.opus_tokens, shards)
            for arm, critique in _ARMS.items():
                config = w.revising().model_copy(update={"critique": critique})
                name = f"{arm}{size[0]}"
                revised = w.stage(name, revise, config, policy=helpful, critic=critic, prompts=prompts)
                scored = w.stage(
                    f"{name}-scored", score_revisions, ScoreRevisionsConfig(names=("harmless",)),
                    revisions=revised, rewards=[scorer],
                )  # fmt: skip
                measured = {name: f"revision.last.{name}" for name in ("harmless", "leak", "overrefusal")}
                study.read(w, scored, arm, measured, x=size[0])
    small, large = critics[0][0], critics[-1][0]
    claims = [
        Claim(text="In small models critiqued revisions are more harmless than direct ones", source=_SOURCE,
              measure="harmless", these=places("critiqued", at=(small,)), those=places("direct", at=(small,)),
              direction="higher"),
        Claim(text="In large models the two do not differ noticeably", source=_SOURCE, measure="harmless",
              these=places("critiqued", at=(large,)), those=places("direct", at=(large,)), direction="same",
              margin=0.25),
        Claim(text="Larger critics make answers more harmless", source=_SOURCE, measure="harmless",
              these=places(*_ARMS, at=(large,)), those=places(*_ARMS, at=(small,)), direction="higher"),
    ]  # fmt: skip
    return study.conclude("Critiques", claims, x_label="width of the critic", units={"harmless": "number"})
