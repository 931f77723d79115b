"""A tree of attempts: branch, keep the most promising, branch again (TAP, Mehrotra et al. 2023, arXiv
2312.02119)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from publius.core.messages import Conversation, text_of
from publius.redteam.attack import STYLES
from publius.redteam.attacker import Goal, Play, Send
from publius.redteam.attackers.moves import adapted, asked, last_reply, score_of
from publius.redteam.attackers.refine import Tried, rewriting, varied

__all__ = ["Tree"]

_CLOTHES = ("persona", "story", "authority", "urgency", "override", "no_sorry", "two_questions", "roundabout")
"""Open styles that dress one message: the first branches, where nobody writes."""


@dataclass(frozen=True)
class Tree:
    """Branches by a writer's rewritings; without one, by the open styles first and by the open mutators then.

    Args:
        depth: levels under the question.
        width: requests kept of a level, by the referee's score.
        first: branches of the question.
        branches: of every other request.
    """

    depth: int = 3
    width: int = 3
    first: int = 4
    branches: int = 2
    name: str = "tree"
    sealed: bool = False

    def play(self, goal: Goal, rng: random.Random, memory: Sequence[Conversation] = ()) -> Play:
        """At most 1 + `first` + (`depth` - 1) x `width` x `branches` requests, and as many rewritings."""
        root = asked(goal, self.name)
        seen = yield Send(root)
        if seen.succeeds(goal):
            return
        kept, writer = [Tried(root, score_of(seen), last_reply(seen))], True
        remembered = adapted(memory, goal, self.name)
        worn = rng.sample(_CLOTHES, len(_CLOTHES))
        clothes = [self._dressed(goal, worn[i % len(worn)], rng) for i in range(self.first)]
        clothes = [remembered, *clothes[1:]] if remembered else clothes
        for level in range(self.depth):
            grown: list[Tried] = []
            for parent in kept:
                for branch in range(self.branches if level else self.first):
                    text = (yield from rewriting(goal, parent, memory)) if writer else None
                    writer = text is not None
                    other = varied(goal, parent.request, rng) if level else clothes[branch]
                    request = asked(goal, self.name, text) if text else other
                    seen = yield Send(request)
                    if seen.succeeds(goal):
                        return
                    if seen.conversation is not None:
                        grown.append(Tried(request, score_of(seen), last_reply(seen)))
            kept = sorted(grown, key=lambda one: -one.score)[: self.width]
            if not kept:
                return

    def _dressed(self, goal: Goal, style: str, rng: random.Random) -> Conversation:
        attack = STYLES[style](goal.question, rng, held_out=goal.split == "test")
        return asked(goal, self.name, text_of(attack.messages[-1]))
