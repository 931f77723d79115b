"""What studies of alignment begin with: the pieces of `quickstart` up to its first round of RL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from publius.constitution.revise import revise
from publius.pipeline import Node
from publius.recipes._workshop import Workshop

__all__ = ["Aligned", "aligned"]


class Aligned(NamedTuple):
    """Stages of one seed."""

    w: Workshop
    opus: Node
    helpful: Node
    slcai: Node
    harmless: Node
    """Demonstrations without hazards."""
    revisions: Node
    prompts: tuple[Node, Node]
    """Of RL: questions, and what the attack on the helpful-only model found."""

    def labels(self, name: str, **changes: Any) -> list[Node]:
        """Labels of harm by AI, with these changes of their config, and of helpfulness by people."""
        sizes, w = self.w.sizes, self.w
        asked = w.prompts(f"{name}-prompts", sizes.label_prompts)
        by_ai = w.label(name, self.slcai, self.opus, asked, [self.helpful] * 2, **changes)
        return [by_ai, w.people(f"{name}-people")]

    def scorers(self, name: str, labels: Sequence[Node]) -> tuple[Node, Node]:
        """A preference model of each half of the labels."""
        return self.w.prefer(name, self.slcai, labels, 0), self.w.prefer(
            f"{name}-check", self.slcai, labels, 1
        )

    def reinforce(
        self, name: str, policy: Node, scorers: tuple[Node, Node], practised: Sequence[Node], **changes: Any
    ) -> Node:
        """The first round of RL."""
        sizes = self.w.sizes
        return self.w.reinforce(
            name, policy, scorers, self.prompts, practised, judge=self.opus, steps=sizes.ppo_steps,
            eval_prompts=sizes.ppo_eval_prompts, **changes,
        )  # fmt: skip


def aligned(w: Workshop) -> Aligned:
    """Wire them into the recipe of `w`."""
    sizes = w.sizes
    haiku, opus = w.haiku(), w.opus(w.worded_shards())
    helpful = w.tune("sft", haiku, [w.demonstrations("demonstrations")])
    harmless = w.demonstrations("harmless_demonstrations", without=("hazard",))
    asked = w.prompts("prompts", sizes.cai_prompts)
    revised = w.stage("revisions", revise, w.revising(), policy=helpful, critic=opus, prompts=asked)
    slcai = w.tune("slcai", haiku, [harmless, revised], (1.0, 2.0))
    posed = w.prompts("rl_prompts", sizes.rl_prompts)
    known = w.export("redteam_prompts", sizes.known_prompts, [w.attack("redteam0", 0, helpful)])
    return Aligned(w, opus, helpful, slcai, harmless, revised, (posed, known))
