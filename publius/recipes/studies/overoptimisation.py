"""Overoptimisation: what a policy gains when nothing holds it back, and when the second model may stop it.

    publius run studies/overoptimisation

Against a preference model, without a KL in the reward, without practice beside it and for five times as many
steps as otherwise. The second model saw the other half of the comparisons. It may stop one arm and not the
other; both are then asked what the truth is.
"""

from __future__ import annotations

from publius.evals.study import Claim
from publius.pipeline import Recipe
from publius.recipes._workshop import Sizes
from publius.recipes.studies._alignment import aligned
from publius.recipes.studies._wiring import StudyWiring, places
from publius.rl.overoptimisation import OveroptimisationConfig
from publius.rl.overoptimisation import overoptimisation as compared
from publius.rl.ppo import PPOConfig, ppo

__all__ = ["overoptimisation", "wire"]

_LONGER, _NEVER = 5, 1_000_000
_NUMBERS = (
    "climbed",
    "fell",
    "kept",
    "worse",
    "sqrt_kl.peak",
    "sqrt_kl.end",
    "sqrt_kl.stop",
    "steps",
    "stopped",
)
_TRUTHS = ("leak", "helpful", "overrefusal")
_GAO, _BAI = "Gao et al. 2022, figure 1", "Bai et al. 2022 (2204.05862), section 4.2"


def overoptimisation(seeds: int = 3) -> Recipe:
    """Both preference models against the square root of the KL, with the stop and without."""
    return wire(Sizes(), seeds)


def wire(sizes: Sizes, seeds: int) -> Recipe:
    """The study at any size."""
    study = StudyWiring("study-overoptimisation", sizes, seeds)
    for w in study.workshops:
        start = aligned(w)
        rewards = start.scorers("reward", start.labels("ai_labels"))
        config = PPOConfig(
            steps=_LONGER * sizes.ppo_steps, batch=sizes.ppo_batch, group=sizes.ppo_group, max_tokens=64,
            learning_rate=3e-4, critic_learning_rate=3e-4, beta=0.0, epochs=2, minibatches=2, lam=1.0,
            kl_budget=None, eval_prompts=sizes.feedback_eval_prompts, seed=w.seed,
        )  # fmt: skip
        patience = {"watched": config.check_patience, "unwatched": _NEVER}
        policies = {
            arm: w.stage(
                f"ppo-{arm}", ppo, config.model_copy(update={"check_patience": steps}), policy=start.slcai,
                reward=rewards[0], prompts=start.prompts, reward_check=rewards[1],
            )
            for arm, steps in patience.items()
        }  # fmt: skip
        read = w.stage("overoptimisation", compared, OveroptimisationConfig(), **policies)
        study.read(w, read, "second model", {name: f"over.{name}" for name in _NUMBERS})
        for arm, policy in {"start": start.slcai, **policies}.items():
            tested = w.test(f"test-over-{arm}", policy, "model")
            study.read(w, tested, arm, {name: f"model.{name}" for name in _TRUTHS})
    return study.conclude("Overoptimisation", _claims(), units=dict.fromkeys(_NUMBERS, "number"))


def _claims() -> list[Claim]:
    """Of contrasts between the arms by truth; what the models say of each other is read beside them."""
    watched, unwatched = places("watched"), places("unwatched")
    return [
        Claim(
            text="Past some KL, truth falls while the reward rises: who is stopped is more helpful",
            source=_GAO, measure="helpful", direction="higher", these=watched, those=unwatched,
        ),
        Claim(
            text="Who is stopped refuses fewer harmless requests",
            source=_BAI, measure="overrefusal", direction="lower", these=watched, those=unwatched,
        ),
    ]  # fmt: skip
