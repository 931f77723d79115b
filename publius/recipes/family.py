"""The larger tier teaches the smaller: what a critic, a judge and a teacher of another size are worth.

    publius run family                        # half an hour on two cores; less where quickstart was run
    publius run family --set size=tiny        # every stage, nothing learned: what the tests run

Two arms of Constitutional AI that differ in one thing: `opus` criticises and judges, or `haiku` does it
itself. And three ways to make the helpful-only model, of equal length: from demonstrations, from answers that
opus wrote to prompts that opus wrote, and from opus's distribution over the demonstrations. Every model is
asked the same held-out questions, so that differences are paired.
"""

from __future__ import annotations

from typing import Literal

from publius.constitution.revise import revise
from publius.core.config import Seed
from publius.evals.compare import ContrastConfig, contrast
from publius.pipeline import Node, Recipe
from publius.recipes._workshop import Sizes, Workshop
from publius.recipes.smoke import SMALLEST
from publius.training.distill import DistillConfig, distill
from publius.training.teach import InventConfig, TeachConfig, invent_prompts, teach_answers

__all__ = ["family"]

_MEASURED = ("leak", "helpful", "overrefusal")
_TAUGHT = ("fact", "craft")
"""What opus can teach by demonstration: it has read no sums, and shows no tools."""


def family(size: Literal["small", "tiny"] = "small", seed: Seed = 0) -> Recipe:
    """Opus-taught haiku beside self-taught haiku, and three ways to teach by demonstration."""
    sizes = SMALLEST if size == "tiny" else Sizes()
    r = Recipe("family", jobs=1 if size == "tiny" else 2)
    w = Workshop(r, sizes, seed)
    worded = w.worded_shards()
    haiku = w.haiku()
    opus = w.opus(worded)
    obliging = w.demonstrations("demonstrations")
    helpful = w.tune("sft", haiku, [obliging])
    test_helpful = w.test("test_sft", helpful, "sft")
    _demonstrated(w, haiku, opus, obliging, test_helpful, invented=24 if size == "tiny" else 6000)
    tests = _aligned(w, haiku, opus, helpful)
    taught = r.stage(
        "opus_against_self",
        contrast,
        ContrastConfig(name="taught"),
        first=tests["self"],
        second=tests["opus"],
    )
    for metric in _MEASURED:
        r.publish(f"sft.{metric}", test_helpful, f"sft.{metric}")
        for name, test in tests.items():
            r.publish(f"{name}.{metric}", test, f"{name}.{metric}")
        r.publish(f"taught.{metric}", taught, f"taught.{metric}")
    return r


def _aligned(w: Workshop, haiku: Node, opus: Node, helpful: Node) -> dict[str, Node]:
    """Constitutional AI twice: evaluations of the policies, by who criticised and judged."""
    sizes = w.sizes
    harmless = w.demonstrations("harmless_demonstrations", without=("hazard",))
    asked = w.prompts("prompts", sizes.cai_prompts)
    posed, harmful = (
        w.prompts("rl_prompts", sizes.rl_prompts),
        w.prompts("label_prompts", sizes.label_prompts),
    )
    people = w.people("human_labels")
    known = w.export("redteam_prompts", sizes.known_prompts, [w.attack("redteam0", 0, helpful)])
    tests: dict[str, Node] = {}
    for name, teacher in (("opus", opus), ("self", haiku)):
        revisions = w.stage(
            f"{name}_revisions", revise, w.revising(), policy=helpful, critic=teacher, prompts=asked
        )
        slcai = w.tune(f"{name}_slcai", haiku, [harmless, revisions], (1.0, 2.0))
        labels = [w.label(f"{name}_labels", slcai, teacher, harmful, [helpful, helpful]), people]
        rewards = w.prefer(f"{name}_reward", slcai, labels, 0), w.prefer(f"{name}_check", slcai, labels, 1)
        final = w.reinforce(
            f"{name}_rlcai", slcai, rewards, [posed, known], [harmless, revisions], judge=teacher,
            steps=sizes.ppo_steps, eval_prompts=sizes.ppo_eval_prompts,
        )  # fmt: skip
        tests[name] = w.test(f"test_{name}", final, name)
    return tests


def _demonstrated(
    w: Workshop, haiku: Node, opus: Node, obliging: Node, test_helpful: Node, invented: int
) -> None:
    """Helpful-only haikus that learned from opus, each beside the one that learned from demonstrations."""
    r = w.r
    teacher = w.tune("opus_sft", opus, [obliging])
    test_teacher = w.test("test_opus_sft", teacher, "teacher")
    for kind in _TAUGHT:
        r.publish(f"teacher.helpful.{kind}", test_teacher, f"teacher.helpful.{kind}")
        r.publish(f"sft.helpful.{kind}", test_helpful, f"sft.helpful.{kind}")

    inventing = InventConfig(prompts=invented, max_tokens=64, seed=w.seed)
    asked = r.stage("opus_prompts", invent_prompts, inventing, teacher=opus, examples=obliging)
    answering = TeachConfig(max_tokens=96, seed=w.seed)
    answers = r.stage("opus_answers", teach_answers, answering, teacher=teacher, prompts=asked)
    written = w.tune("written", haiku, [answers])

    learning = DistillConfig(**dict(w.tuning_config()), share=0.5, temperature=2.0)
    softened = r.stage("distilled", distill, learning, base=haiku, teacher=teacher, chats=[obliging])
    r.publish("distilled.kl", softened, "val_kl")

    for name, model in (("written", written), ("distilled", softened)):
        test = w.test(f"test_{name}", model, name)
        against = r.stage(
            f"{name}_against_sft",
            contrast,
            ContrastConfig(name=f"{name}_gain", kinds=_TAUGHT),
            first=test_helpful,
            second=test,
        )
        for kind in _TAUGHT:
            r.publish(f"{name}.helpful.{kind}", test, f"{name}.helpful.{kind}")
        r.publish(f"{name}.gain", against, f"{name}_gain.helpful")
