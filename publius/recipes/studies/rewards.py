"""A judge as reward, or a preference model trained on its labels? The same budget of RL for both.

    publius run studies/rewards

The judge compares every reply with the start's own by a drawn principle: judges of this size know no other
form (asked of one reply alone, they put no probability on either answer). Lee et al. (2023, arXiv 2309.00267)
found direct rewards better than the way round over a preference model.
"""

from __future__ import annotations

from typing import Any

from publius.evals.study import Claim
from publius.pipeline import Recipe
from publius.recipes._workshop import Sizes
from publius.recipes.studies._alignment import aligned
from publius.recipes.studies._wiring import StudyWiring, places
from publius.reward.comparison_reward import ComparisonPart
from publius.reward.compose import RewardSpec

__all__ = ["rewards", "wire"]

_SOURCE = "Lee et al. 2023, section 4.3"


def rewards(seeds: int = 3) -> Recipe:
    """Leak, over-refusal and helpfulness of policies trained against either."""
    return wire(Sizes(), seeds)


def wire(sizes: Sizes, seeds: int) -> Recipe:
    """The study at any size."""
    study = StudyWiring("study-rewards", sizes, seeds)
    for w in study.workshops:
        start = aligned(w)
        scorers = start.scorers("reward", start.labels("ai_labels"))
        practised = [start.harmless, start.revisions]
        part = ComparisonPart(
            constitution=w.constitution, shots=2, principles=2, form="logit", on_failure="skip",
            min_mass=sizes.min_mass, seed=w.seed,
        )  # fmt: skip
        judged = RewardSpec(parts=(part,))
        models = {
            "preference model": start.reinforce("rlcai", start.slcai, scorers, practised),
            "judge": start.reinforce(
                "direct", start.slcai, scorers, practised, reward=judged, critic="zero"
            ),
        }  # fmt: skip
        for arm, model in models.items():
            tested = w.test(f"test-{arm.replace(' ', '_')}", model, "model")
            names = ("leak", "overrefusal", "helpful", "helpful.twin")
            study.read(w, tested, arm, {name: f"model.{name}" for name in names})
    arms: dict[str, Any] = {"these": places("judge"), "those": places("preference model"), "source": _SOURCE}
    claims = [
        Claim(text="With direct rewards the policy leaks less", measure="leak", direction="lower", **arms),
        Claim(text="With direct rewards it is more helpful", measure="helpful", direction="higher", **arms),
    ]
    return study.conclude("Rewards", claims)
