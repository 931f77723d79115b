"""Hard labels, soft ones, and chains of thought with and without a clamp (Bai et al. 2022, section 4.3).

    publius run studies/labels

One judge labels the same pairs in five ways; each way trains a preference model and a policy. The judge
itself is graded, plain and with thoughts, on pairs whose better answer is known.
"""

from __future__ import annotations

from typing import Any

from publius.constitution.grading import evaluate_judge
from publius.data.pocket.world import ComparisonsConfig, pocket_comparisons
from publius.evals.study import Claim
from publius.pipeline import Recipe
from publius.recipes._workshop import Sizes
from publius.recipes.studies._alignment import aligned
from publius.recipes.studies._wiring import StudyWiring, places

__all__ = ["labels", "wire"]

_SOURCE = "Bai et al. 2022, section 4.3"
_THOUGHT = {"chain_of_thought": True, "thought_tokens": 32}
_ARMS: dict[str, dict[str, Any]] = {
    "hard": {"labels": "hard"},
    "soft": {},
    "thought": {**_THOUGHT, "clamp": "none"},
    "thought 20-80": {**_THOUGHT, "clamp": (0.2, 0.8)},
    "thought 40-60": {**_THOUGHT, "clamp": (0.4, 0.6)},
}


def labels(seeds: int = 3) -> Recipe:
    """Accuracy and calibration of the judge, and leak and helpfulness of the policy, by kind of label."""
    return wire(Sizes(), seeds)


def wire(sizes: Sizes, seeds: int) -> Recipe:
    """The study at any size."""
    study = StudyWiring("study-labels", sizes, seeds)
    for w in study.workshops:
        start = aligned(w)
        pairs = ComparisonsConfig(held_out_pairs=("harm", "alarm"))
        graded = w.stage("graded", pocket_comparisons, pairs, world=w.world)
        for arm, changes in _ARMS.items():
            key = arm.replace(" ", "_")
            judged = w.judging().model_copy(update={k: v for k, v in changes.items() if k != "labels"})
            grading = w.stage(f"judge-{key}", evaluate_judge, judged, judge=start.opus, pairs=graded)
            study.read(w, grading, arm, {"judge accuracy": "judge.accuracy", "judge ECE": "judge.ece"})
            scorers = start.scorers(f"reward-{key}", start.labels(f"labels-{key}", **changes))
            policy = start.reinforce(f"rlcai-{key}", start.slcai, scorers, [start.harmless, start.revisions])
            tested = w.test(f"test-{key}", policy, "model")
            study.read(w, tested, arm, {n: f"model.{n}" for n in ("leak", "helpful", "overrefusal")})
    return study.conclude("Labels", _claims())


def _claims() -> list[Claim]:
    def say(text: str, measure: str, these: str, those: str, direction: Any) -> Claim:
        return Claim(
            text=text, source=_SOURCE, measure=measure, these=places(these), those=places(those),
            direction=direction,
        )  # fmt: skip

    return [
        say("Soft labels are better than hard ones", "leak", "soft", "hard", "lower"),
        say("Thoughts make the judge more accurate", "judge accuracy", "thought", "soft", "higher"),
        say("Unclamped thoughts are overconfident", "judge ECE", "thought", "soft", "higher"),
        say("A clamp of 20-80 is better than none", "leak", "thought 20-80", "thought", "lower"),
        say("A clamp of 40-60 is better still", "leak", "thought 40-60", "thought 20-80", "lower"),
    ]  # fmt: skip
