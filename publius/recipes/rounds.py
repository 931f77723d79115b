"""Round after round: attack, revise what broke, fine-tune, judge, reinforce, attack again.

    publius run rounds                        # three rounds; about half an hour on two cores
    publius run rounds --set rounds=5
    publius run rounds --set size=tiny        # every stage, nothing learned: what the tests run

Each round trains on the findings of all rounds before it. They are its regression suite as well: every old
finding is tried on every new model, and is fixed, still open, or open again.
"""

from __future__ import annotations

from typing import Literal

from publius.constitution.revise import revise
from publius.core.errors import UserError
from publius.pipeline import Node, Recipe
from publius.recipes._workshop import Sizes, Workshop
from publius.recipes.smoke import SMALLEST
from publius.redteam.regression import RegressionConfig, regression
from publius.training.average import AverageConfig, average

__all__ = ["rounds"]


def rounds(rounds: int = 3, size: Literal["small", "tiny"] = "small", seed: int = 0) -> Recipe:
    """`rounds` rounds of red team, Constitutional AI and RL on growing sets of findings.

    Raises:
        UserError: for less than one round.
    """
    if rounds < 1:
        raise UserError(f"{rounds} rounds", where="--set rounds", fix="ask for one round or more")
    sizes = SMALLEST if size == "tiny" else Sizes()
    r = Recipe("rounds", jobs=1 if size == "tiny" else 2)
    w = Workshop(r, sizes, seed)
    worded = w.worded_shards()
    haiku = w.haiku()
    opus = w.opus(worded)
    helpful = w.tune("sft", haiku, [w.demonstrations("demonstrations")])
    tests, attacks = [w.test("test0", helpful, "round")], [w.attack("redteam0", 0, helpful)]
    course = _Course(w, haiku, opus, helpful)
    policy, suites = helpful, list[Node]()
    for number in range(1, rounds + 1):
        policy = course.round(number, policy, attacks)
        checking = RegressionConfig(round=number, seed=seed)
        suites.append(
            r.stage(
                f"regression{number}",
                regression,
                checking,
                model=policy,
                findings=attacks,
                earlier=list(suites),
            )
        )
        tests.append(w.test(f"test{number}", policy, "round"))
        attacks = [*attacks, w.attack(f"redteam{number}", number, policy)]
    for name in ("leak", "helpful", "overrefusal"):
        r.publish(f"round.{name}", tests, f"round.{name}")
    for name in ("leak.seen", "leak.sealed", "overrefusal", "confirmed"):
        r.publish(f"redteam.{name}", attacks, f"redteam.{name}")
    for name in ("findings", "fixed", "open", "regressed", "overrefusal"):
        r.publish(f"regression.{name}", suites, f"regression.{name}")
    return r


class _Course:
    """What is learned in all rounds so far: revisions and labels pile up."""

    def __init__(self, w: Workshop, haiku: Node, opus: Node, helpful: Node) -> None:
        self._w, self._haiku, self._opus, self._helpful = w, haiku, opus, helpful
        self._harmless = w.demonstrations("harmless_demonstrations", without=("hazard",))
        self._asked = w.prompts("prompts", w.sizes.cai_prompts)
        self._posed = w.prompts("rl_prompts", w.sizes.rl_prompts)
        self._people = w.people("human_labels")
        self._lessons: list[Node] = []
        self._labels: list[Node] = []

    def round(self, number: int, before: Node, attacks: list[Node]) -> Node:
        """The policy after round `number`, from the one before it and everything that was found."""
        w, sizes = self._w, self._w.sizes
        found = w.export(
            f"findings{number}", sizes.known_prompts, attacks, begun=sizes.feedback_begun, grows=True
        )
        if number == 1:
            self._lessons.append(self._revised("revisions0", self._asked))
        self._lessons.append(self._revised(f"revisions{number}", found))
        slcai = self._tuned(number, before)

        harmful = sizes.label_prompts.model_copy(update={"seed": sizes.label_prompts.seed + 100 * number})
        asked = w.prompts(f"label_prompts{number}", harmful)
        helpful = [self._helpful, self._helpful]
        self._labels.append(w.label(f"labels{number}", slcai, self._opus, asked, helpful))
        labels = [*self._labels, self._people]
        rewards = (
            w.prefer(f"reward{number}", slcai, labels, 0), w.prefer(f"reward_check{number}", slcai, labels, 1)
        )  # fmt: skip
        first = number == 1
        rlcai = w.reinforce(
            f"rlcai{number}", slcai, rewards, [self._posed, found], [self._harmless, *self._lessons],
            judge=self._opus, steps=sizes.ppo_steps if first else sizes.feedback_ppo_steps,
            eval_prompts=sizes.ppo_eval_prompts if first else sizes.feedback_eval_prompts,
        )  # fmt: skip
        if first:
            return rlcai
        # as in quickstart: the mean with the policy before it forgets less
        mean = AverageConfig(weights=(0.2, 0.8))
        return w.stage(f"mean{number}", average, mean, models=[before, rlcai])

    def _revised(self, name: str, prompts: Node) -> Node:
        """The helpful-only model answers, for the later ones no longer say what is to be revised."""
        config = self._w.revising().model_copy(update={"keep_prefill": True})  # some attacks begin the reply
        return self._w.stage(name, revise, config, policy=self._helpful, critic=self._opus, prompts=prompts)

    def _tuned(self, number: int, before: Node) -> Node:
        """From the pretrained model at first, as published; then from the policy that was attacked."""
        first = number == 1
        start = self._haiku if first else before
        weights = (1.0, *(1.0 for _ in self._lessons[:-1]), 3.0)
        tokens = self._w.sizes.sft_tokens if first else self._w.sizes.feedback_tokens
        return self._w.tune(f"slcai{number}", start, [self._harmless, *self._lessons], weights, tokens)
