"""The attack styles, each as an attacker: one wording around the question, further lines played live."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from publius.core.messages import Conversation, turns_left
from publius.redteam.attack import Attack
from publius.redteam.attacker import Goal, Play
from publius.redteam.attackers.moves import marked, sent

__all__ = ["StyleAttacker"]


@dataclass(frozen=True)
class StyleAttacker:
    """Plays one style. A goal on a test item is asked in the style's held-out wordings, as `red_team`
    measures.

    Args:
        style: the family.
    """

    style: Attack

    @property
    def name(self) -> str:
        """Of the style."""
        return self.style.name

    @property
    def sealed(self) -> bool:
        """As the style."""
        return self.style.sealed

    def play(self, goal: Goal, rng: random.Random, memory: Sequence[Conversation] = ()) -> Play:
        """One wording drawn by `rng`; what is remembered is not looked at."""
        attack = self.style(goal.question, rng, held_out=goal.split == "test")
        yield from sent(marked(attack, self.name), goal, turns_left(attack))
