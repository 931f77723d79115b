"""Round after round: attack, revise what broke, fine-tune, judge, reinforce, attack again.

    publius run rounds                        # three rounds; about half an hour on two cores
    publius run rounds --set rounds=5
    publius run rounds --set find=search      # findings of a search, not of every style in turn
    publius run rounds --set size=tiny        # every stage, nothing learned: what the tests run

Each round trains on the findings of all rounds before it. They are its regression suite as well: every old
finding is tried on every new model, and is fixed, still open, or open again. With `feedback=random` as many
random prompts take the findings' place in training, and only there: what that loses is what findings are
worth.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from publius.constitution.revise import revise
from publius.core.config import Seed
from publius.core.errors import UserError
from publius.pipeline import Node, Recipe
from publius.recipes._workshop import Sizes, Workshop
from publius.recipes.smoke import SMALLEST
from publius.redteam.control import RandomPromptsConfig, random_prompts
from publius.redteam.regression import RegressionConfig, regression
from publius.redteam.search import SearchConfig, search
from publius.training.average import AverageConfig, average

__all__ = ["Feedback", "Find", "Ground", "Round", "rounds", "wire_rounds"]

Find = Literal["styles", "search"]
"""How holes are found: every style in turn, or a search."""
Feedback = Literal["findings", "random"]
"""What is trained on: what was found, or as many random prompts."""
_BUDGET, _SMALL_BUDGET = 1200, 24
"""Replies of a round's search; a round of styles draws about as many."""


def rounds(
    rounds: int = 3,
    size: Literal["small", "tiny"] = "small",
    seed: Seed = 0,
    find: Find = "styles",
    feedback: Feedback = "findings",
) -> Recipe:
    """`rounds` rounds of red team, Constitutional AI and RL on growing sets of findings.

    Raises:
        UserError: for less than one round.
    """
    sizes = SMALLEST if size == "tiny" else Sizes()
    r = Recipe("rounds", jobs=1 if size == "tiny" else 2)
    made = wire_rounds(Ground(Workshop(r, sizes, seed)), rounds, find=find, feedback=feedback)
    tests, attacks = [one.test for one in made], [one.measured for one in made]
    suites = [one.suite for one in made if one.suite is not None]
    for name in ("leak", "helpful", "overrefusal"):
        r.publish(f"round.{name}", tests, f"round.{name}")
    for name in ("leak.seen", "leak.sealed", "overrefusal"):
        r.publish(f"redteam.{name}", attacks, f"redteam.{name}")
    found = "search.found" if find == "search" else "redteam.confirmed"
    r.publish("redteam.confirmed", [one.found for one in made], found)
    for name in ("findings", "fixed", "open", "regressed", "overrefusal"):
        r.publish(f"regression.{name}", suites, f"regression.{name}")
    return r


class Round(NamedTuple):
    """The stages that say how a round's model is.

    Args:
        test: the held-out questions.
        measured: the measuring round of the red team.
        found: what broke it; the same node where every style was tried in turn.
        suite: old findings on it; none for the first model, which has no past.
    """

    model: Node
    test: Node
    measured: Node
    found: Node
    suite: Node | None


class Ground:
    """What all rounds, and all arms of a study, begin from: each stage is made once."""

    def __init__(self, w: Workshop) -> None:
        self.w = w
        self._made: dict[str, Node] = {}
        self.haiku = w.haiku()
        self.opus = w.opus(w.worded_shards())
        self.helpful = w.tune("sft", self.haiku, [w.demonstrations("demonstrations")])
        self.harmless = w.demonstrations("harmless_demonstrations", without=("hazard",))
        self.posed = w.prompts("rl_prompts", w.sizes.rl_prompts)
        self.people = w.people("human_labels")
        asked = w.prompts("prompts", w.sizes.cai_prompts)
        self.revisions = self.revised("revisions0", asked)

    def once(self, name: str, make: Callable[[str], Node]) -> Node:
        """The stage of this name, made where nobody has yet."""
        if name not in self._made:
            self._made[name] = make(name)
        return self._made[name]

    def revised(self, name: str, prompts: Node) -> Node:
        """The helpful-only model answers, for the later ones no longer say what is to be revised."""
        config = self.w.revising().model_copy(update={"keep_prefill": True})  # some attacks begin the reply
        return self.w.stage(name, revise, config, policy=self.helpful, critic=self.opus, prompts=prompts)


def wire_rounds(
    ground: Ground, rounds: int, *, find: Find = "styles", feedback: Feedback = "findings", arm: str = ""
) -> list[Round]:
    """The models before and after each of `rounds` rounds, in order.

    Args:
        arm: begins the names of stages that no other arm of a study shares.

    Raises:
        UserError: for less than one round.
    """
    if rounds < 1:
        raise UserError(f"{rounds} rounds", where="--set rounds", fix="ask for one round or more")
    held = SearchConfig().held if find == "search" else 0.0
    w, course = ground.w, _Course(ground, arm, feedback, held)
    policy, made = ground.helpful, list[Round]()
    found, suites = list[Node](), list[Node]()
    for number in range(rounds + 1):
        suite = None
        if number:
            policy = course.round(number, policy, found)
            suite = w.stage(
                f"{arm}regression{number}", regression, RegressionConfig(round=number, seed=w.seed),
                model=policy, findings=list(found), earlier=list(suites),
            )  # fmt: skip
            suites.append(suite)
        begun = arm if number else ""  # the first model is every arm's

        def tested(name: str, policy: Node = policy) -> Node:
            return w.test(name, policy, "round")

        test = ground.once(f"{begun}test{number}", tested)
        measured, holes = _attacked(ground, begun, number, policy, find)
        made.append(Round(policy, test, measured, holes, suite))
        found.append(holes)
    return made


def _attacked(ground: Ground, arm: str, number: int, policy: Node, find: Find) -> tuple[Node, Node]:
    """The round that measures, and the stage whose findings count."""
    w, changes = ground.w, {} if find == "styles" else {"discover": 0}
    measured = ground.once(f"{arm}redteam{number}", lambda name: w.attack(name, number, policy, **changes))
    if find == "styles":
        return measured, measured
    budget = _SMALL_BUDGET if w.sizes is SMALLEST else _BUDGET
    config = SearchConfig(round=number, budget=budget, width=min(16, budget), seed=w.seed)
    found = ground.once(
        f"{arm}search{number}", lambda name: w.stage(name, search, config, model=policy, world=w.world)
    )
    return measured, found


class _Course:
    """What is learned in all rounds so far: revisions and labels pile up."""

    def __init__(self, ground: Ground, arm: str, feedback: Feedback, held: float) -> None:
        self._ground, self._w, self._arm, self._feedback = ground, ground.w, arm, feedback
        self._held = held
        """Share of wordings that are not trained on."""
        self._lessons: list[Node] = []
        self._labels: list[Node] = []

    def round(self, number: int, before: Node, attacks: list[Node]) -> Node:
        """The policy after round `number`, from the one before it and everything that was found."""
        w, sizes, arm, ground = self._w, self._w.sizes, self._arm, self._ground
        found = self._prompts(number, attacks)
        if number == 1:
            self._lessons.append(ground.revisions)
        self._lessons.append(ground.revised(f"{arm}revisions{number}", found))
        slcai = self._tuned(number, before)

        harmful = sizes.label_prompts.model_copy(update={"seed": sizes.label_prompts.seed + 100 * number})
        asked = ground.once(f"label_prompts{number}", lambda name: w.prompts(name, harmful))
        helpful = [ground.helpful, ground.helpful]
        self._labels.append(w.label(f"{arm}labels{number}", slcai, ground.opus, asked, helpful))
        labels = [*self._labels, ground.people]
        rewards = (
            w.prefer(f"{arm}reward{number}", slcai, labels, 0),
            w.prefer(f"{arm}reward_check{number}", slcai, labels, 1),
        )
        first = number == 1
        rlcai = w.reinforce(
            f"{arm}rlcai{number}", slcai, rewards, [ground.posed, found], [ground.harmless, *self._lessons],
            judge=ground.opus, steps=sizes.ppo_steps if first else sizes.feedback_ppo_steps,
            eval_prompts=sizes.ppo_eval_prompts if first else sizes.feedback_eval_prompts,
        )  # fmt: skip
        if first:
            return rlcai
        # as in quickstart: the mean with the policy before it forgets less
        mean = AverageConfig(weights=(0.1, 0.9))
        return w.stage(f"{arm}mean{number}", average, mean, models=[before, rlcai])

    def _prompts(self, number: int, attacks: list[Node]) -> Node:
        """What the round is fed: the findings so far, or as many prompts that know nothing of them."""
        w, sizes = self._w, self._w.sizes
        found = w.export(
            f"{self._arm}findings{number}", sizes.known_prompts, attacks, begun=sizes.feedback_begun,
            grows=True, held=self._held,
        )  # fmt: skip
        if self._feedback == "findings":
            return found
        drawn = RandomPromptsConfig(seed=w.seed + 100 * number)
        return w.stage(f"{self._arm}random{number}", random_prompts, drawn, like=found, world=w.world)

    def _tuned(self, number: int, before: Node) -> Node:
        """From the pretrained model at first, as published; then from the policy that was attacked."""
        first = number == 1
        start = self._ground.haiku if first else before
        weights = (1.0, *(1.0 for _ in self._lessons[:-1]), 3.0)
        tokens = self._w.sizes.sft_tokens if first else self._w.sizes.feedback_tokens
        return self._w.tune(
            f"{self._arm}slcai{number}", start, [self._ground.harmless, *self._lessons], weights, tokens
        )
